"""The library's passes on a GPU, as ratios to plain passes over the same memory and to the same training step.

    python benchmarks/gpu.py

Filters on 28 million gradients in 48 tensors, and ⊥Grad, over a flat in-place lerp and add of the same bytes; a
windowed filter of 1,000 gradients on 2 million; a collapse of 28 million weights, over one copy of them; StableMax over
``F.cross_entropy``; a training step of a 25-million-parameter transformer in bfloat16 autocast with masks, transforms
and monitors, over the same step without; linear layers with 2:4 kernels over dense ones in float16. Times are those
between CUDA events on an idle GPU, launches included, of a step those of the wall, median over turns in which all are
timed in turn. What a call measures takes the place of the same part in ``gpu.json``. Goals are
those of the benchmarks of the CPU, where there is one.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _harness import command, compared, in_turn, make_parser, publish, spread
from torch import Tensor, nn
from torch.nn import functional as F

import surgecollapse
from surgecollapse import Grokfast, GrokfastMA, OrthoGrad, attach, stablemax_cross_entropy, watch_training
from surgecollapse.export.semi_structured import to_semi_structured
from surgecollapse.functional import lowest

LARGE, SMALL, TENSORS = 28_000_000, 2_000_000, 24
Actions = dict[str, Callable[[], object]]


def queue_time(action: Callable[[], object]) -> float:
    """Milliseconds between two events around an action on an idle GPU: its launches count where they take longer."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def wall_time(action: Callable[[], object]) -> float:
    """Milliseconds until an action and all it queued are done."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def timed(
    actions: Actions, *, turns: int, clock: Callable[[Callable[[], object]], float], warm: int = 3
) -> dict[str, Any]:
    """Median, least and most time of every action, and of its ratio to the first within a turn."""
    for action in actions.values():
        for _ in range(warm):
            action()
    found = compared(in_turn(actions, turns, clock=clock), next(iter(actions)))
    return {name: {"ms": row.pop("seconds"), **row} for name, row in found.items()}


def tensors(size: int, seed: int = 0) -> list[Tensor]:
    """As the gradients of a net: large weights, each with a small bias."""
    generator = torch.Generator("cuda").manual_seed(seed)
    bias = min(1000, size // TENSORS // 2)
    weight = size // TENSORS - bias
    return [
        torch.randn(shape, generator=generator, device="cuda")
        for _ in range(TENSORS)
        for shape in ((weight // 8, 8), (bias,))
    ]


def filters(turns: int) -> dict[str, Any]:
    """Filters and ⊥Grad over a flat lerp and add of the same bytes."""
    grads, params = tensors(LARGE), tensors(LARGE, seed=1)
    size = sum(grad.numel() for grad in grads)
    flat, other = torch.zeros(size, device="cuda"), torch.randn(size, device="cuda")

    def lerp_and_add() -> None:
        flat.lerp_(other, 0.02)
        other.add_(flat, alpha=1e-6)

    actions: Actions = {"flat lerp and add": lerp_and_add}
    for name, transform in {
        "Grokfast": Grokfast(lamb=1e-6),
        "Grokfast, compiled": Grokfast(lamb=1e-6, compile=True),
        **{
            f"GrokfastMA, window {window}{', compiled' if compiled else ''}": GrokfastMA(
                window=window, lamb=1e-6, warmup=False, compile=compiled
            )
            for window in (10, 100)
            for compiled in (False, True)
        },
        "⊥Grad": OrthoGrad(),
    }.items():
        actions[name] = lambda transform=transform: transform(params, grads)
    return timed(actions, turns=turns, clock=queue_time)


def long_window(turns: int) -> dict[str, Any]:
    """A window of 1,000 on few gradients, over the exponential filter."""
    grads, params = tensors(SMALL), tensors(SMALL, seed=1)
    actions: Actions = {}
    for name, transform in {
        "Grokfast, 2 M": Grokfast(lamb=1e-6),
        "GrokfastMA, window 1,000, 2 M": GrokfastMA(window=1_000, lamb=1e-6, warmup=False),
        "GrokfastMA, window 1,000, 2 M, compiled": GrokfastMA(window=1_000, lamb=1e-6, warmup=False, compile=True),
    }.items():
        actions[name] = lambda transform=transform: transform(params, grads)
    return timed(actions, turns=turns, clock=queue_time)


def collapse(turns: int) -> dict[str, Any]:
    """Masks of the 80% smallest weights of all tensors."""
    weights = tensors(LARGE)
    scores, k = [weight.abs() for weight in weights], int(0.8 * LARGE)
    copies = [torch.empty_like(score) for score in scores]
    equal = [torch.ones_like(score) for score in scores]
    return timed(
        {
            "copy": lambda: torch._foreach_copy_(copies, scores),
            "collapse": lambda: lowest(scores, k),
            "collapse of equal weights": lambda: lowest(equal, k),
        },
        turns=turns,
        clock=queue_time,
    )


def losses(turns: int) -> dict[str, Any]:
    """StableMax with its gradient over the softmax."""
    found = {}
    for rows, classes in ((5107, 113), (4096, 1000), (2048, 50257)):
        x = torch.randn(rows, classes, device="cuda", requires_grad=True)
        y = torch.randint(0, classes, (rows,), device="cuda")
        compiled = [torch.compile(loss, dynamic=False) for loss in (F.cross_entropy, stablemax_cross_entropy)]
        named = {
            "F.cross_entropy": F.cross_entropy,
            "StableMax": stablemax_cross_entropy,
            "F.cross_entropy, compiled": compiled[0],
            "StableMax, compiled": compiled[1],
        }
        actions = {
            f"{name}, {rows} × {classes}": lambda loss=loss, x=x, y=y: torch.autograd.grad(loss(x, y), x)
            for name, loss in named.items()
        }
        found.update(timed(actions, turns=turns, clock=queue_time))
    return found


class Transformer(nn.Module):
    """Eight layers of width 512: 25.2 million prunable weights."""

    def __init__(self, tokens: int = 1_000, width: int = 512, layers: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, length, tokens) of token rows (n, length)."""
        return self.head(self.blocks(self.tokens(x)))


def stepper(x: Tensor, y: Tensor, add: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> Callable[[], None]:
    """Fifty training steps of a net of its own, after sixty that are not timed."""
    torch.manual_seed(0)
    model = Transformer().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    added = add(model, optimizer)

    def steps(count: int = 50) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()

    steps(60)
    steps.added = added  # as long as the steps are there
    return steps


def training(turns: int) -> dict[str, Any]:
    """A step with what the library adds, over one without: a third of the turns, each of 50 steps with one reading."""
    x = torch.randint(0, 1_000, (32, 256), generator=torch.Generator().manual_seed(0)).cuda()
    y = x.roll(-1, 1)
    added: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Any]] = {
        "plain step": lambda *_: None,
        "readings alone": lambda model, optimizer: attach(
            model, optimizer, sparsity=0.0, total_steps=10**6, policy="no_op"
        ),
        "masks, 90% closed": lambda model, optimizer: attach(
            model, optimizer, sparsity=0.9, total_steps=10**6, policy="static"
        ),
        "masks, compiled": lambda model, optimizer: attach(
            model, optimizer, sparsity=0.9, total_steps=10**6, policy="static", compile=True
        ),
        "Grokfast": lambda _, optimizer: surgecollapse.transform_gradients(optimizer, [Grokfast(lamb=0.1)]),
        "⊥Grad": lambda _, optimizer: surgecollapse.transform_gradients(optimizer, [OrthoGrad()]),
        "default monitors": lambda model, optimizer: watch_training(model, optimizer),
    }
    actions = {name: stepper(x, y, add) for name, add in added.items()}
    return timed(actions, turns=max(3, turns // 3), clock=wall_time, warm=1)


def two_four(turns: int) -> dict[str, Any]:
    """A linear layer of 2:4 weights, packed over dense, both in float16."""
    found = {}
    for size, rows in ((1024, 4096), (4096, 4096), (8192, 8192)):
        torch.manual_seed(0)
        layer = nn.Linear(size, size, device="cuda")
        with torch.no_grad():
            layer.weight.mul_(torch.rand(size, size // 4, 4, device="cuda").argsort(-1).lt(2).view(size, size))
        x = torch.randn(rows, size, device="cuda", dtype=torch.float16)
        packed = to_semi_structured(nn.Sequential(layer), x[:64]).model
        dense = nn.Sequential(layer).half()

        def many(net: nn.Module, x: Tensor = x) -> None:
            with torch.inference_mode():
                for _ in range(10):
                    net(x)

        actions = {
            f"dense, {size} × {size}, {rows} rows": lambda net=dense, many=many: many(net),
            f"2:4, {size} × {size}, {rows} rows": lambda net=packed, many=many: many(net),
        }
        found.update(timed(actions, turns=turns, clock=queue_time))
    return found


PARTS = {
    "filters": filters,
    "long window": long_window,
    "collapse": collapse,
    "losses": losses,
    "training step": training,
    "2:4": two_four,
}


def main() -> None:
    """Run the parts, write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--turns", type=int, default=15, help="turns of each part")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures a GPU, and torch sees none: see `surgecollapse doctor`")
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, python {platform.python_version()}"
    file = options.out / "gpu.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for part in options.parts:
        began = time.perf_counter()
        rows = PARTS[part](options.turns)
        found[part] = {"command": command(), "machine": machine, "turns": options.turns, "rows": rows}
        torch.cuda.empty_cache()
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    publish(file, found, page(found))


def page(found: dict[str, Any]) -> str:
    """A table a part."""
    lines = ["# On a GPU"]
    for part, run in found.items():
        lines += [
            "",
            f"## {part.capitalize()}",
            "",
            f"`{run['command']}`; {run['machine']}; turns asked for: {run['turns']}",
        ]
        lines += ["", "| what | ms | over the first |", "|---|---|---|"]
        lines += [
            f"| {name} | {row['ms']:.3f} | {spread([row[key] for key in ('ratio', 'least', 'most')], 3)} |"
            for name, row in run["rows"].items()
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
