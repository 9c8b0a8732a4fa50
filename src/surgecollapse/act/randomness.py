"""The library's own random state: never the global one, always checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Generators:
    """One ``torch.Generator`` a device, created on first use and all seeded alike.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._by_device: dict[str, torch.Generator] = {}

    def on(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The generator of a device."""
        key = str(device)
        if key not in self._by_device:
            self._by_device[key] = torch.Generator(device=device).manual_seed(self._seed)
        return self._by_device[key]

    def state_dict(self) -> dict[str, Any]:
        """Seed and state of every generator."""
        return {"seed": self._seed, "states": {key: g.get_state() for key, g in self._by_device.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of them in place; one that the state does not know is seeded afresh."""
        self._seed = state["seed"]
        for generator in self._by_device.values():
            generator.manual_seed(self._seed)
        for key, value in state["states"].items():
            if key.startswith("cuda") and not torch.cuda.is_available():
                continue
            self.on(key).set_state(value.cpu())

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._by_device = {}
        self.load_state_dict(state)
