"""Time of StableMax cross-entropy, forward and backward, as a ratio to ``F.cross_entropy`` on the same logits.

    python benchmarks/stablemax.py

Goals: at most 3 times eager, at most 1.5 times compiled (both compiled). Beside it the form of two ``where`` branches
through autograd, and the formula as published: s(x)/Σs(x), then the logarithm, in float64 as in the authors' code.
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
import torch.nn.functional as F
from torch import Tensor

from surgecollapse import stablemax_cross_entropy
from surgecollapse.functional import softmax_cross_entropy_float64
from surgecollapse.record.machine import processor

EAGER_GOAL, COMPILED_GOAL = 3.0, 1.5
SHAPES = {
    "a batch mod 97": (512, 97),
    "40% of the pairs mod 113": (5107, 113),
    "digits": (64, 10),
    "1,000 classes": (4096, 1000),
    "a vocabulary": (256, 50257),
}


def by_where(x: Tensor, target: Tensor) -> Tensor:
    """The same function through autograd's own derivatives."""
    logs = torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x).clamp(min=0).log1p())
    return F.cross_entropy(logs, target)


def as_published(x: Tensor, target: Tensor) -> Tensor:
    """The formula s(x)/Σs(x) in float64 and its logarithm."""
    x = x.double()
    s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
    logs = torch.log(s / s.sum(-1, keepdim=True))
    return -logs.gather(1, target[:, None]).mean()


Loss = Callable[[Tensor, Tensor], Tensor]


def losses(compiled: bool) -> dict[str, Loss]:
    """What is compared: each over the first one of its kind."""
    eager: dict[str, Loss] = {
        "cross_entropy": F.cross_entropy,
        "stablemax": stablemax_cross_entropy,
        "stablemax by where": by_where,
        "stablemax as published": as_published,
        "softmax in float64": softmax_cross_entropy_float64,
    }
    if compiled:
        for name in ("cross_entropy", "stablemax"):
            eager[f"{name}, compiled"] = torch.compile(eager[name], dynamic=False)
    return eager


def seconds(loss: Loss, x: Tensor, target: Tensor, inner: int) -> float:
    """Wall time of one loss with its gradient, the mean of ``inner`` of them."""
    start = time.perf_counter()
    for _ in range(inner):
        torch.autograd.grad(loss(x, target), x)
    return (time.perf_counter() - start) / inner


def time_shape(rows: int, classes: int, options: argparse.Namespace) -> dict[str, object]:
    """All losses in turn, so that all see the same machine; medians of ratios within a turn."""
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(rows, classes, generator=generator)).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator)
    found = losses(options.compiled)
    inner = max(1, 500_000 // (rows * classes))
    turns = [{n: seconds(f, x, target, inner) for n, f in found.items()} for _ in range(options.repeats + 2)][2:]
    ratios = {}
    for name in found:
        base = "cross_entropy, compiled" if name.endswith("compiled") else "cross_entropy"
        values = [turn[name] / turn[base] for turn in turns]
        ratios[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    medians = {name: statistics.median(turn[name] for turn in turns) for name in found}
    return {"rows": rows, "classes": classes, "inner": inner, "seconds": medians, "ratios": ratios}


def measure(options: argparse.Namespace) -> dict:
    """All shapes, with what is needed to repeat the run."""
    return {
        "command": shlex.join(["python", "benchmarks/stablemax.py", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads},
        "repeats": options.repeats,
        "goals": {"eager": EAGER_GOAL, "compiled": COMPILED_GOAL},
        "shapes": {name: time_shape(*shape, options) for name, shape in SHAPES.items()},
    }


def as_markdown(report: dict) -> str:
    """The report as tables."""
    machine, versions = report["machine"], report["versions"]
    lines = [
        "# StableMax cross-entropy over F.cross_entropy, forward and backward",
        "",
        f"`{report['command']}`",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} thread(s); "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        f"Medians of {report['repeats']} turns, least–most in brackets; float32. Goals: ≤ {EAGER_GOAL:g} eager,",
        f"≤ {COMPILED_GOAL:g} compiled over compiled.",
    ]
    for name, found in report["shapes"].items():
        lines += ["", f"## {found['rows']:,} × {found['classes']:,} ({name})", ""]
        lines += ["| loss | ms | over cross_entropy of its kind | goal |", "|---|---|---|---|"]
        for loss, taken in found["seconds"].items():
            ratio = found["ratios"][loss]
            limit = {"stablemax": EAGER_GOAL, "stablemax, compiled": COMPILED_GOAL}.get(loss)
            goal = "" if limit is None else "met" if ratio["median"] <= limit else "missed"
            spread = f"{ratio['median']:.2f} ({ratio['least']:.2f}–{ratio['most']:.2f})"
            lines.append(f"| {loss} | {taken * 1e3:.3f} | {spread} | {goal} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns; medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--eager-only", dest="compiled", action="store_false", help="skip torch.compile")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stablemax")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
