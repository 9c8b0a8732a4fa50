"""What a model whose weights are split over processes cannot be trained with."""

from __future__ import annotations

from typing import Any

from torch import nn

from surgecollapse.controller.options import Options
from surgecollapse.policies.recycling import Recycle
from surgecollapse.protocols import Policy
from surgecollapse.torch_utils.modules import canonical_name
from surgecollapse.torch_utils.shards import is_sharded, splits

_INSTEAD = "train with DistributedDataParallel"


def check_sharded(model: nn.Module, options: Options, policy: Policy) -> None:
    """Refuse, in one sentence with the fix, what needs whole weights where each process holds a part of them.

    Raises:
        ValueError: for monitors, policies that recycle units, and parts that are no boxes of the whole.
    """
    split = {canonical_name(name): p for name, p in model.named_parameters() if is_sharded(p)}
    if not split:
        return
    for name, p in split.items():
        if splits(p) is None:
            placements: tuple[Any, ...] = p.placements  # type: ignore[attr-defined]
            raise ValueError(
                f"{name} is split as {placements}, whose parts are no plain slices: use Shard or Replicate along each "
                "dimension of the device mesh, or fully_shard after parallelize_module"
            )
    if options.monitoring.monitors:
        raise ValueError(
            f"monitors look at whole weights and gradients, of which each process holds a part here: leave out "
            f"monitors=, or {_INSTEAD}"
        )
    if isinstance(policy, Recycle):
        raise ValueError(
            "policy 'redo' draws all weights of a unit anew, which lie on several processes here: choose another "
            f"policy, or {_INSTEAD}"
        )


def check_not_sharded_since(model: nn.Module) -> None:
    """Refuse a model that was split after the controller was attached.

    Raises:
        RuntimeError: if it was.
    """
    if any(is_sharded(p) for p in model.parameters()):
        raise RuntimeError(
            "the model was sharded after attach, which replaced its parameters: call fully_shard or "
            "parallelize_module first, build the optimizer from model.parameters() then, and attach last"
        )
