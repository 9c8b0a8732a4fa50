"""Closed weights that the optimizer leaves at zero by itself, so that no mask need be multiplied after its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import moment_tensors

KEEP_ZEROS = frozenset({SGD, Adam, AdamW, NAdam, RAdam, Adagrad, RMSprop, Adadelta})
"""Optimizers that move each weight by its own gradient, moments and value alone, and not at all where all are zero."""


class _Seen(NamedTuple):
    """What held after the last step; if any of it changed since, the zeros are written again."""

    masks: int
    state: Any
    versions: list[int]
    rested: bool
    """Whether the moments of closed weights were zero."""


class ZeroPreservation:
    """Keeps closed weights at zero after each step, by a multiply only where it may change something.

    In an optimizer of :data:`KEEP_ZEROS` a weight stays +0.0 if its gradient was masked and its moments are zero. They
    are zero from the collapse that reset them. So nothing is written after a step if, since the last one,

    * no mask changed and the optimizer's state was not replaced (else its moments are looked at once),
    * no weight was written to: torch counts writes to a tensor, all but those through ``.data``.

    At readings the zeros are checked. If there is another value (a write through ``.data``, moments set by hand), it is
    taken out. Masks are multiplied after every step from then on.

    Args:
        weights: the masks.
        optimizers: those that step them, in the order of ``groups``.
        optimizer_state: what is done with moments where the mask flips; with ``keep`` they are not zero.
    """

    def __init__(self, weights: MaskedWeights, optimizers: Sequence[Optimizer], optimizer_state: str) -> None:
        self._weights, self._optimizers = weights, optimizers
        self._trusted = [type(optimizer) in KEEP_ZEROS and optimizer_state != "keep" for optimizer in optimizers]
        self._seen: dict[int, _Seen] = {}
        self._skippable: set[int] = set()
        self._written: set[int] = set()
        self._found = False

    def disable_fast_path(self, index: int) -> None:
        """Multiply after every step of this optimizer."""
        self._trusted[index] = False

    def before_step(self, index: int, names: Sequence[str]) -> None:
        """Note whether the coming step of optimizer ``index`` will leave closed weights of ``names`` at zero."""
        seen = self._seen.get(index)
        if not self._trusted[index] or seen is None or not self._stands(index, seen):
            return
        if seen.versions != self._versions(names):
            self._written.add(index)  # decay may set the moments of what was written in the step that comes
        elif seen.rested:
            self._skippable.add(index)

    def skips(self, index: int) -> bool:
        """Whether the step under way leaves closed weights at zero by itself."""
        return index in self._skippable

    @torch.no_grad()
    def after_step(self, index: int, names: Sequence[str], *, check: bool) -> None:
        """Make closed weights zero, where they are not by themselves; look whether they are with ``check``."""
        skippable, written = self.skips(index), index in self._written
        self._skippable.discard(index)
        self._written.discard(index)
        held = not (skippable and check) or self._weights.closed_are_zero(names)
        if not held:
            self.disable_fast_path(index)
            self._found = True
        if not (skippable and held):
            self._weights.apply(names)
        if self._trusted[index] and not self._weights.dense:
            seen = self._seen.get(index)
            known = seen is not None and not written and self._stands(index, seen)
            rested = seen.rested if seen is not None and known else self._moments_are_zero(index, names)
            self._seen[index] = _Seen(
                self._weights.changes, self._optimizers[index].state, self._versions(names), rested
            )

    def found_values(self) -> bool:
        """Whether the last check found a value where a zero was expected; asked once."""
        found, self._found = self._found, False
        return found

    def _stands(self, index: int, seen: _Seen) -> bool:
        return seen.masks == self._weights.changes and seen.state is self._optimizers[index].state

    def _versions(self, names: Sequence[str]) -> list[int]:
        return [self._weights.value(name)._version for name in names]

    def _moments_are_zero(self, index: int, names: Sequence[str]) -> bool:
        found: list[Tensor] = []
        for name in names:
            mask = self._weights.held(name)
            if mask is not None:
                moments = moment_tensors(self._optimizers[index], self._weights.params[name]).values()
                found += [moment.masked_fill(mask != 0, 0).any() for moment in moments]
        return not found or not bool(torch.stack([flag.to(found[0].device) for flag in found]).any())
