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
from collections.abc import Callable

import torch
from _harness import RESULTS, described, in_turn, make_parser, medians, origin, over, publish, spread, verdict
from torch import Tensor

from surgecollapse import Grokfast, GrokfastMA

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
        "refill": lambda: torch._foreach_copy_(grads, originals),  # every turn begins with the same gradients
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
    turns = in_turn(actions, options.repeats, warm=2)
    taken = {name: value for name, value in medians(turns).items() if name != "refill"}
    windowed = [name for name in taken if name.startswith("ma")]
    return {
        "size": size,
        "seconds": taken,
        "over copy": {name: over(turns, name, "copy") for name in taken},
        "over lerp and add": {name: over(turns, name, "lerp and add") for name in taken},
        "over ema": {name: over(turns, name, "ema") for name in windowed},
        "over ema, compiled": {name: over(turns, name, "ema, compiled") for name in windowed if "comp" in name},
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

    actions: dict[str, Callable[[], object]] = {"refill": lambda: torch._foreach_copy_(grads, originals)}
    actions["plain"] = optimizer.step
    actions |= {name: (lambda transform=transform: filtered(transform)) for name, transform in filters.items()}
    turns = in_turn(actions, options.repeats, warm=2)
    taken = {name: value for name, value in medians(turns).items() if name != "refill"}
    return {"size": size, "seconds": taken, "over plain": {name: over(turns, name, "plain") for name in filters}}


def measure(options: argparse.Namespace) -> dict:
    """All sizes, with what is needed to repeat the run."""
    return {
        **origin(options.threads),
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
    return spread(found) if found else ""


def judged(name: str, found: dict) -> str:
    """Whether a filter met its goal; that of the exponential one is about memory, not about caches."""
    compiled = name.endswith("compiled")
    if name.startswith("ma"):
        goal = COMPILED_MA_GOAL if compiled else MA_GOAL
        return verdict(found["over ema"][name]["median"], goal)
    if name.startswith("ema") and found["size"] >= 10_000_000:
        goal = COMPILED_EMA_GOAL if compiled else EMA_GOAL
        return verdict(found["over lerp and add"][name]["median"], goal)
    return ""


def as_markdown(report: dict) -> str:
    """The report as tables."""
    lines = [
        "# The Grokfast filters over plain passes through the same memory",
        *described(report),
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
            goal = judged(name, found)
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
    parser = make_parser(__doc__, out=RESULTS / "grokfast", repeats=31, threads=1)
    parser.add_argument("--large", type=int, default=28_000_000, help="entries that do not fit into any cache")
    parser.add_argument("--large-windows", type=int, nargs="*", default=[10, 30], help="windows at that size")
    parser.add_argument("--small", type=int, default=2_000_000, help="entries for the long windows")
    parser.add_argument("--small-windows", type=int, nargs="*", default=[10, 100, 1000], help="windows at that size")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="of the windowed filter")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        report = measure(options)
    publish(options.out, report, as_markdown(report))


if __name__ == "__main__":
    main()
