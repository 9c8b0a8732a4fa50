"""Work of steps on several CPU threads, alone and beside a busy process, over flat passes through the same memory.

    python benchmarks/busy.py --threads 2

Filters, masks and the growth signal work in every step. Monitors work in one step of 50 by default; their row is one
event of those default monitors that look at weights and gradients alone.

Each part is timed in turn with a flat pass over as many bytes on as many threads: once while nothing else of this
benchmark runs, once beside ``--busy`` processes that compute. An operation of torch on several threads waits for the
last of them, so that hundreds of small ones lose much beside a busy process. Goals: at most 1.25 times the flat pass
alone, and 3 times beside one busy process. Ratios are medians over turns.

Where other programs use the cores, too, ``--processor-time`` compares the processor time of all threads with that of
the flat pass on one thread: threads of torch that wait use time as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from _harness import described, in_turn, make_parser, medians, origin, over, publish, seconds, spread, table, verdict
from torch import nn

from surgecollapse import Grokfast, GrokfastMA, OrthoGrad
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.observe.monitors import make_monitors
from surgecollapse.protocols import MonitorContext

GOALS = {"alone": 1.25, "busy": 3.0}
TENSORS = 24
WARM = 12
"""Turns before those that count: enough to find out which way to use threads is the faster."""
SLOW = ("weight_rank",)
"""Default monitors that factor matrices, which no flat pass compares with."""
FLAT = {
    "grokfast": "lerp and add",
    "grokfast ma 10": "sub, copy, add, add",
    "orthograd": "three products, sub, mul",
    "masks": "mul",
    "growth signal": "nan_to_num and lerp",
    "monitors": "two norms, a product and a sum",
}
"""Parts, and the flat pass that each is over."""


def weights_of(size: int) -> list[nn.Parameter]:
    """Large weights and small ones beside each, with gradients."""
    torch.manual_seed(0)
    small = min(1024, size // TENSORS // 2) // 32
    large = size // TENSORS // 32 - small
    params = [nn.Parameter(torch.randn(rows, 32)) for _ in range(TENSORS) for rows in (large, small)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def actions_for(size: int) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name."""
    params = weights_of(size)
    grads = [p.grad for p in params if p.grad is not None]
    named = {str(i): p for i, p in enumerate(params)}
    masks = MaskedWeights(named)
    masks.set({name: torch.rand_like(p) < 0.5 for name, p in named.items()}, dict.fromkeys(named, 1))
    signal, ema, ma, project = DenseGradient(), Grokfast(), GrokfastMA(10), OrthoGrad()
    flat, other, ones = torch.randn(size), torch.randn(size), torch.ones(size)
    total, slot = torch.zeros(size), torch.zeros(size)
    originals = [grad.clone() for grad in grads]

    watching = [each for each in make_monitors("default") if {*each.needs} <= {"gradients"} and each.name not in SLOW]
    context = MonitorContext(
        step=2,
        model=nn.Module(),
        weights={name: p.detach() for name, p in named.items()},
        gradients=dict(zip(named, originals, strict=True)),
        live=masks.shares(),
        masks=masks.all_held(),
        batch_size=64,
    )
    for each in watching:
        if hasattr(each, "prepare"):
            each.prepare(replace(context, step=1))

    def slide() -> None:
        total.sub_(slot)
        slot.copy_(other)
        total.add_(slot)
        other.add_(total, alpha=1e-6)

    def products() -> None:
        for a, b in ((flat, other), (flat, flat), (other, other)):
            torch.dot(a, b)
        flat.sub_(other, alpha=1e-6).mul_(1.0)

    return {
        "refill": lambda: torch._foreach_copy_(grads, originals),
        "lerp and add": lambda: (flat.lerp_(other, 0.02), other.add_(flat, alpha=1e-6)),
        "grokfast": lambda: ema(params, grads),
        "sub, copy, add, add": slide,
        "grokfast ma 10": lambda: ma(params, grads),
        "three products, sub, mul": products,
        "orthograd": lambda: project(params, grads),
        "mul": lambda: flat.mul_(ones),
        "masks": masks.mask_gradients,
        "nan_to_num and lerp": lambda: flat.lerp_(other.nan_to_num(), 0.1),
        "growth signal": lambda: signal.update(named),
        "two norms, a product and a sum": lambda: (flat.norm(), other.norm(), torch.dot(flat, other), ones.sum()),
        "monitors": lambda: [each.measure(context) for each in watching],
    }


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that compute meanwhile, on one thread each."""
    code = "import torch\ntorch.set_num_threads(1)\na = torch.randn(300, 300)\nwhile True: a @ a"
    jobs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def processor_time(action: Callable[[], object]) -> float:
    """Seconds that all threads of this process spend."""
    began = time.process_time()
    action()
    return time.process_time() - began


def on_one_thread(action: Callable[[], object], threads: int) -> Callable[[], object]:
    """The action on one thread of torch."""

    def run() -> None:
        torch.set_num_threads(1)
        action()
        torch.set_num_threads(threads)

    return run


def measure(options: argparse.Namespace) -> dict:
    """All sizes, alone and beside busy processes."""
    torch.set_num_threads(options.threads)
    clock = processor_time if options.processor_time else seconds
    found = []
    for size in options.sizes:
        with torch.no_grad():
            actions = actions_for(size)
            if options.processor_time:
                for base in FLAT.values():
                    actions[base] = on_one_thread(actions[base], options.threads)
            for state, processes in (("alone", 0), ("busy", options.busy)):
                with busy(processes):
                    turns = in_turn(actions, options.repeats, warm=WARM, clock=clock)
                ratios = {name: over(turns, name, base) for name, base in FLAT.items()}
                found.append({"size": size, "state": state, "seconds": medians(turns), "ratios": ratios})
    return {
        **origin(options.threads),
        "repeats": options.repeats,
        "busy": options.busy,
        "goals": GOALS,
        "clock": "processor time" if options.processor_time else "time",
        "found": found,
    }


def as_markdown(report: dict) -> str:
    """The report as one table."""
    rows = [
        [f"{each['size']:,}", each["state"], name, spread(ratio), verdict(ratio["median"], GOALS[each["state"]])]
        for each in report["found"]
        for name, ratio in each["ratios"].items()
    ]
    head = ["# Work of steps on several threads, over flat passes", *described(report)]
    return "\n".join([*head, *table(["entries", "machine", "part", "over the flat pass", "goal"], rows)])


def main() -> None:
    """Measure, print, and write ``benchmarks/results/busy.{json,md}``."""
    parser = make_parser(__doc__, repeats=30, threads=2)
    parser.add_argument("--busy", type=int, default=1, help="processes that compute meanwhile")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 4_000_000, 24_000_000], help="entries")
    parser.add_argument("--processor-time", action="store_true", help="instead of time, for a machine that is shared")
    options = parser.parse_args()
    report = measure(options)
    publish(options.out / "busy", report, as_markdown(report))


if __name__ == "__main__":
    main()
