"""The twin of a run that a person changed: the same run without one intervention, and what that intervention bought.

A run of the lab is a function of its configuration and of the commands that people gave. Its twin starts from the
state before one of these commands, bit for bit, and goes on without it; all other commands are repeated. Until that
command both are the same run, so that every later difference is its effect, on these random draws. Over several seeds,
both arms are trained again with other draws from that step on, in pairs, and the differences have an interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.paired_statistics import Interval, mean_interval
from surgecollapse.errors import ConfigError
from surgecollapse.record import RunStore, last_step
from surgecollapse.record.filesystem import way
from surgecollapse.record.whole_files import write_whole

if TYPE_CHECKING:
    from surgecollapse.lab.training.progress import Progress
    from surgecollapse.record import QueuedCommand

RESULT = "twin.json"
"""The file of a result, in the directory of its runs."""
VERSION = 1
"""Of that file."""
_POINTS = 1_000
_SCORES = ("accuracy", "loss", "bits_per_character", "accuracy_validation", "loss_validation", "sparsity")
"""Of the summaries of runs."""
_OF_THE_MACHINE = ("time/", "budget/", "system/")
"""Series that say nothing of the run."""
_READ = ("entropy", "prediction_confidence", "grad_norm", "sparsity")
"""Of readings, as curves ``reading/…``."""


@dataclass(frozen=True, kw_only=True)
class CurveDifference:
    """One quantity at the end of both arms: means over the seeds, and that of the paired differences."""

    name: str
    with_it: float
    without: float
    difference: float
    """With the intervention minus without it."""
    half: float | None
    """Half the width of Student's 95% interval; ``None`` for one seed."""

    @property
    def clear(self) -> bool | None:
        """Whether the interval leaves out zero; ``None`` for one seed."""
        return None if self.half is None else abs(self.difference) > self.half


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over the steps after the intervention."""

    name: str
    layer: str | None
    steps: tuple[int, ...]
    with_it: tuple[float, ...]
    without: tuple[float, ...]
    difference: tuple[float, ...]
    half: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What one intervention bought."""

    directory: Path
    """Of the runs and of ``twin.json``."""
    run: Path
    intervention: dict[str, Any]
    """``id``, ``step``, ``kind``, ``body`` and ``reason`` of the command."""
    pairs: tuple[tuple[Path, Path], ...]
    """Run directories with and without it, one pair for each seed; the first run is the one that was asked about."""
    final: tuple[CurveDifference, ...]
    curves: tuple[Curve, ...]
    skipped: tuple[str, ...]
    """Other commands that could not be repeated without it, each with its step and why."""

    @property
    def sentence(self) -> str:
        """What it bought, in one sentence."""
        return _sentence(self.intervention, self.final, len(self.pairs))

    def __repr__(self) -> str:
        return f"<Twin in {self.directory}: {self.sentence}>"


def twin(
    run: str | Path,
    *,
    intervention: int | None = None,
    seeds: int = 1,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Twin:
    """Train a run again without one intervention, and compare.

    Args:
        run: a run directory of the lab, finished or not.
        intervention: id of the command that is left out; by default the last one that changed the run, a stop aside.
        seeds: pairs of runs. The first has the run's own random draws; of the others, both arms draw anew from the step
            before the intervention on.
        out: directory of the new runs and of the result; by default beside the run.
        progress: who is shown how it goes.

    Returns:
        Differences at the end and over the steps, also in ``twin.json``.

    Raises:
        FileNotFoundError: if the directory holds no run.
        FileExistsError: if ``out`` is in use.
        KeyboardInterrupt: if it was interrupted.
        ValueError: if no user changed the run, or there is no such intervention.
    """
    from surgecollapse.lab.training.branch_folders import applied, free_folder
    from surgecollapse.lab.training.branching import config_of

    source = Path(run)
    config_of(source)
    chosen, others = _chosen(source, applied(source), intervention)
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")
    folder = free_folder(source, f"twin-{chosen.id}") if out is None else Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    arms = _Arms(source, folder, chosen, others, progress)
    pairs = [(source, arms.train(source, "without", None))]
    for seed in range(1, seeds):
        pairs.append((arms.train(pairs[0][1], "with", seed), arms.train(pairs[0][1], "without", seed)))
    found = Twin(
        directory=folder,
        run=source,
        intervention={key: getattr(chosen, key) for key in ("id", "step", "kind", "body", "reason")},
        pairs=tuple(pairs),
        final=_final(pairs),
        curves=_curves(pairs, arms.at),
        skipped=_skipped(pairs[0][1]),
    )
    write_whole(folder / RESULT, json.dumps(as_mapping(found), separators=(",", ":")) + "\n")
    return found


def as_mapping(found: Twin) -> dict[str, Any]:
    """A result as ``twin.json`` has it; ``null`` for what is not finite, paths from the file's own directory."""

    def place(path: Path) -> str:
        return way(path, found.directory)

    return {
        "version": VERSION,
        "run": place(found.run),
        "intervention": found.intervention,
        "sentence": found.sentence,
        "pairs": [{"with": place(one), "without": place(two)} for one, two in found.pairs],
        "final": [_finite(asdict(part) | {"clear": part.clear}) for part in found.final],
        "curves": [_finite(asdict(part)) for part in found.curves],
        "skipped": list(found.skipped),
    }


class _Arms:
    """Trains arms of the comparison."""

    def __init__(
        self,
        source: Path,
        folder: Path,
        chosen: QueuedCommand,
        others: Sequence[QueuedCommand],
        progress: Progress | None,
    ) -> None:
        from surgecollapse.lab.training.branching import final_step

        self._source, self._folder, self._chosen, self._progress = source, folder, chosen, progress
        self._others = others
        self.at = max(0, (chosen.step or 0) - 1)
        self._until = None if final_step(source) is not None else last_step(source / "run.db")

    def train(self, origin: Path, arm: str, seed: int | None) -> Path:
        """Train one arm from the step before the intervention; returns its directory."""
        from surgecollapse.lab.training.branching import begin_branch
        from surgecollapse.lab.training.run import train

        commands = [one for one in (*self._others, self._chosen) if (one.step or 0) > self.at]
        if arm == "without":
            commands = [one for one in commands if one.id != self._chosen.id]
        commands.sort(key=lambda one: (one.step or 0, one.id))
        name = f"{arm}-s{seed or 0}"
        if self._progress is not None:
            self._progress.note(f"{name}: from step {self.at}, {arm} {self._chosen.kind}")
        place = self._folder / name
        facts = {
            "parent": way(self._source, place),
            "forked_by": "twin",
            "twin_of": {"intervention": self._chosen.id, "arm": arm, "seed": seed or 0},
            "lenient_replay": True,
        }
        begin_branch(origin, self.at, out=place, seed=seed, commands=commands, facts=facts)
        result = train(None, place, resume=True, until=self._until, progress=self._progress)
        if result.status == "interrupted" and (self._until is None or result.step < self._until):
            raise KeyboardInterrupt
        return place


def _chosen(
    run: Path, applied: Sequence[QueuedCommand], wanted: int | None
) -> tuple[QueuedCommand, list[QueuedCommand]]:
    """The intervention, and the other commands that made the run what it is."""
    from surgecollapse.controller.command_loop import effective

    found = effective(applied)
    if not found:
        raise ConfigError(f"no user changed {run} while it trained, so that its twin would be the run itself")
    ids = [one.id for one in found]
    if wanted is not None and wanted not in ids:
        there = ", ".join(f"{one.id} ({one.kind} at step {one.step})" for one in found)
        raise ConfigError(f"--intervention {wanted}: expected one of {there}")
    changing = [one for one in found if one.kind != "stop"] or found
    chosen = found[ids.index(wanted)] if wanted is not None else max(changing, key=lambda one: one.id)
    return chosen, [one for one in found if one.id != chosen.id]


def _final(pairs: Sequence[tuple[Path, Path]]) -> tuple[CurveDifference, ...]:
    """Scores of the summaries; none where an arm has not ended."""
    summaries = [(_summary(one), _summary(two)) for one, two in pairs]
    found = []
    for name in _SCORES:
        if not all(isinstance(summary.get(name), int | float) for pair in summaries for summary in pair):
            continue
        values: list[tuple[float, float]] = [(one[name], two[name]) for one, two in summaries]
        interval = _interval([one - two for one, two in values])
        sides = [sum(pair[i] for pair in values) / len(values) for i in (0, 1)]
        found.append(
            CurveDifference(name=name, with_it=sides[0], without=sides[1], difference=interval.mean, half=interval.half)
        )
    return tuple(found)


def _curves(pairs: Sequence[tuple[Path, Path]], at: int) -> tuple[Curve, ...]:
    """Every series that all runs have, at the steps after the intervention that all of them have."""
    runs = [tuple(_series(run) for run in pair) for pair in pairs]
    names = set.intersection(*(set(series) for pair in runs for series in pair))
    found = []
    for name, layer in sorted(names, key=lambda key: (key[0], key[1] or "")):
        sides = [tuple(series[name, layer] for series in pair) for pair in runs]
        steps = sorted(step for step in set.intersection(*(set(s) for pair in sides for s in pair)) if step > at)
        steps = steps[:: max(1, math.ceil(len(steps) / _POINTS))]
        if not steps:
            continue
        intervals = [_interval([one[step] - two[step] for one, two in sides]) for step in steps]
        found.append(
            Curve(
                name=name,
                layer=layer,
                steps=tuple(steps),
                with_it=tuple(sum(one[step] for one, _ in sides) / len(sides) for step in steps),
                without=tuple(sum(two[step] for _, two in sides) / len(sides) for step in steps),
                difference=tuple(interval.mean for interval in intervals),
                half=None if len(pairs) == 1 else tuple(float(interval.half or 0.0) for interval in intervals),
            )
        )
    return tuple(found)


def _series(run: Path) -> dict[tuple[str, str | None], dict[int, float]]:
    """Every curve of a run, step → value; times are of the machine, and left out."""
    found: dict[tuple[str, str | None], dict[int, float]] = {}
    with RunStore(run / "run.db") as store:
        for name, layer in store.names():
            if not name.startswith(_OF_THE_MACHINE):
                steps, values = store.measurements(name, layer)
                found[name, layer] = dict(zip(steps.tolist(), values.tolist(), strict=True))
        for reading in store.readings():
            for part in _READ:
                value = getattr(reading, part, None)
                if value is not None:
                    found.setdefault((f"reading/{part}", None), {})[reading.step] = float(value)
    return found


def _summary(run: Path) -> dict[str, Any]:
    with RunStore(run / "run.db") as store:
        return dict(store.get("summary", {}))


def _skipped(run: Path) -> tuple[str, ...]:
    with RunStore(run / "run.db") as store:
        again = [one for one in store.requests() if one.source == "replay" and one.status == "rejected"]
    return tuple(f"{one.kind} at step {one.step}: {one.reason}" for one in again)


def _interval(differences: Sequence[float]) -> Interval:
    if all(map(math.isfinite, differences)):
        return mean_interval(differences)
    return Interval(math.nan, None if len(differences) < 2 else math.nan)


def _sentence(intervention: Mapping[str, Any], final: Sequence[CurveDifference], seeds: int) -> str:
    what = f"{intervention['kind']} at step {intervention['step']}"
    score = next((part for part in final if part.name == "accuracy"), None)
    if score is None:
        return f"{what}: the runs have not ended, so that only their curves are compared"
    points = f"{100 * score.difference:+.2f} points of test accuracy"
    if score.half is None:
        return f"{what}: {points} on the run's own draws; one pair has no interval"
    low, high = 100 * (score.difference - score.half), 100 * (score.difference + score.half)
    said = "" if score.clear else ", within noise"
    return f"{what}: {points} (95% interval {low:+.2f} to {high:+.2f} over {seeds} seeds){said}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
