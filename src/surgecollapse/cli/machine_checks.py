"""Whether this machine and this torch do what the method relies on, and what it costs here."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgecollapse import Readings, attach
from surgecollapse.lab.nets.transformer import OneLayerTransformer
from surgecollapse.lab.training.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    value: str
    good: bool | None
    """Whether that is as it should be; ``None`` for a plain fact."""


LEAST = 3
"""Blocks that are timed however slow the machine is."""


def examine(*, blocks: int = 8, every: int = 50, rows: int = 128, seconds: float = 5.0) -> list[Check]:
    """Run all checks; about ten seconds.

    Args:
        blocks: pairs of timed blocks, each of ``every`` steps and one reading.
        every: steps between two readings, as in :func:`surgecollapse.attach`.
        rows: batch size of the timed net.
        seconds: after which no further block begins, but for the first three.
    """
    facts = environment()
    cuda = torch.cuda.is_available()
    ratio, spread, milliseconds = measure_overhead(blocks=blocks, every=every, rows=rows, seconds=seconds)
    return [
        Check("versions", ", ".join(f"{k} {facts[k]}" for k in ("surgecollapse", "torch", "python", "numpy")), None),
        Check("torch build", f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU only", None),
        Check("device", f"{facts['device']}" + ("" if cuda else f", {facts['processor']}"), None),
        Check("threads", f"{torch.get_num_threads()} of {facts['cores']} cores", None),
        _hooks_fire(),
        _mask_holds("cpu"),
        *([_mask_holds("cuda")] if cuda else []),
        Check(
            f"overhead of a controller, reading every {every} steps, its decisions included",
            f"× {ratio:.3f} (± {spread:.3f}) of a plain step of {milliseconds:.1f} ms (small transformer)",
            # A cost, no defect: where it is high there is nothing to repair, so that it never fails the doctor.
            True if ratio - spread <= 1.05 else None,
        ),
    ]


def measure_overhead(*, blocks: int, every: int, rows: int, seconds: float) -> tuple[float, float, float]:
    """Processor time of training with a controller over without, on two copies of one net, a step each in turn.

    The blocks begin in the dense start of the default policy; eight go on through its sparse and open phases.

    Returns:
        Ratio of all blocks, half the interquartile range of the blocks' ratios, and a plain step in milliseconds.
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
    # So long that the shortest phase (2.5% of it) holds a reading, and none is added to those that are timed.
    controller = attach(
        watched, optimizer, sparsity=0.9, total_steps=max(40, blocks + 1) * every, readings=Readings(every=every)
    )
    try:
        _in_turn(plain_step, watched_step, every)
        pairs: list[tuple[float, float]] = []
        began = time.monotonic()
        while len(pairs) < blocks and (len(pairs) < LEAST or time.monotonic() - began < seconds):
            pairs.append(_in_turn(plain_step, watched_step, every))
    finally:
        controller.detach()  # the training is left in its middle, which leaving a block of attach() would warn of
    low, _, high = statistics.quantiles([with_it / without for without, with_it in pairs], n=4)
    without, with_it = (sum(times) for times in zip(*pairs, strict=True))
    return with_it / without, (high - low) / 2, 1e3 * without / (len(pairs) * every)


def _in_turn(first: Callable[[], None], second: Callable[[], None], count: int) -> tuple[float, float]:
    """Processor seconds of two kinds of steps, taken in turn so that what disturbs one disturbs the other."""
    spent = [0.0, 0.0]
    for _ in range(count):
        for index, step in enumerate((first, second)):
            began = time.process_time()
            step()
            spent[index] += time.process_time() - began
    return spent[0], spent[1]


def _stepper(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, optimizer


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


def _mask_holds(device: str) -> Check:
    """A controller reaches its target exactly, and weight decay and momentum revive nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(16, 64)
        model = nn.Sequential(hidden, nn.ReLU(), nn.Linear(64, 4)).to(device)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)).to(device)
    step, optimizer = _stepper(model, x, torch.arange(32, device=device) % 4)
    with attach(model, optimizer, sparsity=0.75, total_steps=40, readings=Readings(every=1)) as controller:
        for _ in range(40):
            step()
        controller.finalize()
        for _ in range(3):
            step()
        live = int(torch.count_nonzero(hidden.weight))
    where = "" if device == "cpu" else " on the GPU"
    return Check(f"exact mask{where}", f"{live} of 1024 weights live at sparsity 75%", live == 256)
