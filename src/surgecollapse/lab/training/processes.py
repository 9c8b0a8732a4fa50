"""Several processes that train one run together, as ``torchrun`` starts them; the first of them records it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from surgecollapse.controller.carried import CARRIED
from surgecollapse.torch_utils.distributed import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

_OWN = ("probe", "random")
"""Parts of a controller's state that each rank has of its own."""


@contextmanager
def launched() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started, for the length of a block; this process alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield everyone()
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield everyone()
    finally:
        distributed.destroy_process_group()


def everyone() -> Ranks:
    """All processes of the default group; this one alone where there is none."""
    there = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return Ranks(distributed.group.WORLD if there else None)


def own_part(ranks: Ranks, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """The part of a batch that this rank trains on, and its weight in the mean over ranks.

    Weights make the mean of the ranks' gradients that of the mean loss of the whole batch. A batch of fewer samples
    than ranks goes to all of them.

    >>> x, y, weight = own_part(Ranks(), torch.ones(3, 2), torch.arange(3))
    >>> y.tolist(), weight
    ([0, 1, 2], 1.0)
    """
    size, rows = ranks.size, len(labels)
    if size == 1 or rows < size:
        return x, labels, 1.0
    own = slice(ranks.rank * rows // size, (ranks.rank + 1) * rows // size)
    return x[own], labels[own], (own.stop - own.start) * size / rows


def own_states(ranks: Ranks, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs between the ranks in a run's state, of all of them; every rank must call it.

    Args:
        ranks: the processes.
        state: the state of the run on this rank.
    """
    controller = _controller_in(state)
    own = {"torch_rng": state["torch_rng"], "device_rng": state["device_rng"]}
    own["controller"] = None if controller is None else {name: controller[name] for name in _OWN}
    return ranks.gathered(own)


def _controller_in(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The controller's state, which travels in the optimizer's."""
    found: dict[str, Any] | None = state["optimizer"].get(CARRIED, [None])[0]
    return found


def for_rank(ranks: Ranks, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a run as this rank had it.

    Raises:
        ValueError: if another number of processes saved it.
    """
    saved = state.get("ranks", [None])
    if len(saved) != ranks.size:
        how = f"torchrun --nproc-per-node {len(saved)}" if len(saved) > 1 else "one process"
        raise ValueError(f"this run was trained by {len(saved)} process(es), not {ranks.size}: resume it with {how}")
    own = saved[ranks.rank]
    if own is None:
        return state
    controller = _controller_in(state)
    mine = {name: value for name, value in own.items() if name != "controller"}
    if controller is not None:
        mine["optimizer"] = {**state["optimizer"], CARRIED: [{**controller, **own["controller"]}]}
    return {**state, **mine}
