"""Settings of a model and its optimizers that a person changes while they train, and what they were before."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from surgecollapse.act.optimizer_state import state_of, with_inner
from surgecollapse.torch_utils.modules import canonical_name

if TYPE_CHECKING:
    from surgecollapse import commands as ask

_NOT_NUMBERS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable", "maximize")
_SHOWN = 12
_Rows = tuple[nn.Parameter, list[int], torch.Tensor, dict[str, torch.Tensor]]
"""A parameter, its frozen rows, and what these rows and the optimizer's tensors of them hold."""


class LiveSettings:
    """Optimizer options, rates of groups, dropout, frozen parameters and layers that are reset.

    Options of the optimizer other than the learning rate lie in its groups, and are saved with them. The learning rate
    of a group is the scheduled one, or the held one, times a factor of its own, for each step alone: schedulers see
    nothing of it.

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
        self._where = where
        self._dropout: dict[str, float] = {}
        self._dropout_before: dict[str, float] = {}
        self._frozen: set[str] = set()
        self._frozen_units: dict[str, set[int]] = {}
        self._kept: dict[int, list[_Rows]] = {}
        self._factors: dict[int, float] = {}
        self._held: list[float] | None = None
        self._shape: tuple[str, int, int] | None = None

    # ---- learning rates ---------------------------------------------------------------------------------------

    @property
    def changes_rates(self) -> bool:
        """Whether any group's rate is another than the scheduled one."""
        return bool(self._factors) or self._held is not None

    def rates(self, scheduled: Sequence[float]) -> list[float]:
        """The rate of every group for one step, from those that the schedule gives."""
        base = scheduled if self._held is None else self._own_rates(self._held)
        return [rate * self._factors.get(number, 1.0) for number, rate in enumerate(base)]

    def _own_rates(self, peaks: Sequence[float]) -> list[float]:
        """The rates of the schedule that a person chose, which falls from these."""
        if self._shape is None:
            return list(peaks)
        shape, start, steps = self._shape
        progress = min(1.0, max(0.0, (self._where()[0] - start) / steps))
        left = 1.0 - progress if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return [peak * left for peak in peaks]

    def replace_schedule(self, command: ask.ReplaceSchedule) -> str:
        """Follow another schedule, which begins at the present rates."""
        step, total = self._where()
        steps = total - step if command.steps is None else command.steps
        if steps < 1 and command.shape != "constant":
            raise ValueError("no steps are left: give steps, until the rate is 0")
        scheduled = [float(group["lr"]) for group in self._groups()]
        self._held = scheduled if self._held is None else self._own_rates(self._held)
        self._shape = None if command.shape == "constant" else (command.shape, step, steps)
        end = "" if self._shape is None else f" to 0 in {steps} steps"
        return f"{command.shape} schedule from {_numbers(self._held)}{end}"

    def hold(self) -> str:
        """Keep the rates that the schedule gives now."""
        if self._held is not None and self._shape is None:
            raise ValueError("the schedule is held already")
        if self._held is not None:
            self._held, self._shape = self._own_rates(self._held), None
            return f"learning rate held at {_numbers(self._held)}"
        self._held = [float(group["lr"]) for group in self._groups()]
        return f"learning rate held at {_numbers(self._held)}"

    def release(self) -> str:
        """Follow the schedule again."""
        if self._held is None:
            raise ValueError("the schedule is not held")
        self._held = self._shape = None
        return "the learning rate follows the schedule again"

    def set_option(self, command: ask.SetOptimizer) -> str:
        """Set an option of the optimizer's groups."""
        groups = self._groups()
        if command.group is not None and command.group >= len(groups):
            raise ValueError(f"no group {command.group}: the optimizer has {len(groups)}, from 0 to {len(groups) - 1}")
        chosen = range(len(groups)) if command.group is None else [command.group]
        if command.option == "lr":
            return self._set_rates(command.value, groups, chosen)
        return self._set_number(command.option, command.value, groups, chosen)

    def _set_rates(self, value: Any, groups: Sequence[dict[str, Any]], chosen: Iterable[int]) -> str:
        if isinstance(value, tuple) or value < 0:
            raise ValueError(f"lr must be a number of at least 0, got {value}")
        now = [float(group["lr"]) for group in groups] if self._held is None else self._own_rates(self._held)
        if flat := [number for number in chosen if not now[number]]:
            raise ValueError(f"the scheduled rate of group {flat[0]} is 0: hold or release the schedule first")
        for number in chosen:
            self._factors[number] = value / now[number]
        return f"lr {value:g}; the schedule goes on from there"

    def _set_number(self, option: str, value: Any, groups: Sequence[dict[str, Any]], chosen: Iterable[int]) -> str:
        before = []
        for number in chosen:
            known = [name for name in groups[number] if name not in _NOT_NUMBERS and _is_number(groups[number][name])]
            if option not in known:
                raise ValueError(f"group {number} has no number {option!r}: expected lr or one of {', '.join(known)}")
            was = groups[number][option]
            if isinstance(was, tuple | list) != isinstance(value, tuple) or len(_listed(was)) != len(_listed(value)):
                raise ValueError(f"{option} is {_numbers(_listed(was))}: expected as many numbers, got {value}")
            before.append(was)
        for optimizer in self._optimizers:
            _check_option(optimizer, option, value)
        for number in chosen:
            groups[number][option] = value
        shown = list(dict.fromkeys(_numbers(_listed(was)) for was in before))
        return f"{option} {' and '.join(shown)} → {_numbers(_listed(value))}"

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    # ---- the model --------------------------------------------------------------------------------------------

    def set_dropout(self, command: ask.SetDropout) -> str:
        """Set the rate of dropout layers."""
        there = {canonical_name(name): module for name, module in self._model.named_modules() if _rate_of(module)}
        if not there:
            raise ValueError("the model has no dropout layers")
        chosen = _matching(there, command.layers) if command.layers else list(there)
        before = sorted({getattr(there[name], str(_rate_of(there[name]))) for name in chosen})
        for name in chosen:
            self._put_dropout(name, there[name], command.rate)
        return f"dropout {' and '.join(f'{rate:g}' for rate in before)} → {command.rate:g} in {len(chosen)} layers"

    def _put_dropout(self, name: str, module: nn.Module, rate: float) -> None:
        attribute = str(_rate_of(module))
        self._dropout_before.setdefault(name, getattr(module, attribute))
        setattr(module, attribute, rate)
        self._dropout[name] = rate

    def freeze(self, command: ask.FreezeLayers) -> str:
        """Train parameters, or rows of them, no more."""
        if command.units:
            return self._freeze_units(command.layers, command.units)
        chosen = [name for name in self._parameters(command.layers) if name not in self._frozen]
        if not chosen:
            raise ValueError("these parameters are frozen already")
        self._frozen.update(chosen)
        return f"froze {_listing(chosen)}"

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
            raise ValueError(f"none of these {what} is frozen; frozen are: {_listing(there)}")
        for name, gone in chosen.items():
            if left := self._frozen_units.pop(name, set()) - gone:
                self._frozen_units[name] = left
        if not command.units:
            self._frozen.difference_update(chosen)
        units = f"{len(command.units)} units of " if command.units else ""
        return f"unfroze {units}{_listing(list(chosen))}"

    def _freeze_units(self, layers: Sequence[str], units: Sequence[int]) -> str:
        """Train the rows of these units no more."""
        there = {
            canonical_name(name): module
            for name, module in self._model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
        chosen = _matching(there, layers)
        for name in chosen:
            _check_units(name, there[name], units)
        parameters = [f"{name}.{own}" for name in chosen for own, _ in there[name].named_parameters(recurse=False)]
        if all(self._frozen_units.get(name, set()).issuperset(units) for name in parameters):
            raise ValueError("these units are frozen already")
        for name in parameters:
            self._frozen_units.setdefault(name, set()).update(units)
        return f"froze {len(units)} units of {_listing(chosen)}"

    def _parameters(self, layers: Sequence[str]) -> list[str]:
        return _matching({canonical_name(name): p for name, p in self._model.named_parameters()}, layers)

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
    def keep_units(self, index: int) -> None:
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
                state = _rows_of_state(optimizer, parameter)
                kept.append((parameter, rows, parameter[rows].clone(), {k: v[rows].clone() for k, v in state.items()}))
        self._kept[index] = kept

    @torch.no_grad()
    def put_back_units(self, index: int) -> None:
        """Give the rows of frozen units what they had before an optimizer's step."""
        for parameter, rows, values, state in self._kept.pop(index, ()):
            parameter[rows] = values
            for key, now in _rows_of_state(self._optimizers[index], parameter).items():
                now[rows] = state.get(key, 0.0)

    @torch.no_grad()
    def reset(self, command: ask.ResetLayers, seed: int) -> str:
        """Draw new initial weights for modules or units, with a generator of their own, and forget their moments."""
        there = {
            canonical_name(name): module for name, module in self._model.named_modules() if _drawing(module) is not None
        }
        chosen = _matching(there, command.layers)
        for name in chosen:
            _check_units(name, there[name], command.units)
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
        return f"reset {units}{_listing(chosen)}"

    # ---- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was changed for good beside the optimizers' options; empty if nothing was."""
        found = {
            "dropout": dict(self._dropout),
            "frozen": sorted(self._frozen),
            "frozen_units": {name: sorted(rows) for name, rows in self._frozen_units.items()},
            "factors": {str(number): factor for number, factor in self._factors.items()},
            "held": None if self._held is None else list(self._held),
            "schedule": None if self._shape is None else list(self._shape),
        }
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
        self._frozen = set(state.get("frozen", ()))
        self._frozen_units = {name: set(rows) for name, rows in state.get("frozen_units", {}).items()}
        self._factors = {int(number): factor for number, factor in state.get("factors", {}).items()}
        held = state.get("held")
        self._held = None if held is None else list(held)
        shape = state.get("schedule")
        self._shape = None if shape is None else (str(shape[0]), int(shape[1]), int(shape[2]))


def handlers_of(settings: LiveSettings, seed: Callable[[], int]) -> dict[str, Callable[[Any], str]]:
    """Kind of command → what carries it out.

    Args:
        settings: of the model.
        seed: gives the seed of a reset, which must be the same whenever the run is repeated.
    """
    return {
        "set-optimizer": settings.set_option,
        "hold-schedule": lambda _: settings.hold(),
        "release-schedule": lambda _: settings.release(),
        "replace-schedule": settings.replace_schedule,
        "set-dropout": settings.set_dropout,
        "freeze-layers": settings.freeze,
        "unfreeze-layers": settings.unfreeze,
        "reset-layers": lambda command: settings.reset(command, seed()),
    }


def _matching(there: Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    """Names that match, or lie inside of a module that does.

    Raises:
        ValueError: naming a pattern that matches none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [name for name in there if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not hits:
            raise ValueError(f"nothing is called {pattern!r}: expected one of {_listing(list(there))}")
        found.update(dict.fromkeys(hits))
    return list(found)


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more


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


def _check_units(name: str, module: nn.Module, units: Sequence[int]) -> None:
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


def _forget(optimizer: Optimizer, parameter: nn.Parameter, units: list[int]) -> None:
    """Set what an optimizer knows of some rows of a parameter to zero."""
    for value in _rows_of_state(optimizer, parameter).values():
        value[units] = 0


def _rows_of_state(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """What an optimizer knows of each entry of a parameter."""
    state = state_of(optimizer, parameter)
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.ndim and v.shape == parameter.shape}


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


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
