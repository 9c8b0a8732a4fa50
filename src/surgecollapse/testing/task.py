"""What every task must give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data

Make = Callable[..., Any]
"""The task: a function of ``(seed, data_dir)``."""
_PARTS = ("train", "validation", "test")


def check_task(task: Make, *, seed: int = 0, data_dir: Path | None = None) -> None:
    """Check a task: three sets of one shape, labels in range, the same again for the same seed.

    Args:
        task: function of ``(seed, data_dir)`` that returns a :class:`~surgecollapse.lab.data.dataset.Data`.
        seed: to check with.
        data_dir: where its files are, if it reads any.

    Raises:
        AssertionError: for the first claim that does not hold.
    """
    for check in TASK_CHECKS:
        check(lambda: task(seed, data_dir))


def gives_three_sets(make: Callable[[], Data]) -> None:
    """Training, validation and test set have rows of one shape and dtype, and as many labels."""
    from surgecollapse.lab.data.dataset import Data, Kind

    data = make()
    assert isinstance(data, Data), f"expected a surgecollapse.lab.data.dataset.Data, got {type(data).__name__}"
    assert data.kind in get_args(Kind), f"kind {data.kind!r}: expected one of {', '.join(get_args(Kind))}"
    for part in _PARTS:
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert len(x) == len(y) > 0, f"{part}: {len(x)} samples and {len(y)} labels"
        assert tuple(x.shape[1:]) == data.input_shape, f"{part}: samples of shape {tuple(x.shape[1:])}"
        assert x.dtype == data.x_train.dtype, f"{part}: {x.dtype}, but training samples are {data.x_train.dtype}"
        assert not x.is_floating_point() or bool(torch.isfinite(x).all()), f"{part}: samples are not finite"
    assert data.description, "its description is empty"
    assert data.source, "its source is empty"


def labels_are_in_range(make: Callable[[], Data]) -> None:
    """Labels are int64 classes from 0 to ``num_classes`` − 1; those of graphs are finite numbers."""
    data = make()
    for part in _PARTS:
        y = getattr(data, f"y_{part}")
        if data.kind == "graph":
            assert bool(torch.isfinite(y).all()), f"{part}: labels are not finite"
            continue
        assert y.dtype == torch.int64, f"{part}: labels are {y.dtype}, expected int64"
        assert int(y.min()) >= 0, f"{part}: a label is {int(y.min())}"
        assert int(y.max()) < data.num_classes, f"{part}: a label is {int(y.max())} of {data.num_classes} classes"
    if data.kind in ("tokens", "text"):
        assert data.vocabulary > int(data.x_train.max()), f"token {int(data.x_train.max())} of {data.vocabulary}"


def is_reproducible(make: Callable[[], Data]) -> None:
    """The same seed gives the same samples, and torch's global generator is left alone."""
    state = torch.get_rng_state()
    one, other = make(), make()
    assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator"
    for part in _PARTS:
        for name in (f"x_{part}", f"y_{part}"):
            assert torch.equal(getattr(one, name), getattr(other, name)), f"{name} differs for the same seed"


TASK_CHECKS: tuple[Callable[[Callable[[], Any]], None], ...] = (gives_three_sets, labels_are_in_range, is_reproducible)
"""The claims, each a function of what gives the data."""
