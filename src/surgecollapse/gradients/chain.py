"""The declared order of gradient transforms: filter → project → clip, once per optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.gradients.effects import Effects
from surgecollapse.protocols import GradientTransform
from surgecollapse.torch_utils.step_hooks import parameters_of

STAGES = ("filter", "project", "clip")
"""The order in which transforms may follow each other. A user's own clipping comes before all of them."""


_standing: WeakKeyDictionary[Optimizer, list[TransformChain]] = WeakKeyDictionary()
"""Chains that act before each step of an optimizer already, in the order in which they do."""


class TransformChain:
    """Applies transforms in their order to the final gradients of an optimizer.

    The order of the whole step is: all-reduce → unscale → the user's clipping → filters (Grokfast) → projections
    (OrthoGrad) → an optional final clip → mask → update. Each happens once per optimizer step, never per micro-batch.

    Args:
        transforms: in the order in which they are applied.

    Raises:
        TypeError: if an item is no transform.
        ValueError: if a stage is unknown, or the order is not the declared one.

    >>> TransformChain([])
    TransformChain([])
    """

    def __init__(self, transforms: Sequence[GradientTransform]) -> None:
        self._transforms = list(transforms)
        stages = []
        for item in self._transforms:
            if not callable(item) or not hasattr(item, "stage"):
                raise TypeError(
                    "a gradient transform needs stage, __call__(params, grads), state_dict(params) and "
                    f"load_state_dict(state, params); got {item!r}"
                )
            if item.stage not in STAGES:
                raise ValueError(f"{type(item).__name__} has the stage {item.stage!r}: expected {', '.join(STAGES)}")
            stages.append(STAGES.index(item.stage))
        if stages != sorted(stages):
            given = ", ".join(f"{type(item).__name__} ({item.stage})" for item in self._transforms)
            raise ValueError(f"transforms must come in the order {' → '.join(STAGES)}, got {given}: reorder them")

    def check_after_standing(self, optimizer: Optimizer) -> None:
        """Check that this chain may act after those that the optimizer has.

        Raises:
            ValueError: if one of them ends with a later stage than this one begins with.
        """
        before = [item for chain in _standing.get(optimizer, []) for item in chain._transforms]
        if before and self._transforms and STAGES.index(before[-1].stage) > STAGES.index(self._transforms[0].stage):
            raise ValueError(
                f"{type(self._transforms[0]).__name__} ({self._transforms[0].stage}) would act after "
                f"{type(before[-1]).__name__} ({before[-1].stage}), which this optimizer has already, and the order is "
                f"{' → '.join(STAGES)}: give all transforms in one call, or remove() the earlier ones first"
            )

    def stand_before(self, optimizer: Optimizer) -> None:
        """Note that this chain acts before each step of an optimizer from now on, after those that do already."""
        _standing.setdefault(optimizer, []).append(self)

    def leave(self, optimizer: Optimizer) -> None:
        """Note that it does no longer."""
        chains = _standing.get(optimizer, [])
        if self in chains:
            chains.remove(self)

    def __len__(self) -> int:
        return len(self._transforms)

    def __repr__(self) -> str:
        return f"TransformChain({self._transforms!r})"

    @torch.no_grad()
    def apply(self, optimizer: Optimizer, effects: Effects | None = None) -> None:
        """Transform the optimizer's gradients in place; they must be unscaled.

        Args:
            optimizer: whose gradients.
            effects: where given, sees the gradients before and after each transform.
        """
        if not self._transforms:
            return
        params = [p for p in parameters_of(optimizer) if p.grad is not None]
        grads = [p.grad for p in params if p.grad is not None]
        for transform in self._transforms:
            if effects is None:
                transform(params, grads)
            else:
                whole = [g for g in grads if g.layout is torch.strided and not hasattr(g, "to_local")]
                before = [g.clone() for g in whole]
                transform(params, grads)
                effects.see(transform, before, whole)

    def state_dict(self, params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """State of every transform, with one entry for each of ``params``."""
        return [transform.state_dict(params) for transform in self._transforms]

    def load_state_dict(self, state: Sequence[dict[str, Any]], params: Sequence[Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, for the same parameters in the same order.

        Raises:
            ValueError: if the number of transforms differs.
        """
        if len(state) != len(self._transforms):
            raise ValueError(
                f"this state has {len(state)} gradient transforms, here there are {len(self._transforms)}: "
                "attach the same ones"
            )
        for transform, saved in zip(self._transforms, state, strict=True):
            transform.load_state_dict(saved, params)
