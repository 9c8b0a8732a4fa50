"""``list``: the names that the other commands take."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING

from surgecollapse.cli.output import say, write_table
from surgecollapse.errors import one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WIDTH = 100


def list_names(kind: str | None = None, /) -> int:
    """List the names that commands take: tasks, experiments, models, policies and so on.

    Args:
        kind: One of the kinds, to see what each name stands for; by default the names of all kinds.
    """
    if kind is not None:
        found = KINDS[one_of("kind of name", kind, KINDS)]()
        write_table(["name", "what it is"], list(found.items()))
        return 0
    for what, names in KINDS.items():
        words = list(names())
        if what == "keys":
            say(f"\n{what} ({len(words)}): see `surgecollapse list keys`")
            continue
        say(f"\n{what} ({len(words)})")
        say(
            textwrap.fill(", ".join(words), _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        )
    say("\n`surgecollapse list KIND` says what they are.")
    return 0


def _first_lines(parts: Mapping[str, object]) -> dict[str, str]:
    """First line of each docstring, without what it refers to."""
    lines = {name: (inspect.getdoc(part) or "").partition("\n")[0] for name, part in parts.items()}
    return {name: re.sub(r", see :\w+:.*", ".", line).replace("``", "") for name, line in lines.items()}


def _tasks() -> dict[str, str]:
    from surgecollapse.lab.tasks.registry import TASKS

    return _first_lines({name: TASKS.find(name) for name in TASKS.names()})


def _experiments() -> dict[str, str]:
    from surgecollapse.lab.config.experiments import experiments

    firsts = {name: path.read_text(encoding="utf-8").partition("\n")[0] for name, path in experiments().items()}
    return {name: first.removeprefix(f"# {name}:").strip("# ") for name, first in firsts.items()}


def _models() -> dict[str, str]:
    from surgecollapse.lab.models.registry import MODELS

    return _first_lines(MODELS)


def _policies() -> dict[str, str]:
    from surgecollapse.policies import POLICIES

    return {**_first_lines({name: POLICIES.find(name) for name in POLICIES.names()}), "none": "No controller at all."}


def _methods() -> dict[str, str]:
    from surgecollapse.compare.methods import METHODS

    return {name: method.description for name, method in METHODS.items()}


def _suites() -> dict[str, str]:
    from surgecollapse.compare.suites import SUITES

    return {name: suite.description for name, suite in SUITES.items()}


def _optimizers() -> dict[str, str]:
    from surgecollapse.lab.config.keys import FAMILIES

    return _first_lines(FAMILIES["optimizer"].named)


def _monitors() -> dict[str, str]:
    from surgecollapse.observe.monitors import MONITORS

    return _first_lines({name: MONITORS.find(name) for name in MONITORS.names()})


def _criteria() -> dict[str, str]:
    from surgecollapse.functional.criteria.registry import SALIENCY

    return _first_lines({name: SALIENCY.find(name) for name in SALIENCY.names()})


def _analyses() -> dict[str, str]:
    from surgecollapse.report.analyses.registry import ANALYSES, TITLES

    names = ANALYSES.names()
    return {name: TITLES.get(name, "from another package") for name in names}


def _trackers() -> dict[str, str]:
    from surgecollapse.trackers.registry import TRACKERS

    return _first_lines({name: TRACKERS.find(name) for name in TRACKERS.names()})


def _keys() -> dict[str, str]:
    from surgecollapse.lab.config.keys import KEYS

    return {f"{section}.{name}": field.description or "" for name, (section, field) in KEYS.items()}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "tasks": _tasks,
    "experiments": _experiments,
    "models": _models,
    "policies": _policies,
    "methods": _methods,
    "suites": _suites,
    "optimizers": _optimizers,
    "monitors": _monitors,
    "criteria": _criteria,
    "analyses": _analyses,
    "trackers": _trackers,
    "keys": _keys,
}
"""Kinds of names; each gives the names, with one line on each."""
