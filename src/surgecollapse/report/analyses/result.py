"""What an analysis hands back."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surgecollapse.report.analyses.loaded_run import LoadedRun


_NO_NUMBER = re.compile(r"(?<![\w.])[-−]?(nan|inf)(?![\w.])")
_UNDETERMINED = "not determined"


class NotApplicable(ValueError):
    """An analysis that has nothing to say of these runs, with the reason."""


class PartlyApplicable(NotApplicable):
    """An analysis that has something to say of some of the runs alone.

    Args:
        message: the runs that are left out, with the reasons.
        findings: of the other runs.
    """

    def __init__(self, message: str, findings: list[AnalysisResult]) -> None:
        super().__init__(message)
        self.findings = findings


class Result(Protocol):
    """A measured thing that can be drawn and kept: what every module of :mod:`surgecollapse.analysis` returns."""

    def plot(self) -> Figure:
        """Draw it."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        ...


@dataclass(frozen=True)
class AnalysisResult:
    """One result with what the page and the table say about it."""

    stem: str
    """Name of its files."""
    title: str
    caption: str
    result: Result
    said: str
    """The outcome in a few words, for the table."""
    subject: str
    """Name of the run, or of the runs that are compared."""
    wide: bool = False
    """Whether the picture takes the full width of the page."""

    def __post_init__(self) -> None:
        """Say of an outcome with a number that is not finite that it is none.

        >>> AnalysisResult("a", "A", "", None, f"distance {float('nan'):.3f}", "run").said
        'not determined (distance nan)'
        """
        if _NO_NUMBER.search(self.said) and not self.said.startswith(_UNDETERMINED):
            object.__setattr__(self, "said", f"{_UNDETERMINED} ({self.said})")


def stem(base: str, index: int, count: int) -> str:
    """Name of the files of a run's finding: numbered where there are several runs.

    >>> stem("cka", 0, 1), stem("cka", 1, 2)
    ('cka', 'cka-2')
    """
    return base if count == 1 else f"{base}-{index + 1}"


def each_run(
    base: str,
) -> Callable[[Callable[[LoadedRun, str], AnalysisResult]], Callable[[Sequence[LoadedRun]], list[AnalysisResult]]]:
    """Make an analysis of what is found in one run: a function of the run and the name of its files.

    A run of which nothing can be said does not keep the others from being analyzed.

    >>> @each_run("steps")
    ... def steps(run, file):
    ...     return f"{file}: {run}"
    >>> steps(["one", "two"])
    ['steps-1: one', 'steps-2: two']
    """

    def analysis_of(
        one: Callable[[LoadedRun, str], AnalysisResult],
    ) -> Callable[[Sequence[LoadedRun]], list[AnalysisResult]]:
        @wraps(one)
        def analysis(subjects: Sequence[LoadedRun]) -> list[AnalysisResult]:
            found, reasons = [], []
            for index, run in enumerate(subjects):
                try:
                    found.append(one(run, stem(base, index, len(subjects))))
                except ValueError as error:
                    reasons.append(str(error) if len(subjects) == 1 else f"{run.name}: {error}")
            if reasons:
                raise PartlyApplicable("; ".join(reasons), found)
            return found

        return analysis

    return analysis_of
