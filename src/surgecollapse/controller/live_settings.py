"""Settings of a model and its optimizers that a person changes while they train, and what they were before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from surgecollapse.act.optimizer_state import with_inner
from surgecollapse.controller.frozen_weights import FrozenWeights, check_units, listing, matching, rows_of_state
from surgecollapse.controller.live_rates import LiveRates, shown
from surgecollapse.torch_utils.modules import canonical_name

if TYPE_CHECKING:
    from surgecollapse import commands as ask

_NOT_NUMBERS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable", "maximize")


class LiveSettings:
    """Optimizer options, dropout and layers that are reset, beside :attr:`rates` and :attr:`frozen`.

    Options of the optimizer other than the learning rate lie in its groups, and are saved with them.

    Args:
        model: the net.
        optimizers: what trains it, in the order in which they step.
        rewritten: called after weights were written: whoever masks them masks them again.
        check: called before, to raise ``ValueError`` where weights cannot be written.
        where: says how many steps are completed, and of how many.

    Raises:
        ValueError: from every method, with the reason why it cannot be done.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        rewritten: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        where: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._model, self._optimizers, self._rewritten, self._check = model, optimizers, rewritten, check
        self.rates, self.frozen = LiveRates(optimizers, where), FrozenWeights(model, optimizers)
        self._dropout: dict[str, float] = {}
        self._dropout_before: dict[str, float] = {}

    def set_option(self, command: ask.SetOptimizer) -> str:
        """Set an option of the optimizer's groups."""
        groups = self._groups()
        if command.group is not None and command.group >= len(groups):
            raise ValueError(f"no group {command.group}: the optimizer has {len(groups)}, from 0 to {len(groups) - 1}")
        chosen = range(len(groups)) if command.group is None else [command.group]
        if command.option == "lr":
            return self.rates.set(command.value, chosen)
        return self._set_number(command.option, command.value, groups, chosen)

    def _set_number(self, option: str, value: Any, groups: Sequence[dict[str, Any]], chosen: Iterable[int]) -> str:
        before = []
        for number in chosen:
            known = [name for name in groups[number] if name not in _NOT_NUMBERS and _is_number(groups[number][name])]
            if option not in known:
                raise ValueError(f"group {number} has no number {option!r}: expected lr or one of {', '.join(known)}")
            was = groups[number][option]
            if isinstance(was, tuple | list) != isinstance(value, tuple) or len(_listed(was)) != len(_listed(value)):
                raise ValueError(f"{option} is {shown(_listed(was))}: expected as many numbers, got {value}")
            before.append(was)
        for optimizer in self._optimizers:
            _check_option(optimizer, option, value)
        for number in chosen:
            groups[number][option] = value
        before_that = list(dict.fromkeys(shown(_listed(was)) for was in before))
        return f"{option} {' and '.join(before_that)} → {shown(_listed(value))}"

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    # ---- the model --------------------------------------------------------------------------------------------

    def set_dropout(self, command: ask.SetDropout) -> str:
        """Set the rate of dropout layers."""
        there = {canonical_name(name): module for name, module in self._model.named_modules() if _rate_of(module)}
        if not there:
            raise ValueError("the model has no dropout layers")
        chosen = matching(there, command.layers) if command.layers else list(there)
        before = sorted({getattr(there[name], str(_rate_of(there[name]))) for name in chosen})
        for name in chosen:
            self._put_dropout(name, there[name], command.rate)
        return f"dropout {' and '.join(f'{rate:g}' for rate in before)} → {command.rate:g} in {len(chosen)} layers"

    def _put_dropout(self, name: str, module: nn.Module, rate: float) -> None:
        attribute = str(_rate_of(module))
        self._dropout_before.setdefault(name, getattr(module, attribute))
        setattr(module, attribute, rate)
        self._dropout[name] = rate

    @torch.no_grad()
    def reset(self, command: ask.ResetLayers, seed: int) -> str:
        """Draw new initial weights for modules or units, with a generator of their own, and forget their moments."""
        there = {
            canonical_name(name): module for name, module in self._model.named_modules() if _drawing(module) is not None
        }
        chosen = matching(there, command.layers)
        for name in chosen:
            check_units(name, there[name], command.units)
        self._check()
        parameters = {id(p): p for name in chosen for p in there[name].parameters()}
        before = {key: p.clone() for key, p in parameters.items() if command.units}
        devices = sorted({p.device.index or 0 for p in parameters.values() if p.device.type == "cuda"})
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed % 2**63)
            for name in chosen:
                draw = _drawing(there[name])
                assert draw is not None
                draw()
        for key, kept in before.items():
            kept[list(command.units)] = parameters[key][list(command.units)]
            parameters[key].copy_(kept)
        for optimizer in self._optimizers:
            for parameter in parameters.values():
                if command.units:
                    _forget(optimizer, parameter, list(command.units))
                else:
                    for one in with_inner(optimizer):
                        one.state.pop(parameter, None)
        self._rewritten()
        units = f"{len(command.units)} units of " if command.units else ""
        return f"reset {units}{listing(chosen)}"

    # ---- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was changed for good beside the optimizers' options; empty if nothing was."""
        found = {"dropout": dict(self._dropout), **self.frozen.state_dict(), **self.rates.state_dict()}
        return {name: value for name, value in found.items() if value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        modules = {canonical_name(name): module for name, module in self._model.named_modules()}
        wanted = state.get("dropout", {})
        for name, before in self._dropout_before.items():
            setattr(modules[name], str(_rate_of(modules[name])), before)
        self._dropout = {}
        for name, rate in wanted.items():
            self._put_dropout(name, modules[name], rate)
        self.frozen.load_state_dict(state)
        self.rates.load_state_dict(state)


def handlers_of(settings: LiveSettings, seed: Callable[[], int]) -> dict[str, Callable[[Any], str]]:
    """Kind of command → what carries it out.

    Args:
        settings: of the model.
        seed: gives the seed of a reset, which must be the same whenever the run is repeated.
    """
    return {
        "set-optimizer": settings.set_option,
        "hold-schedule": lambda _: settings.rates.hold(),
        "release-schedule": lambda _: settings.rates.release(),
        "replace-schedule": settings.rates.replace,
        "set-dropout": settings.set_dropout,
        "freeze-layers": settings.frozen.freeze,
        "unfreeze-layers": settings.frozen.unfreeze,
        "reset-layers": lambda command: settings.reset(command, seed()),
    }


def _rate_of(module: nn.Module) -> str | None:
    """The attribute that holds the dropout rate of a module, if it drops anything."""
    if isinstance(module, _DropoutNd):
        return "p"
    if isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        return "dropout"
    return None


def _drawing(module: nn.Module) -> Callable[[], Any] | None:
    """What draws the initial weights of a module."""
    for name in ("reset_parameters", "_reset_parameters"):
        draw: Callable[[], Any] | None = getattr(module, name, None)
        if callable(draw) and next(module.parameters(recurse=False), None) is not None:
            return draw
    return None


def _forget(optimizer: Optimizer, parameter: nn.Parameter, units: list[int]) -> None:
    """Set what an optimizer knows of some rows of a parameter to zero."""
    for value in rows_of_state(optimizer, parameter).values():
        value[units] = 0


def _check_option(optimizer: Optimizer, option: str, value: Any) -> None:
    """Let the optimizer's own constructor say whether it takes a value.

    Raises:
        ValueError: if it does not.
    """
    taken = inspect.signature(type(optimizer)).parameters
    given = {name: part for name, part in optimizer.defaults.items() if name in taken}
    try:
        type(optimizer)([nn.Parameter(torch.zeros(1))], **{**given, option: value})
    except TypeError:  # one whose constructor has other names than its options
        if any(part < 0 for part in _listed(value)):
            raise ValueError(f"{option} must be at least 0, got {value}") from None


def _is_number(value: Any) -> bool:
    return all(isinstance(part, int | float) and not isinstance(part, bool) for part in _listed(value))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]
