"""From the words of a command line to a comparison, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from surgecollapse.compare.comparison import Comparison, Outcome
from surgecollapse.compare.display import duration
from surgecollapse.compare.methods import ABLATIONS, METHODS, Method
from surgecollapse.compare.methods.parts import PARTS, with_parts
from surgecollapse.compare.methods.registry import current_name
from surgecollapse.compare.plan import Plan, choose
from surgecollapse.compare.suites import SUITES, Suite, suite_of
from surgecollapse.errors import ConfigError
from surgecollapse.lab.references import is_reference

Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What of a suite is trained, and how.

    Attributes:
        methods: Comma-separated names of `surgecollapse list methods`; default: all but gmp_equal_flops and
            rigl_equal_flops. Those two train as long as costs the training FLOPs of the reference.
        entries: Comma-separated labels of the nets to train now, as in mnist-mlp,kjv-gpt; default: all of the suite.
            The tables show all that have rows.
        sparsities: Comma-separated, as in 0.9,0.95; default: those of the suite.
        seeds: Seeds 0, 1, … of every method; no claim is made under 10.
        budget: equal: every method is tuned over its eight trials, on validation data only; a number: over that many of
            them, spread evenly; none: untuned.
        parts: Comma-separated optional parts: average (an average of the weights under the final mask), ramp (small
            first steps of regrown weights). Every method's trials are repeated with each.
        tune_at: Sparsity at which methods are tuned; default: 0.9, or the nearest that a net has.
        jobs: Processes of one thread each; default: the cores that may be used.
        cluster: Address of a Dask scheduler, as in tcp://host:8786: its workers train instead of processes here.
        reference: The method that the others are compared with; default: cyclic_pruning, or else the first.
        work: Folder for temporary files; default: the system's.
        data_dir: Folder with the folders mnist and fashion-mnist, which hold their data files, and if need be kjv and
            imdb.
    """

    methods: str | None = None
    entries: str | None = None
    sparsities: str | None = None
    seeds: int = 10
    budget: str = "equal"
    parts: str | None = None
    tune_at: float | None = None
    jobs: int | None = None
    cluster: str | None = None
    reference: str | None = None
    work: Path | None = None
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        budget, tune_at = self.budget, self.tune_at
        if budget not in ("equal", "none") and not (budget.isdecimal() and int(budget) >= 1):
            raise ConfigError(f"budget must be equal or none, or a number of trials from 1, got {budget!r}")
        if tune_at is not None and not 0 < tune_at < 1:
            raise ConfigError(f"tune_at must be a sparsity between 0 and 1, got {tune_at!r}")
        if self.jobs is not None and self.cluster is not None:
            raise ConfigError("jobs are processes here, cluster are workers elsewhere: give one")


def prepare(
    suite: str,
    out: Path,
    choices: Choices,
    *,
    command: str = "",
    known_suites: Mapping[str, Suite] = SUITES,
    known_methods: Mapping[str, Method] = METHODS | ABLATIONS,
) -> Comparison:
    """Make the comparison that a command line asks for.

    Args:
        suite: name of a suite; or a TOML file of keys, or a Python file of the user's own, for a suite of one entry.
        out: folder of rows, tables and plots.
        choices: what of it is trained, and how.
        command: the command line, for the record.
        known_suites: suites by name.
        known_methods: methods by name.

    Raises:
        ConfigError: for anything that the person can put right.
    """
    file = Path(suite)
    own = file.suffix in (".toml", ".py")
    known = suite_of(file) if own else choose([suite], known_suites, what="suite")[0]
    plan = Plan(
        suite=known,
        methods=tuple(_methods(choices, known, known_methods)),
        entries=tuple(choose(_words(choices.entries), {entry.label: entry for entry in known.entries}, what="label"))
        or None,
        sparsities=_shares(choices.sparsities),
        seeds=choices.seeds,
        budget=choices.budget,
        data_dir=choices.data_dir,
        tune_at=choices.tune_at,
    )
    reference = None if choices.reference is None else current_name(choices.reference)
    if choices.cluster is None:
        return Comparison(plan, out, work=choices.work, jobs=choices.jobs, reference=reference, command=command)
    from surgecollapse.compare.cluster import ClusterPool

    address = choices.cluster
    return Comparison(
        plan, out, reference=reference, command=command, make_pool=lambda _jobs, _work: ClusterPool(address)
    )


def _methods(choices: Choices, suite: Suite, known: Mapping[str, Method]) -> list[Method]:
    """The chosen methods, with the trials that their tuning has."""
    fixed = any(is_reference(entry.settings.get("model")) for entry in suite.entries)  # its widths are its own affair
    default = [
        name
        for name, method in known.items()
        if method.trials and not (fixed and method.target_key == "shrink_to_sparsity")
    ]
    chosen = choose([current_name(name) for name in _words(choices.methods)] or default, known, what="method")
    untunable = [method.name for method in chosen if not method.trials and method.longer is None]
    if untunable and choices.budget != "none":
        raise ConfigError(f"{', '.join(untunable)}: an ablation is not tuned; add --budget none")
    extra = choose(_words(choices.parts), PARTS, what="part")
    if extra and choices.budget == "none":
        raise ConfigError(f"parts {', '.join(part.name for part in extra)} are chosen by tuning: drop --budget none")
    chosen = [with_parts(method, extra) for method in chosen]
    if choices.budget in ("equal", "none"):
        return chosen
    return [
        replace(method, trials=spread_evenly(method.trials, int(choices.budget))) if method.trials else method
        for method in chosen
    ]


def spread_evenly(trials: Sequence[Thing], count: int) -> tuple[Thing, ...]:
    """As many of the trials, spread evenly: the middles of ``count`` equal parts, rounded away from the middle of all.

    Raises:
        ConfigError: if there are not that many.

    >>> [spread_evenly(range(8), count) for count in (1, 2, 3, 4)]
    [(4,), (1, 6), (0, 4, 7), (0, 2, 5, 7)]
    """
    if count > len(trials):
        raise ConfigError(f"budget {count}: a method has {len(trials)} trials; give at most that many, or equal")
    middle = (len(trials) - 1) / 2
    places = ((i + 0.5) * len(trials) / count - 0.5 for i in range(count))
    return tuple(trials[math.floor(place) if place < middle else math.ceil(place)] for place in places)


def _words(text: str | None) -> list[str]:
    """Comma-separated words."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _shares(text: str | None) -> tuple[float, ...] | None:
    """Comma-separated sparsities; ``None`` if none are given."""
    try:
        shares = tuple(float(word) for word in _words(text))
    except ValueError as error:
        raise ConfigError(f"sparsities = {text!r}: expected numbers like .9,.95") from error
    if any(not 0 < share < 1 for share in shares) or len(set(shares)) < len(shares):
        raise ConfigError(f"sparsities = {text!r}: expected different numbers between 0 and 1, like .9,.95")
    return shares or None


def outlook(comparison: Comparison) -> Iterator[str]:
    """What is to do: number of runs, and the time if any run is there to tell from."""
    counts = comparison.counts()
    for name, what in (("tuning", "to tune"), ("final", "to report")):
        yield f"{counts[name]} runs {what}, {counts[name] - counts[f'{name}_missing']} of them done"
    seconds = comparison.estimate()
    known = "unknown until a run of each net is done" if seconds is None else f"about {duration(seconds)}"
    yield f"time with {comparison.jobs} jobs: {known}"


def failures(outcome: Outcome) -> Iterator[str]:
    """One line for each error, with the names of the runs that it ended."""
    for error in dict.fromkeys(outcome.failures.values()):
        names = [name for name, its in outcome.failures.items() if its == error]
        yield f"{len(names)} failed ({'; '.join(names)}): {error}"
