"""When do waves pay? More and more data in the same number of steps; fewer and fewer steps on data that never repeat.

    python benchmarks/waves.py                        # 4 methods × 9 settings × 5 seeds: under an hour on one core
    python benchmarks/waves.py --methods waves gmp --seeds 3

The MLP of the suite ``quick`` (MNIST-1D, batches of 100, 90% sparse). First 4,000 steps with 1,000 to 400,000
training samples of the published generator: 400 passes over the smallest set and one over the largest. Then 250 to
2,000 steps with the largest, of which none is seen twice. All else is the same, and no method is tuned again: each
has an even distribution and dropout .1, as the search left them for 100 passes of 4,000 samples. Scored on the 10,000
samples of the search, which no report of the suite uses. A finished run is a row in ``waves.jsonl`` and is not
repeated.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

from _harness import append_row, make_parser, read_rows, shown

os.environ.setdefault("OMP_NUM_THREADS", "1")

from search import BASE, FAST, VARIANTS, data, generated, run

from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.compare.table import plus_minus

BATCH, STEPS, MOST = 100, 4_000, 400_000
BY_DATA = [(size, STEPS) for size in (1_000, 4_000, 16_000, 64_000, MOST)]
BY_STEPS = [(MOST, steps) for steps in (250, 500, 1_000, 2_000, STEPS)]
"""Training samples and steps."""
POOL_SEED, FIRST_SEED = 44, 30_000
METHODS: dict[str, dict[str, Any]] = {
    "waves": VARIANTS["waves-4-certainty-0.6-thinnest-0.1-layer"],
    "gmp": VARIANTS["fast-gmp-layer"],
    "rigl": VARIANTS["fast-rigl-layer"],
    "dense": {"policy": "none", **FAST},
}
"""The recipe, its best rivals, and the dense net; with the settings of ``BASE`` (dropout .1)."""


def paired(rows: list[dict[str, Any]], method: str) -> str:
    """Accuracy of ``waves`` minus that of a method on the same seeds, with a 95% interval."""
    ours, theirs = (
        {row["seed"]: row["accuracy"] for row in rows if row["method"] == name} for name in ("waves", method)
    )
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    return plus_minus(mean_interval(differences), sign=True) if len(differences) > 1 else "–"


def table(rows: list[dict[str, Any]], settings: list[tuple[int, int]]) -> str:
    """One line a setting: seeds of each method, mean accuracies, and waves minus each other."""
    names = [name for name in METHODS if any(row["method"] == name for row in rows)]
    others = [name for name in names if name != "waves"]
    titles = ["training samples", "steps", "passes", "seeds", *names, *(f"waves − {name}" for name in others)]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for size, steps in settings:
        here = [row for row in rows if (row["size"], row["steps"]) == (size, steps)]
        means = [[row["accuracy"] for row in here if row["method"] == name] for name in names]
        seeds = " / ".join(str(len(values)) for values in means)
        cells = [f"{size:,}", f"{steps:,}", f"{BATCH * steps / size:.3g}", seeds]
        cells += [f"{statistics.mean(values):.2f}" if values else "–" for values in means]
        lines.append("| " + " | ".join([*cells, *(paired(here, name) for name in others)]) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over passes, and over steps; every seed a dot, means joined."""
    from surgecollapse.report.style import RUNS, canvas, legend_above, save_png, styled

    @styled
    def picture() -> Any:
        figure = canvas(9, 4.2)
        left, right = figure.subplots(1, 2)
        names = [name for name in METHODS if any(row["method"] == name for row in rows)]
        for ax, settings, label in (
            (left, BY_DATA, f"passes over the training samples, {STEPS:,} steps"),
            (right, BY_STEPS, "steps, on samples that never repeat"),
        ):
            ticks = {where: BATCH * where[1] / where[0] if ax is left else where[1] for where in settings}
            for index, name in enumerate(names):
                points = [
                    (ticks[row["size"], row["steps"]], row["accuracy"])
                    for row in rows
                    if row["method"] == name and (row["size"], row["steps"]) in ticks
                ]
                places = sorted({x for x, _ in points})
                means = [statistics.mean(y for x, y in points if x == place) for place in places]
                color = RUNS[index][0]
                ax.plot(places, means, color=color, linewidth=1.6, label=name)
                ax.plot(*zip(*points, strict=True), ".", color=color)
            ax.set_xscale("log")
            ax.set_xticks(list(ticks.values()), [f"{tick:,.4g}" for tick in ticks.values()])
            ax.minorticks_off()
            ax.set_xlabel(label)
        left.set_ylabel("test accuracy, %")
        legend_above(figure, [left, right])
        return figure

    save_png(picture(), path)


def main() -> None:
    """Train what is missing; write rows, table and plot."""
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "waves.jsonl"
    rows = read_rows(file)
    there = {(row["method"], row["size"], row["steps"], row["seed"]) for row in rows}
    settings = list(dict.fromkeys(BY_DATA + BY_STEPS))
    wanted = [(m, *where, FIRST_SEED + s) for s in range(given.seeds) for where in settings for m in given.methods]
    missing = [job for job in wanted if job not in there]
    if missing:
        x, y = generated(max(size for _, size, _, _ in missing), POOL_SEED)
        for name, size, steps, seed in shown(missing, "Training"):
            sets = (x[:size], y[:size], *data()[2:])
            made = run(name, METHODS[name], "mlp", 0.9, seed, sets, steps)
            row = {"method": name, "size": size, "steps": steps, "seed": seed}
            row |= {key: round(made[key], 3) for key in ("accuracy", "train", "density", "seconds")}
            row |= {key: made[key] for key in ("version", "config")}
            rows.append(row)
            append_row(file, row)
    import torch

    text = "\n".join(
        [
            "# When do waves pay? The MLP of MNIST-1D, 90% sparse",
            "",
            f"`python benchmarks/waves.py --methods {' '.join(given.methods)} --seeds {given.seeds}`",
            "",
            f"One thread, torch {torch.__version__}. All: rate {FAST['lr']:g}, dropout {BASE['dropout']:g}, even.",
            "Test accuracy in percent;",
            "differences are paired, with 95% intervals.",
            "",
            f"## More data, {STEPS:,} steps",
            "",
            table(rows, BY_DATA),
            "",
            "## Fewer steps, no sample twice",
            "",
            table(rows, BY_STEPS),
        ]
    )
    print(text)
    (given.out / "waves.md").write_text(text + "\n")
    draw(rows, given.out / "waves.png")


if __name__ == "__main__":
    main()
