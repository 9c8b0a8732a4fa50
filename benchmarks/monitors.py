"""What the default monitors add to a training step, as a ratio to the same step without them.

    python benchmarks/monitors.py [--only NAME] [--tier-two]

Three nets: the 423k-parameter decoder of Grokfast (arXiv 2405.20233; batch 512), three convolutions on 28×28 images
(batch 64), and a decoder of 25 M parameters (batch 16). Each trains under ``watch_training`` with all default
monitors, asked for every 20 steps, and in turn with all hooks taken off: the same net and optimizer, since two equal
copies differ by as much as is measured here, by where their tensors lie in memory. A watched turn holds exactly one
event of the monitors, however far the budget keeper puts it off, and the few steps after it; the plain turn has as many
steps (for the keeper it is a pause, which earns as much as one step). A block is four turns of each: after four events
each monitor had its turn (two for the largest net, where a block lasts long; the ratio of the sums then has all of
them). Goal: at most 1.02. The table is written anew after every block from the fifth on.

``--tier-two``: what an event of the curvature and of the criticality monitor costs, in training steps, without a
budget. They are not on by default and have no goal.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _harness import facts, make_parser, quartiles, spread, verdict
from overhead import Decoder
from torch import Tensor, nn

from surgecollapse import MemoryRecorder, watch_training

GOAL, EVERY = 1.02, 20
TIER_TWO = ("curvature", "criticality")
AFTER = 5
"""Steps of a turn that follow its event, so that what it left cold in the caches is counted, too."""


def convolutional() -> nn.Module:
    """Three convolutions and a linear layer on 28×28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, 10),
    )  # fmt: skip


def cases() -> dict[str, tuple[int, Callable[[], nn.Module], Tensor, Tensor]]:
    """Events a block, net, inputs and labels by name."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (512,), generator=g)
    return {
        "decoder-423k": (4, Decoder, torch.randint(0, 99, (5, 512), generator=g), labels),
        "convolutions": (4, convolutional, torch.randn(64, 1, 28, 28, generator=g), labels[:64]),
        "decoder-25M": (
            2,
            lambda: Decoder(width=512, layers=8),
            torch.randint(0, 99, (5, 16), generator=g),
            labels[:16],
        ),
    }


def step_of(
    model: nn.Module, x: Tensor, y: Tensor, note: Callable[[], None] = lambda: None
) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """One training step of a net, and its optimizer; ``note`` is called once the loss is known."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        note()
        loss.backward()
        optimizer.step()

    return step, optimizer


@contextmanager
def unhooked(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Train without any hook: the net as it would be had nobody attached to it."""
    names = "_forward_pre_hooks", "_forward_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
    owners = [*model.modules(), optimizer]
    hooks = [getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)]
    kept = [dict(found) for found in hooks]
    for found in hooks:
        found.clear()
    try:
        yield
    finally:
        for found, had in zip(hooks, kept, strict=True):
            found.update(had)


def events(recorder: MemoryRecorder) -> int:
    """Events so far."""
    return sum(event.name == "budget/cadence" for event in recorder.events)


def measure(
    per_block: int, build: Callable[[], nn.Module], x: Tensor, y: Tensor, blocks: int
) -> Iterator[dict[str, Any]]:
    """Ratios over blocks, and what the keeper did; as known after each block from the fifth on."""
    torch.manual_seed(0)
    model = build()
    step, optimizer = step_of(model, x, y)
    pairs: dict[str, list[tuple[float, float]]] = {"cpu": [], "wall": []}
    recorder = MemoryRecorder()
    with watch_training(model, optimizer, every=EVERY, recorders=[recorder]) as handle:
        for block in range(1 + blocks):
            times = {"cpu": [0.0, 0.0], "wall": [0.0, 0.0]}
            for _ in range(per_block):
                done, count = events(recorder), 0
                cpu, wall = time.process_time(), time.perf_counter()
                while events(recorder) == done:
                    step()
                    count += 1
                for _ in range(AFTER):
                    step()
                times["wall"][1] += time.perf_counter() - wall
                times["cpu"][1] += time.process_time() - cpu
                with unhooked(model, optimizer):
                    cpu, wall = time.process_time(), time.perf_counter()
                    for _ in range(count + AFTER):
                        step()
                    times["wall"][0] += time.perf_counter() - wall
                    times["cpu"][0] += time.process_time() - cpu
            for clock, (first, second) in times.items():
                if block:  # the first block is for warming up
                    pairs[clock].append((first, second))
            if block >= 5:
                yield summary(model, pairs, handle.report(), per_block)


def summary(net: nn.Module, pairs: dict[str, list[tuple[float, float]]], report: Any, per_block: int) -> dict[str, Any]:
    """One row of the table."""
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "step_ms": 1e3 * report.step_seconds,
        "event_ms": 1e3 * sum(report.seconds.values()),
        "every": report.every,
        "turns": report.turns,
        "share": report.share,
        "blocks": len(pairs["cpu"]),
        "events": per_block * len(pairs["cpu"]),
        "seconds": dict(report.seconds),
        **{clock: quartiles(b / a for a, b in values) for clock, values in pairs.items()},
        "sums": {clock: sum(b for _, b in values) / sum(a for a, _ in values) for clock, values in pairs.items()},
    }


class BatchFirst(nn.Module):
    """The same net with samples in the first dimension, as the probe batch takes them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length)."""
        return self.net(tokens.T)


def tier_two(build: Callable[[], nn.Module], x: Tensor, y: Tensor, events: int = 10) -> dict[str, Any]:
    """Seconds of an event of each monitor, at first and later on, beside those of a step."""
    torch.manual_seed(0)
    model = build()
    if not x.is_floating_point():
        model, x = BatchFirst(model), x.T
    handles: list[Any] = []
    step, optimizer = step_of(model, x, y, lambda: handles[0].note(targets=y))
    found: dict[str, Any] = {}
    with watch_training(model, optimizer, monitors=TIER_TWO, every=2, budget=None) as handle:
        handles.append(handle)
        for _ in range(2 * (2 * events + 1)):  # every second event is one of theirs
            step()
            report = handle.report()
            if not found and TIER_TWO[0] in report.seconds:
                found["first"] = dict(report.seconds)
    report = handle.report()
    return found | {"later": dict(report.seconds), "step": report.step_seconds, "events": events}


def tier_table(rows: dict[str, Any]) -> list[str]:
    """The costs of tier 2 in Markdown."""
    lines = [
        "",
        "## Curvature and criticality",
        "",
        "`python benchmarks/monitors.py --tier-two`",
        "",
        "An event of each, in training steps: the first (curvature: ten Hessian products and one for the trace), then",
        "the lower median of the last five of ten (two products). They come at every second event. *2%*: steps between",
        "two events at which both together take 2% of the time.",
        "",
        "| net | step | curvature, first | curvature | criticality | 2% | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        first, later = ({key: row[when][key] / row["step"] for key in TIER_TWO} for when in ("first", "later"))
        lines.append(
            f"| {name} | {1e3 * row['step']:.0f} ms | {first['curvature']:.1f} | {later['curvature']:.1f} | "
            f"{later['criticality']:.2f} | {sum(later.values()) / 0.02 / 2:.0f} | {row['load']:.1f} |"
        )
    return lines


def table(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    lines = [
        "# The default monitors, held to 2% of the training time",
        "",
        f"`{record['command']}`",
        "",
        f"{record['cores']} cores, {record['threads']} thread(s); python {record['python']}, torch {record['torch']}.",
        "Ratio of the watched over the plain step of the same net, in turn, one event of the monitors a turn: median",
        f"over blocks (quartiles), and ratio of the sums. Asked for every {EVERY} steps; *kept* is what the budget",
        "keeper made of it, in how many turns it goes through the layers; the event is all layers and monitors, in",
        "wall time, as the keeper measured them; load: average of the last five minutes at the end.",
        "",
        "| net | parameters | step | event | kept | turns | blocks, events | processor time | sums | wall time | load "
        "| |",
        f"|{'---|' * 12}",
    ]
    for name, row in record["rows"].items():
        met = verdict(max(row["cpu"]["ratio"], row["sums"]["cpu"]), GOAL)
        cells = [spread(row[clock], 3) for clock in ("cpu", "wall")]
        lines.append(
            f"| {name} | {row['parameters']:,} | {row['step_ms']:.0f} ms | {row['event_ms']:.0f} ms | {row['every']} | "
            f"{row['turns']} | {row['blocks']}, {row['events']} | {cells[0]} | {row['sums']['cpu']:.3f} | {cells[1]} | "
            f"{row['load']:.1f} | {met} |"
        )
    lines += tier_table(record["tier_two"]) if record["tier_two"] else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write ``benchmarks/results/monitors.{json,md}``."""
    parser = make_parser(__doc__, threads=1)
    parser.add_argument("--blocks", type=int, default=10, help="timed blocks, at least 5")
    parser.add_argument("--events", type=int, help="events a block (default: 4, and 2 for the largest net)")
    parser.add_argument("--only", choices=list(cases()), help="measure one net and keep the other rows of the table")
    parser.add_argument("--tier-two", action="store_true", help="only measure the curvature and criticality monitors")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in [options.only] if options.only else list(cases()):
        per_block, *case = cases()[name]
        if options.tier_two:
            write(options, name, tier_two(*case), "tier_two")
            continue
        for row in measure(options.events or per_block, *case, options.blocks):
            write(options, name, row)
    print((options.out / "monitors.md").read_text())


def write(options: argparse.Namespace, name: str, row: dict[str, Any], part: str = "rows") -> None:
    """Put one row into the record and its table."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "monitors.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    known = {key: record.get(key, {}) for key in ("rows", "tier_two")}
    known[part][name] = row | {"load": os.getloadavg()[1]}
    known[part] = {key: known[part][key] for key in cases() if key in known[part]}
    record |= known
    if part == "rows" or "command" not in record:
        record |= facts(threads=options.threads, goal=GOAL)
    path.write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "monitors.md").write_text(table(record))


if __name__ == "__main__":
    main()
