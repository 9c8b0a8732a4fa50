"""What a controller adds to a training step, as a ratio to the same step without it.

    python benchmarks/overhead.py

The net is the 423k-parameter decoder of Grokfast (arXiv 2405.20233) on x·y mod 97: 2 layers, width 128, 4 heads,
batch 512, Adam. Two copies of it train in turn, one step each, plain and with a controller at its default readings
(every 50 steps); a block is 50 steps of each, so it holds one reading. Measured apart: open weights (readings only),
and a sparse phase (masks, and the moving average of the dense gradient). A decision (collapse with the entropy floor
searched on the probe batch) is given in plain steps. Goal: at most 1.02 at the default cadence.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _harness import Turn, facts, in_turn, make_parser, medians, publish, quartiles, seconds, spread, verdict
from torch import Tensor, nn

import surgecollapse
from surgecollapse import Decision, Plan, Reading
from surgecollapse.events import Prune

GOAL, EVERY = 1.02, 50


class Block(nn.Module):
    """One decoder block, with the residual taken from the normalized value, as published."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(T, N, width) → the same."""
        causal = torch.full((len(x), len(x)), -torch.inf).triu(1)
        x = self.first(x)
        x = x + self.attention(x, x, x, attn_mask=causal, need_weights=False)[0]
        return x + self.mlp(self.second(x))


class Decoder(nn.Module):
    """The published net: tokens (T, N) → logits of the last position (N, tokens)."""

    def __init__(self, tokens: int = 99, width: int = 128, layers: int = 2, length: int = 5) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Every position is computed; the loss takes the last."""
        h = self.token(x) + self.position(torch.arange(len(x)))[:, None]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))[-1]


class Scripted:
    """Collapses once, searching the entropy floor, then holds; tracks the default growth signal."""

    growth = "ema_gradient"

    def __init__(self, at: int | None) -> None:
        self.at = at

    def start(self, plan: Plan) -> None:
        """Nothing to plan."""

    def due(self, step: int) -> bool:
        """Whether the one collapse falls on this step."""
        return step == self.at

    def decide(self, reading: Reading) -> Decision:
        """Collapse at the one step, with the whole search: the floor lies between the two ends."""
        if reading.step == self.at:
            prune = Prune((0.5, 0.98), floor=0.9)
            return Decision(phase="sparse", reason="benchmark", actions=(prune,))
        return Decision(phase="sparse", reason="benchmark")

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No state."""


def stepper(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """One training step of ``model``, and its optimizer."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step, optimizer


def block(steps: dict[str, Callable[[], None]], clock: Callable[[], float]) -> Turn:
    """Times of 50 steps of each, one of each in turn, so that a machine that slows down slows both."""
    turns = in_turn(steps, EVERY, clock=partial(seconds, clock=clock))
    return {name: sum(turn[name] for turn in turns) for name in steps}


def measure(blocks: int, *, sparse: bool, batch: int) -> dict[str, Any]:
    """Ratios over alternating blocks; with ``sparse``, the decision's cost too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 99, (5, batch), generator=generator)
    y = torch.randint(0, 97, (batch,), generator=generator)
    torch.manual_seed(0)
    plain = Decoder()
    watched = copy.deepcopy(plain)
    plain_step, _ = stepper(plain, x, y)
    watched_step, optimizer = stepper(watched, x, y)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in plain.parameters())}
    with surgecollapse.attach(watched, optimizer, sparsity=0.9, policy=Scripted(5 if sparse else None)) as controller:
        seconds(plain_step, 5)
        seconds(watched_step, 4)
        one = seconds(plain_step, 5)
        decision = seconds(watched_step)
        if sparse:
            assert controller.sparsity >= 0.5, "the collapse was not carried out"
            found["decision_in_steps"] = decision / one - 1
            found["tries"] = controller.events[-1].details["tries"]
        seconds(watched_step, EVERY - 5)  # from here on each block ends with a reading
        steps = {"plain": plain_step, "watched": watched_step}
        turns: dict[str, list[Turn]] = {"cpu": [], "wall": []}
        for _ in range(blocks):
            for name, clock in (("cpu", time.process_time), ("wall", time.perf_counter)):
                turns[name].append(block(steps, clock))
    found["step_ms"] = 1e3 * medians(turns["wall"])["plain"] / EVERY
    return found | {name: quartiles(t["watched"] / t["plain"] for t in taken) for name, taken in turns.items()}


def main() -> None:
    """Measure, print and write ``benchmarks/results/overhead.{json,md}``."""
    parser = make_parser(__doc__, threads=1)
    parser.add_argument("--blocks", type=int, default=20, help="timed blocks of 50 steps of each")
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {name: measure(options.blocks, sparse=name == "sparse", batch=options.batch) for name in ("open", "sparse")}
    record = {
        **facts(threads=options.threads, goal=GOAL),
        "rows": rows,
    }
    lines = [
        f"# A controller on a {rows['open']['parameters']:,.0f}-parameter transformer",
        "",
        f"`{record['command']}`",
        "",
        f"{record['cores']} cores, {options.threads} thread(s); python {record['python']}, torch {record['torch']}.",
        f"Ratio of the step with a controller over the plain step, median of {options.blocks} blocks of 50 steps",
        "of each, taken in turn, with one reading a block; quartiles in brackets; in processor time, which other",
        "programs on the machine disturb little, and in wall time.",
        "",
        "| phase | processor time | wall time | plain step | goal ≤ 1.02 (processor time) |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        met, cells = verdict(row["cpu"]["ratio"], GOAL), [spread(row[clock], 3) for clock in ("cpu", "wall")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {row['step_ms']:.1f} ms | {met} |")
    sparse = rows["sparse"]
    lines += [
        "",
        f"One collapse with the entropy floor searched on the probe batch ({sparse['tries']:.0f} tries) costs "
        f"{sparse['decision_in_steps']:.1f} plain steps.",
    ]
    text = "\n".join(lines) + "\n"
    publish(options.out / "overhead", record, text)


if __name__ == "__main__":
    main()
