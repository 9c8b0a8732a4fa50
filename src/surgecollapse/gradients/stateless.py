"""Transforms that remember nothing from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Stateless:
    """The state of a transform that has none."""

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:  # noqa: ARG002
        """Accept what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is another transform's.
        """
        if state:
            name = type(self).__name__
            raise ValueError(f"{name} has no state, got {', '.join(state)}: attach the same transforms")
