"""Do entropy thresholds and noise scales matter? Validation accuracy over both, on five tasks.

    python benchmarks/thresholds.py

The policy is ``entropy_thresholds``. A width w sets the quantiles of entropy that count as low and high, w and 1 − w.
A noise scale c multiplies the bound on injected energy (0.1 by default) and the deviations of the input noise (0.05
and 0.2). The defaults are w = 0.2 and c = 1. Seeds are paired. Rows go to ``results/thresholds.jsonl``; what is there
already is not run again.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import append_row, facts, make_parser, publish, read_rows, single_thread, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TASKS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist1d": {},
    "dummy": {},
    "mnist5k": {"widths": [64, 64]},
    "parity": {"parity_bits": 2, "noise_bits": 10},
}
"""With what differs from the task's own settings, so that it is learned in a few hundred steps."""
WIDTHS = (0.05, 0.2, 0.4)
NOISES = (0.0, 1.0, 4.0)
DEFAULT = (0.2, 1.0)


def config(task: str, width: float, noise: float, seed: int, steps: int) -> dict[str, Any]:
    """One run. Without noise the energy bound is 0 and the input noise too small to matter."""
    options = {"low": width, "high": 1 - width, "noise_energy_budget": min(1.0, 0.1 * noise),
               "noise_std": [max(1e-9, 0.05 * noise), max(1e-9, 0.2 * noise)], "noise_step": 0.05 * noise}  # fmt: skip
    run = {"task": task, "steps": steps, "seed": seed, "split_seed": 0, "sparsity": 0.9, "every": max(1, steps // 50)}
    return {**run, **TASKS[task], "policy": "entropy_thresholds", "policy_options": options}


def of_task(rows: Sequence[Mapping[str, Any]], task: str) -> tuple[list[int], dict[tuple[float, float], list[float]]]:
    """Seeds that every cell has, and accuracies in percent by cell in their order."""
    by: dict[tuple[float, float], dict[int, float]] = {(w, c): {} for w in WIDTHS for c in NOISES}
    for row in rows:
        if row["task"] == task:
            by[row["width"], row["noise"]][row["seed"]] = 100 * row["accuracy"]
    seeds = sorted(set.intersection(*(set(values) for values in by.values())))
    return seeds, {cell: [values[seed] for seed in seeds] for cell, values in by.items()}


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differences from the default cell, paired over seeds, with Student's 95% interval."""
    from surgecollapse.compare.paired_statistics import mean_interval
    from surgecollapse.compare.table import plus_minus

    cells = []
    for task in TASKS:
        seeds, values = of_task(rows, task)
        if len(seeds) < 2:
            continue
        for width in WIDTHS:
            shown = [task, f"{width:g}", str(len(seeds))]
            for noise in NOISES:
                own, base = values[width, noise], values[DEFAULT]
                difference = mean_interval([a - b for a, b in zip(own, base, strict=True)])
                means = f"{statistics.fmean(own):.1f}"
                shown.append(means if (width, noise) == DEFAULT else f"{means} ({plus_minus(difference, sign=True)})")
            cells.append(shown)
    return table(("task", "width", "seeds", *(f"noise {noise:g}" for noise in NOISES)), cells)


def picture(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Heat maps of the mean difference from the default cell, one a task."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    shown = [task for task in TASKS if of_task(rows, task)[0]]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.6), layout="constrained", squeeze=False)
    for axis, task in zip(axes[0], shown, strict=True):
        _, values = of_task(rows, task)
        base = statistics.fmean(values[DEFAULT])
        grid = [[statistics.fmean(values[width, noise]) - base for noise in NOISES] for width in WIDTHS]
        image = axis.imshow(grid, cmap="RdBu", vmin=-5, vmax=5, origin="lower")
        for row, line in enumerate(grid):
            for column, value in enumerate(line):
                ink = "white" if abs(value) > 3 else "black"
                axis.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=ink)
        axis.set_xticks(range(len(NOISES)), [f"{noise:g}" for noise in NOISES])
        axis.set_yticks(range(len(WIDTHS)), [f"{width:g}" for width in WIDTHS])
        axis.set(title=task, xlabel="noise scale", ylabel="width" if axis is axes[0][0] else "")
    figure.colorbar(image, ax=axes, label="points from the default")
    figure.savefig(file, dpi=110, metadata={"Software": None})


def main() -> None:
    """Run what is missing, seed by seed; write the table and the picture."""
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--plot", type=Path, help="where the picture is written")
    options = parser.parse_args()
    single_thread()
    from surgecollapse.tuning.worker import train_run

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "thresholds.jsonl"
    keys = ("task", "width", "noise", "seed", "steps")
    there = {tuple(row[key] for key in keys) for row in read_rows(file)}
    for cell in [(t, w, c, s) for s in range(options.seeds) for t in TASKS for w in WIDTHS for c in NOISES]:
        row = dict(zip(keys, (*cell, options.steps), strict=True))
        if tuple(row.values()) in there:
            continue
        message = {"config": config(*cell, options.steps), "report": None, "extra": (), "test": False}
        with tempfile.TemporaryDirectory() as folder:
            found = train_run(message, Path(folder))
        if found is None:
            return
        append_row(file, {**row, **{key: found[key] for key in ("accuracy", "mean_density", "interventions")}})
    rows = [row for row in read_rows(file) if row["steps"] == options.steps]
    text = ["# Entropy thresholds and noise", "", *(__doc__ or "").splitlines()[4:], ""]
    text += ["Validation accuracy in percent; in brackets the paired difference from the default cell and its 95%"]
    text += ["interval (Student).", "", *lines(rows), ""]
    acted = {task: [row["interventions"] for row in rows if row["task"] == task] for task in TASKS}
    counts = [f"{task} {statistics.fmean(found):.1f}" for task, found in acted.items() if found]
    text += [f"Interventions a run, on average: {', '.join(counts)}. Runs have {options.steps} steps."]
    publish(options.out / "thresholds", facts(rows=len(rows)), "\n".join(text))
    if options.plot is not None:
        picture(rows, options.plot)


if __name__ == "__main__":
    main()
