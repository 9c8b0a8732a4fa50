"""Parameters, and rows of them, that a person takes out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from surgecollapse.act.optimizer_state import state_of
from surgecollapse.torch_utils.modules import canonical_name

if TYPE_CHECKING:
    from surgecollapse import commands as ask

_SHOWN = 12
_Rows = tuple[nn.Parameter, list[int], torch.Tensor, dict[str, torch.Tensor]]
"""A parameter, its frozen rows, and what these rows and the optimizer's tensors of them hold."""


class FrozenWeights:
    """Parameters that train no more, whole or by the rows of some units.

    Args:
        model: the net.
        optimizers: what trains it, in the order in which they step.

    Raises:
        ValueError: from every method, with the reason why it cannot be done.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._frozen: set[str] = set()
        self._frozen_units: dict[str, set[int]] = {}
        self._kept: dict[int, list[_Rows]] = {}

    def freeze(self, command: ask.FreezeLayers) -> str:
        """Train parameters, or rows of them, no more."""
        if command.units:
            return self._freeze_units(command.layers, command.units)
        chosen = [name for name in self._parameters(command.layers) if name not in self._frozen]
        if not chosen:
            raise ValueError("these parameters are frozen already")
        self._frozen.update(chosen)
        return f"froze {listing(chosen)}"

    def unfreeze(self, command: ask.UnfreezeLayers) -> str:
        """Train parameters, or rows of them, again."""
        chosen = {}
        for name in self._parameters(command.layers):
            rows = self._frozen_units.get(name, set())
            gone = rows.intersection(command.units) if command.units else rows
            if gone or (name in self._frozen and not command.units):
                chosen[name] = gone
        if not chosen:
            what = "units" if command.units else "parameters"
            there = sorted({*self._frozen, *self._frozen_units})
            raise ValueError(f"none of these {what} is frozen; frozen are: {listing(there)}")
        for name, gone in chosen.items():
            if left := self._frozen_units.pop(name, set()) - gone:
                self._frozen_units[name] = left
        if not command.units:
            self._frozen.difference_update(chosen)
        units = f"{len(command.units)} units of " if command.units else ""
        return f"unfroze {units}{listing(list(chosen))}"

    def _freeze_units(self, layers: Sequence[str], units: Sequence[int]) -> str:
        """Train the rows of these units no more."""
        there = {
            canonical_name(name): module
            for name, module in self._model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        chosen = matching(there, layers)
        for name in chosen:
            check_units(name, there[name], units)
        parameters = [f"{name}.{own}" for name in chosen for own, _ in there[name].named_parameters(recurse=False)]
        if all(self._frozen_units.get(name, set()).issuperset(units) for name in parameters):
            raise ValueError("these units are frozen already")
        for name in parameters:
            self._frozen_units.setdefault(name, set()).update(units)
        return f"froze {len(units)} units of {listing(chosen)}"

    def _parameters(self, layers: Sequence[str]) -> list[str]:
        return matching({canonical_name(name): p for name, p in self._model.named_parameters()}, layers)

    def before_step(self) -> None:
        """Take the gradients of frozen parameters away, so that no optimizer moves them."""
        if not self._frozen and not self._frozen_units:
            return
        for name, parameter in self._model.named_parameters():
            if canonical_name(name) in self._frozen:
                parameter.grad = None
            elif parameter.grad is not None and (rows := self._frozen_units.get(canonical_name(name))):
                parameter.grad[sorted(rows)] = 0.0

    @torch.no_grad()
    def keep_rows(self, index: int) -> None:
        """Note the rows of frozen units, and what an optimizer knows of them, right before its step.

        An optimizer moves a weight without a gradient, too, by its moments and by weight decay.
        """
        if not self._frozen_units:
            return
        optimizer = self._optimizers[index]
        names = {id(p): canonical_name(name) for name, p in self._model.named_parameters()}
        kept = []
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            rows = sorted(self._frozen_units.get(names.get(id(parameter), ""), ()))
            if rows:
                state = rows_of_state(optimizer, parameter)
                kept.append((parameter, rows, parameter[rows].clone(), {k: v[rows].clone() for k, v in state.items()}))
        self._kept[index] = kept

    @torch.no_grad()
    def put_back_rows(self, index: int) -> None:
        """Give the rows of frozen units what they had before an optimizer's step."""
        for parameter, rows, values, state in self._kept.pop(index, ()):
            parameter[rows] = values
            for key, now in rows_of_state(self._optimizers[index], parameter).items():
                now[rows] = state.get(key, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What is frozen."""
        return {
            "frozen": sorted(self._frozen),
            "frozen_units": {name: sorted(rows) for name, rows in self._frozen_units.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._frozen = set(state.get("frozen", ()))
        self._frozen_units = {name: set(rows) for name, rows in state.get("frozen_units", {}).items()}


def matching(there: Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    """Names that match, or lie inside of a module that does.

    Raises:
        ValueError: naming a pattern that matches none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [name for name in there if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not hits:
            raise ValueError(f"nothing is called {pattern!r}: expected one of {listing(list(there))}")
        found.update(dict.fromkeys(hits))
    return list(found)


def listing(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more


def check_units(name: str, module: nn.Module, units: Sequence[int]) -> None:
    """Check that the first axis of all parameters of a module is its units, and that it has these.

    Raises:
        ValueError: if not.
    """
    sizes = {len(p) if p.ndim else 0 for p in module.parameters()}
    if not units:
        return
    whole = (nn.modules.batchnorm._NormBase, nn.RNNBase, nn.RNNCellBase)  # rows of recurrent ones belong to gates
    sharded = any(hasattr(p, "placements") for p in module.parameters())
    if len(sizes) != 1 or sharded or getattr(module, "transposed", False) or isinstance(module, whole):
        raise ValueError(f"{name} has no rows of weights of single units: name it without units")
    if max(units) >= min(sizes):
        raise ValueError(f"no unit {max(units)} in {name}: it has {min(sizes)}, from 0 to {min(sizes) - 1}")


def rows_of_state(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """What an optimizer knows of each entry of a parameter."""
    state = state_of(optimizer, parameter)
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.ndim and v.shape == parameter.shape}
