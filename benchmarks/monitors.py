"""What the default monitors add to a training step, as a ratio to the same step without them.

    python benchmarks/monitors.py

Three nets: the 423k-parameter decoder of Grokfast (arXiv 2405.20233; batch 512), three convolutions on 28×28 images
(batch 64), and a decoder of 25 M parameters (batch 16). Two copies of each train in turn, one step each, plain and
under ``watch_training`` with all default monitors, asked for every 20 steps. A block holds exactly four events of the
monitors, however far the budget keeper puts them off: after four, each of them had its turn. Goal: at most 1.02.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from overhead import Decoder, spread
from torch import Tensor, nn

from surgecollapse import MemoryRecorder, watch_training

GOAL, EVERY, EVENTS, WARM = 1.02, 20, 4, 1


def convolutional() -> nn.Module:
    """Three convolutions and a linear layer on 28×28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, 10),
    )  # fmt: skip


def cases() -> dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]]:
    """Net, inputs and labels by name."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (512,), generator=g)
    return {
        "decoder, 423k": (Decoder, torch.randint(0, 99, (5, 512), generator=g), labels),
        "convolutions": (convolutional, torch.randn(64, 1, 28, 28, generator=g), labels[:64]),
        "decoder, 25 M": (
            lambda: Decoder(width=512, layers=8),
            torch.randint(0, 99, (5, 16), generator=g),
            labels[:16],
        ),
    }


def step_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """One training step of a net, and its optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step, optimizer


def events(recorder: MemoryRecorder) -> int:
    """Events so far."""
    return sum(event.name == "budget/cadence" for event in recorder.events)


def measure(build: Callable[[], nn.Module], x: Tensor, y: Tensor, blocks: int) -> dict[str, Any]:
    """Ratios over blocks of one event each, and what the keeper did."""
    torch.manual_seed(0)
    plain = build()
    watched = copy.deepcopy(plain)
    plain_step, _ = step_of(plain, x, y)
    watched_step, optimizer = step_of(watched, x, y)
    pairs: dict[str, list[tuple[float, float]]] = {"cpu": [], "wall": []}
    recorder = MemoryRecorder()
    with watch_training(watched, optimizer, every=EVERY, recorders=[recorder]) as handle:
        for block in range(WARM + blocks):
            times = {"cpu": [0.0, 0.0], "wall": [0.0, 0.0]}
            while events(recorder) < EVENTS * (block + 1):
                for i, step in enumerate((plain_step, watched_step)):
                    cpu, wall = time.process_time(), time.perf_counter()
                    step()
                    times["wall"][i] += time.perf_counter() - wall
                    times["cpu"][i] += time.process_time() - cpu
            if block >= WARM:
                for clock, (first, second) in times.items():
                    pairs[clock].append((first, second))
        report = handle.report()
    return {
        "parameters": sum(p.numel() for p in plain.parameters()),
        "step_ms": 1e3 * (report.step_seconds or 0.0),
        "event_ms": 1e3 * sum(report.seconds.values()),
        "every": report.every,
        "turns": report.turns,
        "share": report.share,
        "seconds": dict(report.seconds),
        **{clock: spread(values) for clock, values in pairs.items()},
    }


def main() -> None:
    """Measure, print and write ``benchmarks/results/monitors.{json,md}``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {name: measure(*case, options.blocks) for name, case in cases().items()}
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "goal": GOAL,
        "rows": rows,
    }
    lines = [
        "# The default monitors, held to 2% of the training time",
        "",
        f"`{record['command']}`",
        "",
        f"{record['cores']} cores, {options.threads} thread(s); python {record['python']}, torch {record['torch']}.",
        f"Ratio of the watched over the plain step, median of {options.blocks} blocks of four events, steps taken in",
        f"turn; quartiles in brackets. Asked for every {EVERY} steps; *kept* is what the budget keeper made of it, in",
        "how many turns it goes through the layers; the event is all layers and monitors, as it measured them.",
        "",
        "| net | parameters | step | event | kept | turns | processor time | wall time | keeper's own share | ≤ 1.02 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        met = "met" if row["cpu"]["ratio"] <= GOAL else "missed"
        cells = [f"{r['ratio']:.3f} ({r['quarter']:.3f}–{r['three_quarters']:.3f})" for r in (row["cpu"], row["wall"])]
        lines.append(
            f"| {name} | {row['parameters']:,} | {row['step_ms']:.1f} ms | {row['event_ms']:.0f} ms | {row['every']} | "
            f"{row['turns']} | {cells[0]} | {cells[1]} | {100 * row['share']:.1f}% | {met} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "monitors.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "monitors.md").write_text(text)


if __name__ == "__main__":
    main()
