"""Modules whose weights ``fully_shard`` gathers for each pass, and frees after it."""

from __future__ import annotations

from torch import nn


def gathers(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on a module: it gathers its weights for each pass."""
    return hasattr(module, "set_reshard_after_backward")


def gather_again(model: nn.Module) -> None:
    """Free the whole weights that a pass without a backward pass left behind, so that the parameters are parts again.

    ``fully_shard`` keeps those of the outermost module for the backward pass. Without this, the next pass would use
    them, although the parts have changed since.
    """
    for module in model.modules():
        if gathers(module):
            module.reshard()  # type: ignore[operator]
