"""The analyses by name. A new analysis is a new file in this package, with ``@analysis("its-name", "Its title")``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from surgecollapse.plugins import Registry

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun
    from surgecollapse.report.analyses.result import AnalysisResult

ANALYSES: Registry[Callable[[Sequence[LoadedRun]], list[AnalysisResult]]] = Registry(
    "analyses", "analysis", "surgecollapse.report.analyses"
)
"""Analyses by name: each takes the loaded runs, and gives findings.

One raises :class:`~surgecollapse.report.analyses.result.NotApplicable` (or another ``ValueError``) where it has nothing
to say.
"""
TITLES: dict[str, str] = {}
"""Title of the section of each analysis, by name."""

Own = TypeVar("Own")


def analysis(name: str, title: str) -> Callable[[Own], Own]:
    """Give an analysis its name, and its section a title."""
    TITLES[name] = title
    return ANALYSES(name)
