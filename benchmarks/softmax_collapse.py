"""Softmax collapse over the size of the training set: Prieto et al. 2025 (arXiv 2501.04697), figure 2.

    python benchmarks/softmax_collapse.py                               # 3 losses × 3 fractions: about an hour
    python benchmarks/softmax_collapse.py --fractions 0.7 --steps 2000
    python benchmarks/softmax_collapse.py --seeds 5 --device cuda

The paper's perceptron on x+y mod 113, AdamW without weight decay, full batch, with the softmax in float32, the softmax
in float64 and StableMax; weights are float32 in all three (in the paper StableMax's are float64). Recorded at every
evaluation: accuracies, the share of training samples whose softmax has absorbed every class but the largest in the
precision of its loss (StableMax: those whose loss is exactly zero), and the share whose loss is exactly zero. A
finished run is a row in ``softmax-collapse.jsonl`` and is not repeated.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _harness import RESULTS, append_row, command, make_parser, provenance, read_rows, single_thread
from torch import Tensor

from surgecollapse.functional import softmax_collapse, stablemax_cross_entropy, zero_loss_share
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss, make_optimizer

LOSSES = {
    "softmax, float32": ("prieto-modular", torch.float32),
    "softmax, float64": ("prieto-modular-float64", torch.float64),
    "StableMax": ("prieto-modular-stablemax", torch.float32),
}
"""By name: the experiment, and the precision in which its loss is computed here."""


def shares(name: str, logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Of collapsed samples and of samples with a loss of exactly zero, in the precision of the loss."""
    wide = logits.to(LOSSES[name][1])
    if name == "StableMax":
        zero = (stablemax_cross_entropy(wide, target, reduction="none") == 0).double().mean().item()
        return zero, zero
    return softmax_collapse(wide).item(), zero_loss_share(wide, target).item()


def train(name: str, fraction: float, seed: int, steps: int, every: int, device: str) -> dict[str, Any]:
    """One run: rows of step, training and validation accuracy, share of collapsed and of zero losses."""
    config = make_config(task=LOSSES[name][0], precision="float32", train_fraction=fraction, seed=seed, steps=steps)
    data = load_data(config).to(torch.device(device))
    model = build_model(config, data).to(device)
    optimizer, loss = make_optimizer(config, model), make_loss(config, data)
    curve: list[list[float]] = []
    began = time.perf_counter()
    for step in range(steps + 1):
        logits = model(data.x_train)
        if step % every == 0:
            with torch.no_grad():
                right = [
                    (scores.argmax(1) == y).double().mean().item()
                    for scores, y in ((logits, data.y_train), (model(data.x_validation), data.y_validation))
                ]
                curve.append([step, *right, *shares(name, logits, data.y_train)])
            minutes = (time.perf_counter() - began) / max(step, 1) * (steps - step) / 60
            print(f"\r{name}, {fraction:.0%}: step {step:,}, {minutes:.0f} min left", end="", flush=True)
        if step == steps:
            break
        optimizer.zero_grad()
        loss(logits, data.y_train).backward()
        optimizer.step()
    print(flush=True)
    return {
        "loss": name, "fraction": fraction, "seed": seed, "steps": steps,
        "device": device, "torch": torch.__version__, **provenance(config),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else "one thread of a CPU",
        "seconds": round(time.perf_counter() - began, 1),
        "columns": ["step", "train", "validation", "collapsed", "zero loss"],
        "curve": [[row[0], *(round(value, 4) for value in row[1:])] for row in curve],
    }  # fmt: skip


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """Median with the range."""
    low, middle, high = (form(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(rows: list[dict[str, Any]]) -> str:
    """One line a training set and loss."""
    lines = [
        "| training set | loss | seeds | first collapsed at | collapsed, at most | at the end | validation accuracy at "
        "the end | at best |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["fraction"], row["loss"]) for row in rows)
    for fraction, loss in kinds:
        curves = [row["curve"] for row in rows if (row["fraction"], row["loss"]) == (fraction, loss)]
        first = [next((c[0] for c in curve if c[3] > 0), math.inf) for curve in curves]
        cells = [f"{fraction:.0%}", loss, str(len(curves))]
        cells.append(spread(first, lambda step: "never" if math.isinf(step) else f"{step:,.0f}"))
        cells.append(spread([max(c[3] for c in curve) for curve in curves], "{:.1%}".format))
        cells += [spread([curve[-1][column] for curve in curves], "{:.1%}".format) for column in (3, 2)]
        cells.append(spread([max(c[2] for c in curve) for curve in curves], "{:.1%}".format))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel a fraction: validation accuracy solid, share of collapsed samples dotted."""
    from surgecollapse.report.style import RUNS, canvas, legend_above, save_png, step_axis, styled

    @styled
    def picture() -> Any:
        fractions = sorted({row["fraction"] for row in rows})
        figure = canvas(3.4 * len(fractions), 3.8)
        axes = figure.subplots(1, len(fractions), sharey=True, squeeze=False)[0]
        for ax, fraction in zip(axes, fractions, strict=True):
            for row in (row for row in rows if row["fraction"] == fraction):
                color = RUNS[list(LOSSES).index(row["loss"])][0]
                steps, _, validation, collapsed, _ = zip(*row["curve"], strict=True)
                ax.plot(steps, validation, color=color, linewidth=1.2, label=row["loss"] if row["seed"] == 0 else None)
                ax.plot(steps, collapsed, color=color, linewidth=0.8, linestyle=":", alpha=0.7)
            ax.set_title(f"{fraction:.0%} for training")
            step_axis(ax)
        axes[0].set_ylabel("validation accuracy (solid),\nshare of collapsed samples (dotted)")
        legend_above(figure, list(axes))
        return figure

    save_png(picture(), path)


def main() -> None:
    """Train what has no row, write table and plot."""
    parser = make_parser(__doc__, out=RESULTS / "grokking", seeds=1)
    parser.add_argument(
        "--fractions", type=float, nargs="*", default=[0.4, 0.6, 0.7], help="of all pairs, for training"
    )
    parser.add_argument("--losses", nargs="*", choices=list(LOSSES), default=list(LOSSES), help="default: all")
    parser.add_argument("--steps", type=int, default=4_000, help="of a run")
    parser.add_argument("--every", type=int, default=50, help="steps between two evaluations")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where nets train")
    parser.add_argument("--picture", type=Path, help="file of the plot; default: OUT/softmax-collapse.png")
    options = parser.parse_args()
    single_thread()
    log = options.out / "softmax-collapse.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = read_rows(log)
    wanted = []
    for fraction in options.fractions:
        for name in options.losses:
            for seed in range(options.seeds):
                key = {"loss": name, "fraction": fraction, "seed": seed, "steps": options.steps}
                row = next(
                    (r for r in done if key.items() <= r.items() and r.get("device", "cpu") == options.device), None
                )
                if row is None:
                    row = train(name, fraction, seed, options.steps, options.every, options.device)
                    append_row(log, row)
                wanted.append(row)
    text = table(wanted)
    kept = {(row.get("hardware", "one thread of a CPU"), row.get("torch", torch.__version__)) for row in wanted}
    places = " and ".join(f"{hardware}, torch {version}" for hardware, version in sorted(kept))
    log.with_suffix(".md").write_text(f"# Softmax collapse, x+y mod 113\n\n`{command()}`; {places}\n\n{text}\n")
    draw(wanted, options.picture or log.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
