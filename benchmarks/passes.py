"""Do waves pay because the data are seen again and again? One net, the same number of steps, more and more data.

    python benchmarks/passes.py                        # 4 methods × 5 sizes × 5 seeds: about half an hour on one core
    python benchmarks/passes.py --methods waves gmp --seeds 3

The MLP of the suite ``quick`` (MNIST-1D, 4,000 steps of 100 samples, 90% sparse), with 1,000 to 400,000 training
samples of the published generator: the 400,000 samples of a run are 400 passes over the smallest set and one over the
largest. All else is the same, and no method is tuned again: each has an even distribution and dropout .1, as the
search left them for 100 passes. Scored on the 10,000 samples of the search, which no report of the suite uses. A
finished run is a row in ``passes.jsonl`` and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import track
from search import BASE, FAST, LAYER, VARIANTS, data, generated, run

DRAWN = 400_000
"""Samples in 4,000 steps of 100."""
SIZES = (1_000, 4_000, 16_000, 64_000, DRAWN)
POOL_SEED, FIRST_SEED = 44, 30_000
METHODS: dict[str, dict[str, Any]] = {
    "waves": VARIANTS["waves-4-certainty-0.6-thinnest-0.1-layer"],
    "gmp": VARIANTS["fast-gmp-layer"],
    "rigl": VARIANTS["fast-rigl-layer"],
    "dense": {"policy": "none", **FAST},
}
"""The recipe, its best rivals, and the dense net; with the settings of ``BASE`` (dropout .1)."""


def paired(rows: list[dict[str, Any]], method: str, size: int) -> str:
    """Accuracy of ``waves`` minus that of a method on the same seeds, with a 95% interval."""
    from scipy.stats import t

    ours, theirs = (
        {row["seed"]: row["accuracy"] for row in rows if row["size"] == size and row["method"] == name}
        for name in ("waves", method)
    )
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if len(differences) < 2:
        return "–"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ± {half:.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """One line a size: mean accuracies, training accuracy of the dense net, and waves minus each."""
    names = [name for name in METHODS if any(row["method"] == name for row in rows)]
    others = [name for name in names if name != "waves"]
    titles = ["training samples", "passes", "seeds", *names, *(f"waves − {name}" for name in others)]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for size in sorted({row["size"] for row in rows}):
        here = [row for row in rows if row["size"] == size]
        means = [[row["accuracy"] for row in here if row["method"] == name] for name in names]
        seeds = max(len(values) for values in means)
        cells = [f"{size:,}", f"{DRAWN / size:g}", str(seeds)]
        cells += [f"{statistics.mean(values):.2f}" if values else "–" for values in means]
        lines.append("| " + " | ".join([*cells, *(paired(here, name, size) for name in others)]) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over passes, every seed a dot, means joined."""
    from surgecollapse.lab.report.style import RUNS, canvas, legend_above, save_png, styled

    @styled
    def picture() -> Any:
        figure = canvas(7, 4.2)
        ax = figure.subplots()
        for index, name in enumerate(name for name in METHODS if any(row["method"] == name for row in rows)):
            chosen = [row for row in rows if row["method"] == name]
            sizes = sorted({row["size"] for row in chosen})
            means = [statistics.mean(row["accuracy"] for row in chosen if row["size"] == size) for size in sizes]
            colour = RUNS[index][0]
            ax.plot([DRAWN / size for size in sizes], means, color=colour, linewidth=1.6, label=name)
            ax.plot([DRAWN / row["size"] for row in chosen], [row["accuracy"] for row in chosen], ".", color=colour)
        ax.set_xscale("log")
        ax.set_xticks([DRAWN / size for size in SIZES], [f"{DRAWN / size:g}" for size in SIZES])
        ax.minorticks_off()
        ax.set_xlabel("passes over the training samples, in 4,000 steps")
        ax.set_ylabel("test accuracy, %")
        legend_above(figure, [ax])
        return figure

    save_png(picture(), path)


def main() -> None:
    """Train what is missing; write rows, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sizes", nargs="*", type=int, choices=SIZES, default=list(SIZES), help="training samples")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "passes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    there = {(row["method"], row["size"], row["seed"]) for row in rows}
    wanted = [(m, n, FIRST_SEED + s) for s in range(given.seeds) for n in given.sizes for m in given.methods]
    missing = [job for job in wanted if job not in there]
    if missing:
        x, y = generated(max(size for _, size, _ in missing), POOL_SEED)
        for name, size, seed in track(missing, description="Training", console=Console(stderr=True)):
            sets = (x[:size], y[:size], *data()[2:])
            made = run(name, METHODS[name], "mlp", 0.9, seed, sets)
            row = {"method": name, "size": size, "seed": seed}
            row |= {key: round(made[key], 3) for key in ("accuracy", "train", "density", "seconds")}
            rows.append(row)
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    import torch

    text = "\n".join(
        [
            "# Waves over passes: the MLP of MNIST-1D, 90% sparse, 4,000 steps",
            "",
            f"`{' '.join(['python', 'benchmarks/passes.py', *sys.argv[1:]])}`",
            "",
            f"torch {torch.__version__}; settings of all: {BASE | FAST | LAYER}. Test accuracy in percent;",
            "differences are paired, with 95% intervals.",
            "",
            table(rows),
        ]
    )
    print(text)
    (given.out / "passes.md").write_text(text + "\n")
    draw(rows, given.out / "passes.png")


if __name__ == "__main__":
    main()
