"""Grokfast here and in two packages: time, memory and a constant gradient.

    pip install --no-deps --target peers pytorch-optimizer==4.1.0 grokfast-pytorch==0.0.11
    python benchmarks/peers.py --peers peers

The packages are never installed beside the project. Compared are `gradfilter_ema` and `gradfilter_ma` of the first,
which are the published loops, with our transforms on the same gradients; and the `GrokFastAdamW` of each with our
transform and torch's AdamW. Correct is what the closed form says, with both ways of zeroing gradients: on a constant
gradient g, g(1 + λ); and a gradient that is not finite at one step is forgotten.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from _harness import RESULTS, compared, described, in_turn, make_parser, origin, publish, seconds, spread
from torch import Tensor, nn

import surgecollapse

TENSORS = 24
Step = Callable[[], object]


class Net(nn.Module):
    """Nothing but parameters: large weights, each with a small bias, and gradients at hand."""

    def __init__(self, size: int) -> None:
        super().__init__()
        weight = size // TENSORS
        shapes = [n for _ in range(TENSORS) for n in (weight - min(1000, weight // 2), min(1000, weight // 2))]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in shapes)
        generator = torch.Generator().manual_seed(0)
        self.originals = [torch.randn(n, generator=generator) for n in shapes]
        self.refill()

    def refill(self) -> None:
        """Put the gradients back to what they were."""
        for weight, original in zip(self.weights, self.originals, strict=True):
            if weight.grad is None:
                weight.grad = torch.empty_like(original)
            weight.grad.copy_(original)


class Loop:
    """A published filter, which hands its state back at every call."""

    def __init__(self, function: Callable[..., Any], net: nn.Module, **options: Any) -> None:
        self.function, self.net, self.options, self.state = function, net, options, None

    def __call__(self) -> None:
        """One step."""
        self.state = self.function(self.net, grads=self.state, **self.options)


class Ours:
    """One of our transforms, called as the hook calls it."""

    def __init__(self, transform: Any, net: nn.Module) -> None:
        self.transform, self.net = transform, net

    def __call__(self) -> None:
        """One step."""
        params = [p for p in self.net.parameters() if p.grad is not None]
        self.transform(params, [p.grad for p in params])

    @property
    def state(self) -> Any:
        """What it keeps for each parameter."""
        return self.transform._state


def contenders(net: nn.Module, windows: list[int], lr: float = 1e-4) -> dict[str, dict[str, Any]]:
    """Rows by group; the first of each group is ours, the base of its ratios."""
    peer, other = import_module("pytorch_optimizer.optimizer.grokfast"), import_module("grokfast_pytorch")
    found: dict[str, dict[str, Any]] = {
        "EMA, filter": {
            "surgecollapse": Ours(surgecollapse.Grokfast(), net),
            "surgecollapse, compiled": Ours(surgecollapse.Grokfast(compile=True), net),
            "pytorch-optimizer": Loop(peer.gradfilter_ema, net),
        }
    }
    for window in windows:
        found[f"MA of {window}, filter"] = {
            "surgecollapse": Ours(surgecollapse.GrokfastMA(window), net),
            "pytorch-optimizer": Loop(peer.gradfilter_ma, net, window_size=window),
        }
    plain = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    surgecollapse.transform_gradients(plain, [surgecollapse.Grokfast()])
    options = {"lr": lr, "betas": (0.9, 0.99), "normalize_lr": False}
    found["EMA with AdamW, step"] = {
        "surgecollapse + torch.optim.AdamW": plain,
        "pytorch-optimizer GrokFastAdamW": peer.GrokFastAdamW(net.parameters(), **options),
        "grokfast-pytorch GrokFastAdamW": other.GrokFastAdamW(net.parameters(), **options),
    }
    return found


def step_of(contender: Any) -> Step:
    """What is called once a step."""
    return contender.step if isinstance(contender, torch.optim.Optimizer) else contender


def held(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that a state holds, each storage once."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, dict):
        return sum(held(item, seen) for item in value.values())
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return sum(held(item, seen) for item in value)
    return 0


def allocated(step: Step) -> int:
    """Bytes that one step asks the allocator for."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


def measure(size: int, windows: list[int], repeats: int) -> list[dict[str, Any]]:
    """Time and memory of every contender; those of a group take turns."""
    net = Net(size)
    gradient_bytes = 4 * size

    def refilled(step: Step) -> float:
        net.refill()
        return seconds(step)

    rows = []
    for group, members in contenders(net, windows).items():
        warm = 3 + max([w for w in windows if f"of {w}," in group], default=0)
        steps = {name: step_of(contender) for name, contender in members.items()}
        found = compared(in_turn(steps, repeats, warm=warm, clock=refilled), next(iter(steps)))
        for name, contender in members.items():
            net.refill()
            extra = allocated(steps[name])
            state = contender.state if not isinstance(contender, torch.optim.Optimizer) else dict(contender.state)
            rows.append(
                {
                    "group": group,
                    "name": name,
                    **found[name],
                    # The transform's mean is not in the state of torch's AdamW.
                    "state": held(state) / gradient_bytes + ("torch.optim" in name),
                    "allocated": extra / gradient_bytes,
                }
            )
    return rows


def amplified(group: str, name: str, *, set_to_none: bool, bad: bool) -> float:
    """The gradient after 400 steps with the gradient 1, over 1 + λ; with ``bad``, the 10th is not finite."""
    net = Net(48)
    lamb = 5.0 if group.startswith("MA") else 2.0
    step = step_of(contenders(net, [10], lr=1e-6)[group][name])
    for turn in range(400):
        for weight in net.weights:
            if set_to_none:
                weight.grad = torch.ones_like(weight)
            else:
                weight.grad.zero_()
                weight.grad += 1.0
        if bad and turn == 10:
            for weight in net.weights:
                weight.grad[0] = math.inf
        step()
    return net.weights[0].grad[0].item() / (1 + lamb)


def check() -> dict[str, dict[str, float]]:
    """What each contender makes of a constant gradient."""
    found = {}
    for group, members in contenders(Net(48), [10]).items():
        for name in members:
            if "compiled" not in name:  # these tensors are below the size from which it acts
                found[f"{group}: {name}"] = {
                    "none": amplified(group, name, set_to_none=True, bad=False),
                    "in place": amplified(group, name, set_to_none=False, bad=False),
                    "after inf": amplified(group, name, set_to_none=True, bad=True),
                }
    return found


def as_markdown(report: dict) -> str:
    """The report as tables."""
    lines = [
        "# Grokfast here and in two packages",
        *described(report),
        f"{report['size']:,} entries (windows: {report['window size']:,}) in {2 * TENSORS} tensors, float32.",
        f"Medians of {report['repeats']} turns, least–most in brackets. State and allocations are in sizes of",
        "the gradient.",
        "",
        "| | ms | over ours | state | allocated a step |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        ratio = spread([row[key] for key in ("ratio", "least", "most")])
        name = f"{row['group']}: {row['name']}"
        lines.append(f"| {name} | {row['seconds'] * 1e3:.1f} | {ratio} | {row['state']:.1f} | {row['allocated']:.2f} |")
    lines += [
        "",
        "A constant gradient of 1 for 400 steps: what comes out, over the right answer 1 + λ; gradients made anew,",
        "zeroed in place, and made anew with one that was infinite at the 11th step. 1 is right.",
        "",
        "| | anew | in place | after one inf |",
        "|---|---|---|---|",
    ]
    for name, values in report["constant"].items():
        lines.append(f"| {name} | " + " | ".join(f"{values[k]:.3g}" for k in ("none", "in place", "after inf")) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the tables."""
    parser = make_parser(__doc__, out=RESULTS / "peers", repeats=11, threads=1)
    parser.add_argument("--peers", type=Path, required=True, help="folder in which the packages were installed")
    parser.add_argument("--size", type=int, default=24_000_000, help="entries")
    parser.add_argument("--window-size", type=int, default=4_000_000, help="entries where windows are compared")
    parser.add_argument("--windows", type=int, nargs="*", default=[10, 100], help="windows")
    options = parser.parse_args()
    sys.path.append(str(options.peers))
    torch.set_num_threads(options.threads)
    installed = {item.metadata["Name"]: item.version for item in distributions(path=[str(options.peers)])}
    report = {
        **origin(options.threads, **installed),
        "command": "python benchmarks/peers.py --peers peers",  # wherever the folder was
        "size": options.size,
        "repeats": options.repeats,
        "window size": options.window_size,
        "rows": [
            *measure(options.size, [], options.repeats),
            *(row for row in measure(options.window_size, options.windows, options.repeats) if "MA of" in row["group"]),
        ],
        "constant": check(),
    }
    publish(options.out, report, as_markdown(report))


if __name__ == "__main__":
    main()
