"""State of a controller in checkpoints of ``torch.distributed.checkpoint``, to be loaded by any number of processes."""

from __future__ import annotations

import io
from typing import Any, Protocol

import torch


class HasState(Protocol):
    """What has a state of its own: a controller, or the handle of ``transform_gradients``."""

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of the state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a snapshot."""
        ...


class DistributedState:
    """Wraps a controller as an entry of ``torch.distributed.checkpoint.save`` and ``load``.

    ``torch.distributed.checkpoint`` loads only what the state before the load has, entry by entry, and a controller has
    no masks before. Its state is therefore one entry. It holds whole masks, one bit a weight, and the whole growth
    signal, which every rank gathers in its own memory. So it is loaded by any number of processes.

    Args:
        source: a controller, or the handle of :func:`surgecollapse.transform_gradients`.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> controller = surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000)
    >>> state = DistributedState(controller).state_dict()
    >>> sorted(state), type(state["state"]).__name__
    (['state'], 'bytes')
    """

    def __init__(self, source: HasState) -> None:
        self._source = source

    def state_dict(self) -> dict[str, Any]:
        """The state as bytes; of a sharded model every rank must ask."""
        buffer = io.BytesIO()
        torch.save(self._source.state_dict(), buffer)
        return {"state": buffer.getvalue()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state. Load the model and the optimizer first."""
        found = torch.load(io.BytesIO(state["state"]), weights_only=True, map_location="cpu")
        self._source.load_state_dict(found)
