"""Comparisons as a command line asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgecollapse.compare import Choices, Comparison
from surgecollapse.compare import prepare as prepare_choices


def prepare(suite: str, out: Path, *, known_suites: Any = None, known_methods: Any = None, **chosen: Any) -> Comparison:
    """The comparison of these choices."""
    known = {"known_suites": known_suites, "known_methods": known_methods}
    return prepare_choices(
        suite, out, Choices(**chosen), **{name: those for name, those in known.items() if those is not None}
    )
