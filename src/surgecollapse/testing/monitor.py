"""What every monitor must do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.attaching.monitoring import watch_training
from surgecollapse.events import Measurement
from surgecollapse.protocols import Monitor, MonitorContext
from surgecollapse.record import MemoryRecorder

Make = Callable[[], Monitor]
"""Makes a new monitor."""
_NEEDS = {"gradients", "activations", "outputs"}
_STEPS = 9


def check_monitor(make: Make) -> None:
    """Check a monitor: known needs, named series, and a training that is bitwise the one without it.

    Args:
        make: makes a new monitor; a class without required arguments will do.

    Raises:
        AssertionError: for the first claim that does not hold.

    >>> from surgecollapse.observe.monitors.norms import Norms
    >>> check_monitor(Norms)
    """
    for check in MONITOR_CHECKS:
        check(make)


def keeps_the_protocol(make: Make) -> None:
    """It has a name, known needs, and measures."""
    monitor = make()
    assert isinstance(monitor, Monitor), f"expected name, needs and measure(context); got {monitor!r}"
    assert monitor.name, "its name is empty"
    unknown = set(monitor.needs) - _NEEDS
    assert not unknown, f"unknown needs {sorted(unknown)}: expected some of {', '.join(sorted(_NEEDS))}"


def stands_a_bare_context(make: Make) -> None:
    """A context with one weight and nothing else is measured, or left out, without an error."""
    found = make().measure(MonitorContext(step=1, model=nn.Linear(2, 2), weights={"bias": torch.ones(3)}))
    assert isinstance(found, Mapping), f"measure() returns {found!r}: expected a mapping of series"


def series_are_named_and_finite(make: Make) -> None:
    """Series are called ``group/name``; something is measured, and the same again in the same training."""
    first, again = _series(make), _series(make)
    assert first, f"nothing was recorded in {_STEPS} steps of a small classifier with noted loss and labels"
    for measurement in first:
        assert "/" in measurement.name, f"series {measurement.name!r}: expected group/name"
        assert math.isfinite(measurement.value), f"{measurement.name} is {measurement.value}"
    assert first == again, "the same training gives other numbers: it draws from a global generator, or keeps state"


def training_is_untouched(make: Make) -> None:
    """Weights after training are bitwise those without it, and so is the global generator."""
    plain, watched = _train(None), _train(make())
    for one, other in zip(plain[0], watched[0], strict=True):
        assert torch.equal(one, other), "training with it ends with other weights than training without it"
    assert torch.equal(plain[1], watched[1]), "it draws from torch's global generator"


MONITOR_CHECKS: tuple[Callable[[Make], None], ...] = (
    keeps_the_protocol,
    stands_a_bare_context,
    series_are_named_and_finite,
    training_is_untouched,
)
"""The claims, each a function of what makes the monitor."""


def _series(make: Make) -> list[Measurement]:
    recorder = MemoryRecorder()
    _train(make(), recorder)
    return [one for one in recorder.of(Measurement) if not one.name.startswith("budget/")]


def _train(monitor: Monitor | None, recorder: MemoryRecorder | None = None) -> tuple[list[Tensor], Tensor]:
    """A few steps of a small classifier with dropout, whose draws a monitor must not shift."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )
        x = torch.randn(48, 6)
        y = torch.randint(3, (48,))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        options: dict[str, Any] = {"monitors": [] if monitor is None else [monitor], "every": 1, "budget": None}
        recorders = [] if recorder is None else [recorder]
        watched = watch_training(
            net, optimizer, **options, recorders=recorders, criterion=nn.functional.cross_entropy, probe=x
        )
        with watched:
            for _ in range(_STEPS):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                watched.note(loss=loss, targets=y, validation_loss=loss.item() + 0.5)
                optimizer.step()
        return [p.detach().clone() for p in net.parameters()], torch.get_rng_state()
