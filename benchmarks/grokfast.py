"""Time of the Grokfast filters on gradients at hand, as ratios to plain passes over the same memory.

    python benchmarks/grokfast.py

Goals: the exponential filter at most 1.15 times a flat in-place lerp and add of the same bytes, the windowed one at
most 2.5 times the exponential one, for every window. In one compiled pass (compile=True) the exponential one at most
0.8 times the flat lerp and add, the windowed one at most 1.6 times the exponential one: both ratios are shown, to the
plain and to the compiled one, and the verdict is on the former. And in a training step: AdamW on the same parameters,
with the filter over without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from surgecollapse import Grokfast, GrokfastMA
from surgecollapse.record.machine import processor

EMA_GOAL, MA_GOAL = 1.15, 2.5
COMPILED_EMA_GOAL, COMPILED_MA_GOAL = 0.8, 1.6
TENSORS = 24
KINDS = {
    "plain": ("", None, False),
    "compiled": (", compiled", None, True),
    "bf16": (", bf16 buffer", torch.bfloat16, False),
}
"""Of the windowed filter, by name: what its rows are called, how its window is stored, whether it is compiled."""


def gradients(size: int) -> list[Tensor]:
    """Gradients of a net: large weights, each with a small bias."""
    generator = torch.Generator().manual_seed(0)
    bias = min(1000, size // TENSORS // 2)
    weight = size // TENSORS - bias
    return [torch.randn(n, generator=generator) for _ in range(TENSORS) for n in (weight, bias)]


def in_turn(actions: dict[str, Callable[[], object]], prepare: Callable[[], object], repeats: int) -> list[dict]:
    """Seconds of every action, in turn, so that all see the same machine; one record a turn."""
    turns = []
    for _ in range(repeats):
        prepare()
        turn = {}
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            turn[name] = time.perf_counter() - start
        turns.append(turn)
    return turns


def ratio(turns: list[dict], name: str, base: str) -> dict[str, float]:
    """Median, least and most of one action's time over another's within a turn."""
    values = [turn[name] / turn[base] for turn in turns]
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def time_filters(size: int, windows: list[int], options: argparse.Namespace) -> dict[str, object]:
    """Filters alone, over a copy and over a flat lerp and add of the same bytes."""
    grads = gradients(size)
    originals = [grad.clone() for grad in grads]
    params = [torch.empty(0) for _ in grads]
    flat, other = torch.zeros(size), torch.randn(size)

    def lerp_and_add() -> None:
        flat.lerp_(other, 0.02)
        other.add_(flat, alpha=1e-6)

    ema, compiled = Grokfast(), Grokfast(compile=True)
    averages = [grad.clone() for grad in grads]

    def foreach() -> None:
        torch._foreach_lerp_(averages, grads, 0.02)
        torch._foreach_add_(grads, averages, alpha=1e-6)

    actions: dict[str, Callable[[], object]] = {
        "copy": lambda: flat.copy_(other),
        "lerp and add": lerp_and_add,
        "foreach, unguarded": foreach,
        "ema": lambda: ema(params, grads),
        "ema, compiled": lambda: compiled(params, grads),
    }
    for window in windows:
        for kind in options.kinds:
            suffix, dtype, fused = KINDS[kind]
            ma = GrokfastMA(window, buffer_dtype=dtype, compile=fused)
            actions[f"ma {window}{suffix}"] = lambda ma=ma: ma(params, grads)
            for _ in range(window):  # every page of the window is there before the clock runs
                ma(params, grads)
    turns = in_turn(actions, lambda: torch._foreach_copy_(grads, originals), options.repeats + 2)[2:]
    return {
        "size": size,
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in actions},
        "over copy": {name: ratio(turns, name, "copy") for name in actions},
        "over lerp and add": {name: ratio(turns, name, "lerp and add") for name in actions},
        "over ema": {name: ratio(turns, name, "ema") for name in actions if name.startswith("ma")},
        "over ema, compiled": {
            name: ratio(turns, name, "ema, compiled") for name in actions if name.startswith("ma") and "comp" in name
        },
    }


def time_steps(size: int, options: argparse.Namespace) -> dict[str, object]:
    """A step of AdamW with a filter over the same step without, on gradients at hand."""
    grads = gradients(size)
    originals = [grad.clone() for grad in grads]
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer = torch.optim.AdamW(params, foreach=True)
    filters = {"with ema": Grokfast(), "with ma 10": GrokfastMA(10)}

    def filtered(transform: Grokfast | GrokfastMA) -> None:
        transform(params, grads)
        optimizer.step()

    actions: dict[str, Callable[[], object]] = {"plain": optimizer.step}
    actions |= {name: (lambda transform=transform: filtered(transform)) for name, transform in filters.items()}
    turns = in_turn(actions, lambda: torch._foreach_copy_(grads, originals), options.repeats + 2)[2:]
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in actions}
    return {"size": size, "seconds": seconds, "over plain": {name: ratio(turns, name, "plain") for name in filters}}


def measure(options: argparse.Namespace) -> dict:
    """All sizes, with what is needed to repeat the run."""
    return {
        "command": shlex.join(["python", "benchmarks/grokfast.py", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads},
        "repeats": options.repeats,
        "goals": {
            "ema over lerp and add": EMA_GOAL,
            "ma over ema": MA_GOAL,
            "ema, compiled, over lerp and add": COMPILED_EMA_GOAL,
            "ma, compiled, over ema": COMPILED_MA_GOAL,
        },
        "filters": [
            time_filters(options.large, options.large_windows, options),
            time_filters(options.small, options.small_windows, options),
        ],
        "step": time_steps(options.large, options),
    }


def shown(found: dict[str, float] | None) -> str:
    """A ratio with its spread."""
    return f"{found['median']:.2f} ({found['least']:.2f}–{found['most']:.2f})" if found else ""


def verdict(name: str, found: dict) -> str:
    """Whether a filter met its goal; that of the exponential one is about memory, not about caches."""
    compiled = name.endswith("compiled")
    if name.startswith("ma"):
        goal = COMPILED_MA_GOAL if compiled else MA_GOAL
        return "met" if found["over ema"][name]["median"] <= goal else "missed"
    if name.startswith("ema") and found["size"] >= 10_000_000:
        goal = COMPILED_EMA_GOAL if compiled else EMA_GOAL
        return "met" if found["over lerp and add"][name]["median"] <= goal else "missed"
    return ""


def as_markdown(report: dict) -> str:
    """The report as tables."""
    machine, versions = report["machine"], report["versions"]
    lines = [
        "# The Grokfast filters over plain passes through the same memory",
        "",
        f"`{report['command']}`",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} thread(s); "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        f"Medians of {report['repeats']} turns, least–most in brackets; float32. Goals: `ema` ≤ {EMA_GOAL} lerp and",
        f"add where no cache holds them, `ma` ≤ {MA_GOAL} `ema` and the same for every window; compiled, `ema` ≤",
        f"{COMPILED_EMA_GOAL} lerp and add, `ma` ≤ {COMPILED_MA_GOAL} plain `ema` (the last ratio is to the compiled).",
    ]
    for found in report["filters"]:
        lines += ["", f"## {found['size']:,} entries in {2 * TENSORS} tensors", ""]
        lines += ["| | ms | over a copy | over lerp and add | over ema | over compiled ema | goal |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for name, seconds in found["seconds"].items():
            flat, ema = found["over lerp and add"][name], found["over ema"].get(name)
            goal = verdict(name, found)
            copies = shown(found["over copy"][name])
            fused = shown(found["over ema, compiled"].get(name))
            lines.append(
                f"| {name} | {seconds * 1e3:.1f} | {copies} | {shown(flat)} | {shown(ema)} | {fused} | {goal} |"
            )
    step = report["step"]
    lines += ["", f"## A step of AdamW on {step['size']:,} entries", "", "| | ms | over plain |", "|---|---|---|"]
    for name, seconds in step["seconds"].items():
        lines.append(f"| {name} | {seconds * 1e3:.1f} | {shown(step['over plain'].get(name))} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=28_000_000, help="entries that do not fit into any cache")
    parser.add_argument("--large-windows", type=int, nargs="*", default=[10, 30], help="windows at that size")
    parser.add_argument("--small", type=int, default=2_000_000, help="entries for the long windows")
    parser.add_argument("--small-windows", type=int, nargs="*", default=[10, 100, 1000], help="windows at that size")
    parser.add_argument("--repeats", type=int, default=31, help="turns; medians are reported")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="of the windowed filter")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "grokfast")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        report = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
