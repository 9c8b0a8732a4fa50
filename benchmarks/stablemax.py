"""Time of StableMax cross-entropy, forward and backward, as a ratio to ``F.cross_entropy`` on the same logits.

    python benchmarks/stablemax.py

Goals: at most 3 times eager, at most 1.5 times compiled (both compiled). Beside it the form of two ``where`` branches
through autograd, and the formula as published: s(x)/Σs(x), then the logarithm, in float64 as in the authors' code.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _harness import RESULTS, described, in_turn, make_parser, medians, origin, over, publish, seconds, spread, verdict
from torch import Tensor

from surgecollapse import stablemax_cross_entropy
from surgecollapse.functional import softmax_cross_entropy_float64

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


def time_shape(rows: int, classes: int, options: argparse.Namespace) -> dict[str, object]:
    """All losses in turn, so that all see the same machine; medians of ratios within a turn."""
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(rows, classes, generator=generator)).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator)
    inner = max(1, 500_000 // (rows * classes))

    def gradient(loss: Loss) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(x, target), x)

    actions = {name: partial(gradient, loss) for name, loss in losses(options.compiled).items()}
    turns = in_turn(actions, options.repeats, warm=2, clock=partial(seconds, number=inner))
    ratios = {
        name: over(turns, name, "cross_entropy, compiled" if name.endswith("compiled") else "cross_entropy")
        for name in actions
    }
    return {"rows": rows, "classes": classes, "inner": inner, "seconds": medians(turns), "ratios": ratios}


def measure(options: argparse.Namespace) -> dict:
    """All shapes, with what is needed to repeat the run."""
    return {
        **origin(options.threads),
        "repeats": options.repeats,
        "goals": {"eager": EAGER_GOAL, "compiled": COMPILED_GOAL},
        "shapes": {name: time_shape(*shape, options) for name, shape in SHAPES.items()},
    }


def as_markdown(report: dict) -> str:
    """The report as tables."""
    lines = [
        "# StableMax cross-entropy over F.cross_entropy, forward and backward",
        *described(report),
        f"Medians of {report['repeats']} turns, least–most in brackets; float32. Goals: ≤ {EAGER_GOAL:g} eager,",
        f"≤ {COMPILED_GOAL:g} compiled over compiled.",
    ]
    for name, found in report["shapes"].items():
        lines += ["", f"## {found['rows']:,} × {found['classes']:,} ({name})", ""]
        lines += ["| loss | ms | over cross_entropy of its kind | goal |", "|---|---|---|---|"]
        for loss, taken in found["seconds"].items():
            ratio = found["ratios"][loss]
            limit = {"stablemax": EAGER_GOAL, "stablemax, compiled": COMPILED_GOAL}.get(loss)
            goal = "" if limit is None else verdict(ratio["median"], limit)
            lines.append(f"| {loss} | {taken * 1e3:.3f} | {spread(ratio)} | {goal} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the tables."""
    parser = make_parser(__doc__, out=RESULTS / "stablemax", repeats=15, threads=1)
    parser.add_argument("--eager-only", dest="compiled", action="store_false", help="skip torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = measure(options)
    publish(options.out, report, as_markdown(report))


if __name__ == "__main__":
    main()
