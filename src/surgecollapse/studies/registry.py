"""What a study is. A new study is a new file in this package that calls :func:`study`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING, Any

from surgecollapse.plugins import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any

Settings = Mapping[str, Any]
"""All that one run depends on, as JSON: it is stored in the run's row, and runs of equal settings are the same run."""
Rows = Sequence[Mapping[str, Any]]
"""Of finished runs: the settings under ``config``, what was measured beside it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a page."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""
    """What the reader must know to read it; below the table."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question, the runs that answer it, and what was concluded from them."""

    name: str
    title: str
    question: str
    setting: str
    """Data, networks, rivals, seeds and what was tuned, in Markdown."""
    runs: Callable[[bool], Sequence[Settings]]
    """What the page rests on, in the order of worth; the quick form if the argument is true, seconds in all."""
    measure: Callable[[Settings], Mapping[str, Any]]
    """Does one run on one thread. What it returns is JSON, and depends on the settings alone, times apart."""
    tables: Callable[[Rows], Sequence[Table]]
    plot: Callable[[Rows], Figure] | None = None
    conclusion: str = ""
    """What the landed rows say, in Markdown."""
    limits: Sequence[str] = ()
    further: Callable[[], Sequence[Settings]] | None = None
    """More seeds, sizes or settings, which no conclusion rests on; may repeat some of ``runs``."""
    then: Callable[[Rows, bool], Sequence[Settings]] | None = None
    """Runs whose settings follow from the finished rows of the others, as fresh seeds of what tuning chose; of the full
    form if the argument is true. They begin once all others are done. Until then, any settings of their number and cost
    stand in for them. The quick form has none."""

    def listed(self, *, quick: bool = False, full: bool = False, rows: Rows | None = None) -> list[Settings]:
        """The runs, each once.

        Args:
            quick: those of the quick form.
            full: those that the page rests on, then the further ones.
            rows: finished runs; adds those that follow from them.
        """
        further = self.further() if full and self.further is not None else ()
        following = self.then(rows, full) if rows is not None and self.then is not None and not quick else ()
        each = [*self.runs(quick), *further, *following]
        return list({dumps(config, sort_keys=True): config for config in each}.values())


_REGISTERED: Registry[Study] = Registry("studies", "study", "surgecollapse.studies")


def study(new: Study) -> Study:
    """Make a study known under its name.

    Raises:
        ValueError: if another one has that name.
    """
    return _REGISTERED(new.name)(new)


_WORTH = (
    "regularization",
    "language",
    "robustness",
    "plasticity",
    "recommenders",
    "streams",
    "reinforcement",
    "graphs",
    "deployment",
    "emergence",
)


def by_worth() -> list[Study]:
    """All studies in the order in which time is best spent on them; those of plugins last.

    >>> [each.name for each in by_worth()][:2]
    ['regularization', 'language']
    """
    order = {name: place for place, name in enumerate(_WORTH)}
    return sorted(registered().values(), key=lambda each: order.get(each.name, len(order)))


def registered() -> Registry[Study]:
    """All studies by name."""
    return _REGISTERED
