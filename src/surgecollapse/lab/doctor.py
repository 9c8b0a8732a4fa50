"""Whether this machine and this torch do what the method relies on, and what it costs here."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgecollapse import attach
from surgecollapse.lab.environment import environment
from surgecollapse.lab.models import OneLayerTransformer

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    value: str
    good: bool | None
    """Whether that is as it should be; ``None`` for a plain fact."""


def examine(*, blocks: int = 5, every: int = 50, rows: int = 128) -> list[Check]:
    """Run all checks; about ten seconds on a small machine.

    Args:
        blocks: pairs of timed blocks, each of ``every`` steps and one reading.
        every: steps between two readings, as in :func:`surgecollapse.attach`.
        rows: batch size of the timed net.
    """
    facts = environment()
    cuda = torch.cuda.is_available()
    ratio, spread, milliseconds = measure_overhead(blocks=blocks, every=every, rows=rows)
    return [
        Check("versions", ", ".join(f"{k} {facts[k]}" for k in ("surgecollapse", "torch", "python", "numpy")), None),
        Check("torch build", f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU only", None),
        Check("device", f"{facts['device']}" + ("" if cuda else f", {facts['processor']}"), None),
        Check("threads", f"{torch.get_num_threads()} of {facts['cores']} cores", None),
        _hooks_fire(),
        _mask_holds(),
        Check(
            f"overhead of a controller, a reading every {every} steps",
            f"× {ratio:.3f} (± {spread:.3f}) of a plain step of {milliseconds:.1f} ms, one-layer transformer",
            ratio - spread <= 1.05,
        ),
    ]


def measure_overhead(*, blocks: int, every: int, rows: int) -> tuple[float, float, float]:
    """Time of training with a controller over without, on two copies of one net, in alternating blocks.

    Returns:
        Median ratio, half its interquartile range, and the median plain step in milliseconds.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 99, (rows, 4), generator=generator)
    y = torch.randint(0, 97, (rows,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = OneLayerTransformer(99, 4, 97, width=128, hidden=512)
    watched = copy.deepcopy(plain)
    plain_step, _ = _stepper(plain, x, y)
    watched_step, optimizer = _stepper(watched, x, y)
    with attach(watched, optimizer, sparsity=0.9, total_steps=4 * (blocks + 1) * every, every=every):
        _seconds(plain_step, every)
        _seconds(watched_step, every)
        pairs = [(_seconds(plain_step, every), _seconds(watched_step, every)) for _ in range(blocks)]
    ratios = [with_it / without for without, with_it in pairs]
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, (high - low) / 2, 1e3 * statistics.median(without for without, _ in pairs) / every


def _stepper(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, optimizer


def _seconds(step: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - began


def _hooks_fire() -> Check:
    """Step hooks, plain and fused, are called once each per step."""
    calls: list[str] = []
    for fused in (False, True):
        parameter = nn.Parameter(torch.ones(2))
        parameter.grad = torch.ones(2)
        optimizer = torch.optim.AdamW([parameter], fused=fused)
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        optimizer.step()
    good = calls == ["pre", "post"] * 2
    return Check("optimizer step hooks", "fire, plain and fused" if good else f"called as {calls}", good)


def _mask_holds() -> Check:
    """A controller reaches its target exactly, and weight decay and momentum revive nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(16, 64)
        model = nn.Sequential(hidden, nn.ReLU(), nn.Linear(64, 4))
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    step, optimizer = _stepper(model, x, torch.arange(32) % 4)
    with attach(model, optimizer, sparsity=0.75, total_steps=40, every=4) as controller:
        _seconds(step, 40)
        controller.finalize()
        _seconds(step, 3)
        live = int(torch.count_nonzero(hidden.weight))
    return Check("exact mask", f"{live} of 1024 weights live at sparsity 75%", live == 256)
