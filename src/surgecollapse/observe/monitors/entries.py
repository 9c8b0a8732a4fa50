"""A fixed random sample of the entries of many tensors: what one monitor remembers from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor


class Entries:
    """Remembers at most ``most`` entries of each tensor of one step, and gives them back in the next one.

    Which entries depends on the name alone. Tensors of at most that size are taken whole. A sum over all entries is
    estimated, without bias, by the sum over the sample times size over sample size.

    Args:
        most: entries of one tensor.
    """

    def __init__(self, most: int = 1 << 14) -> None:
        self._most = most
        self._indices: dict[tuple[str, int], Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._step = 0

    def keep(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Remember these tensors, as they are before optimizer step ``step``."""
        self._step, self._kept = step, {name: self.sample(name, t).clone() for name, t in tensors.items()}

    def recall(self, step: int) -> dict[str, Tensor]:
        """Give back what was kept at the step before ``step``, and forget it; nothing if that was another one."""
        kept, self._kept = self._kept, {}
        return kept if self._step == step - 1 else {}

    def sample(self, name: str, tensor: Tensor) -> Tensor:
        """The sampled entries of a tensor, at least in float32."""
        flat = tensor.reshape(-1)
        if flat.numel() > self._most:
            key = (name, flat.numel())
            if key not in self._indices:
                generator = torch.Generator().manual_seed(crc32(name.encode()))
                drawn = torch.randint(flat.numel(), (self._most,), generator=generator)
                self._indices[key] = drawn.sort().values.to(flat.device, non_blocking=True)
            flat = flat[self._indices[key]]
        return flat.to(torch.promote_types(flat.dtype, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """What is kept between two steps."""
        return {"step": self._step, "kept": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self._step, self._kept = state["step"], dict(state["kept"])
