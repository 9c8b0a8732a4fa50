"""A controller's state inside the state dict of its first optimizer, so that whatever saves the optimizer saves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from surgecollapse.act.masked_weights import MaskMismatchError
from surgecollapse.errors import warn_user
from surgecollapse.torch_utils.carried_state import CarriedState

CARRIED = "surgecollapse.controller"
"""Key in ``optimizer.state_dict()``: a list of one state."""


class CarriedController:
    """Saves and loads with an optimizer; a state whose model is loaded only later is waited for.

    Args:
        save: returns the controller's state.
        load: takes it; raises :class:`~surgecollapse.act.masked_weights.MaskMismatchError` where the weights that are
            there do not obey its masks.
    """

    def __init__(self, save: Callable[[], dict[str, Any]], load: Callable[[Mapping[str, Any]], None]) -> None:
        self._save, self._load = save, load
        self._carried: CarriedState | None = None
        self._waiting: Mapping[str, Any] | None = None
        self._unmatched = False

    def attach(self, optimizer: Optimizer) -> None:
        """Travel with this optimizer from now on."""
        self._carried = CarriedState(optimizer, CARRIED, self._save, self._take)

    def remove(self) -> None:
        """Travel no more."""
        if self._carried is not None:
            self._carried.remove()
            self._carried = None

    def forget(self) -> None:
        """Wait for nothing: a state was loaded by hand."""
        self._waiting, self._unmatched = None, False

    def settle(self) -> None:
        """Settle what a load of the optimizer's state left open, now that the model must be loaded as well."""
        if self._waiting is not None:
            state, self._waiting = self._waiting, None
            self._load(state)
        if self._unmatched:
            self._unmatched = False
            warn_user(
                f"the optimizer state that was loaded holds no state of a controller ({CARRIED!r}): masks and schedule "
                "go on from where they are. Save optimizer.state_dict() after attach, or load the controller's own "
                "state_dict()"
            )

    def _take(self, state: dict[str, Any] | None) -> None:
        if state is None:
            self._unmatched = True
            return
        try:
            self._load(state)
        except MaskMismatchError:
            self._waiting = state
        except ValueError as error:
            raise ValueError(
                f"{error}. To load the optimizer's own state alone, remove the key {CARRIED!r} from it"
            ) from error
