"""State that travels inside an optimizer's own state dict, so that whatever saves the optimizer saves it too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

_carriers: weakref.WeakKeyDictionary[Optimizer, dict[str, list[weakref.ref[CarriedState]]]] = (
    weakref.WeakKeyDictionary()
)
"""The hooks of an optimizer keep its carriers alive; here they are weak, so that both go together."""


class CarriedState:
    """Adds a state to ``optimizer.state_dict()`` under one key, and takes it out of what is loaded.

    Several may share a key: their states are a list, in the order in which they were made. An optimizer without this
    library loads such a state dict, too: torch ignores other keys than its own.

    Args:
        optimizer: whose state dict carries it.
        key: in the state dict.
        save: returns the state, a snapshot of values that ``torch.load(weights_only=True)`` takes.
        load: takes what was saved once the optimizer's own state is loaded; ``None`` where there was nothing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        key: str,
        save: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any] | None], None],
    ) -> None:
        self._key, self._save, self._load = key, save, load
        self._found: dict[str, Any] | None = None
        self._peers = _carriers.setdefault(optimizer, {}).setdefault(key, [])
        self._self: weakref.ref[CarriedState] = weakref.ref(self)
        self._peers.append(self._self)
        self._handles: list[RemovableHandle] = [
            optimizer.register_state_dict_post_hook(self._add),
            optimizer.register_load_state_dict_pre_hook(self._take),
            optimizer.register_load_state_dict_post_hook(self._apply),
        ]

    def _add(self, _: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, self._key: [*state.get(self._key, []), self._save()]}

    def _take(self, _: Optimizer, state: Mapping[str, Any]) -> None:
        carried, place = state.get(self._key, []), self._peers.index(self._self)
        self._found = carried[place] if place < len(carried) else None

    def _apply(self, _: Optimizer) -> None:
        found, self._found = self._found, None
        self._load(found)

    def remove(self) -> None:
        """Carry nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._self in self._peers:
            self._peers.remove(self._self)
