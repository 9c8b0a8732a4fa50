"""Which models can be exported: those whose weights are whole."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from surgecollapse.torch_utils.shards import is_sharded


def check_plain(named: Iterable[tuple[str, Tensor]]) -> None:
    """Check that no tensor is split over processes.

    Args:
        named: parameters, or entries of a state dict.

    Raises:
        ValueError: if one is, with the way to a whole model.
    """
    for name, tensor in named:
        if is_sharded(tensor):
            raise ValueError(
                f"{name} is split over processes, and whole weights are exported: get a full state dict with "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict and StateDictOptions(full_state_dict="
                "True), load it into a plain model, and export that"
            )
