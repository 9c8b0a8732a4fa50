"""What a controller does when a person asks for it, whatever the policy thinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from surgecollapse.controller.live_settings import LiveSettings, handlers_of
from surgecollapse.controller.policy_clock import PolicyClock
from surgecollapse.events import Decision, Intervention, Plan, Prune, Regrow, SetNoise

if TYPE_CHECKING:
    from surgecollapse import commands as ask
    from surgecollapse.controller.command_loop import CommandLoop, Handler
    from surgecollapse.observe.watch import Watch
    from surgecollapse.protocols import Policy


class Commanded(Protocol):
    """What the handlers use of a :class:`~surgecollapse.controller.controller.Controller`."""

    watch: Watch | None
    command_loop: CommandLoop

    @property
    def plan(self) -> Plan:
        """Target sparsity, total steps and cadence."""
        ...

    @property
    def policy(self) -> Policy:
        """What decides."""
        ...

    @property
    def phase(self) -> str:
        """The state of training."""
        ...

    @property
    def resolved(self) -> bool:
        """Whether it is known which weights are prunable."""
        ...

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        ...

    @property
    def noise_std(self) -> float:
        """Standard deviation of the input noise."""
        ...

    def open_weights(self, layers: Sequence[str] = ()) -> tuple[int, int]:
        """Number of prunable weights that are open, and of all."""
        ...

    def reachable(self, sparsity: float, layers: Sequence[str] = ()) -> tuple[float, int]:
        """The sparsity that a collapse to this one reaches, and the weights it leaves open."""
        ...

    def check_sparsity(self, sparsity: float) -> None:
        """Check that a target could be reached."""
        ...

    def carry_out(self, decision: Decision) -> list[Intervention]:
        """Do what a decision says."""
        ...

    def replace_policy(self, policy: Policy, plan: Plan) -> None:
        """Go on with another policy or plan."""
        ...


class CommandHandlers:
    """The handlers of one controller, and what they changed for good.

    Args:
        controller: the :class:`~surgecollapse.controller.controller.Controller`.
        plan: under which it was attached.
        policy: as it was attached.
        settings: of its model and optimizers.

    Attributes:
        held: whether the policy is asked nothing.
        factor: of the learning rate.
        clock: the policy's.
    """

    def __init__(self, controller: Commanded, plan: Plan, policy: Policy, settings: LiveSettings) -> None:
        self._controller, self._plan, self._policy, self.settings = controller, plan, policy, settings
        self.held, self.factor, self.clock = False, 1.0, PolicyClock()
        self._thresholds: dict[str, float] = {}

    def handlers(self) -> dict[str, Handler]:
        """Kind of command → what carries it out."""
        return {
            "collapse": self.collapse,
            "surge": self.surge,
            "pump": self.pump,
            "set-sparsity": self.set_sparsity,
            "set-thresholds": self.set_thresholds,
            "learning-rate": self.learning_rate,
            "cadence": self.cadence,
            "pace": self.pace,
            "pause-policy": self.pause_policy,
            "resume-policy": self.resume_policy,
            "pause": self.pause,
            "continue": self.go_on,
            "stop": self.stop,
            **handlers_of(self.settings, self._seed),
        }

    def _seed(self) -> int:
        """Of what is drawn anew at this step."""
        return (self._plan.seed + 1) * 1_000_003 + self._controller.command_loop.step

    def rates(self, scheduled: Sequence[float]) -> list[float] | None:
        """The rate of every group for this step; ``None`` where it is the scheduled one."""
        if self.factor == 1.0 and not self.settings.rates.changed:
            return None
        return [rate * self.factor for rate in self.settings.rates.of_step(scheduled)]

    def collapse(self, command: ask.Collapse) -> str:
        """Close a share of the open weights."""
        self._check_open()
        live, size = self._controller.open_weights(command.layers)
        depth, left = self._controller.reachable(1.0 - live * (1.0 - command.fraction) / size, command.layers)
        if left >= live:
            raise ValueError(f"{live} of {size} weights are open: {command.fraction:g} of them closes none")
        reason = f"requested by a user: collapse {command.fraction:.3g} of what is open{_where(command.layers)}"
        done = self._act(Decision(phase="sparse", reason=reason, actions=(Prune(depth, layers=command.layers),)))
        return f"closed {done.pruned} weights: sparsity {done.sparsity_after:.4f}"

    def surge(self, command: ask.Surge) -> str:
        """Reopen a share of the closed weights."""
        self._check_open()
        live, size = self._controller.open_weights(command.layers)
        if int(command.fraction * (size - live) + 0.5) == 0:
            raise ValueError(f"{size - live} weights are closed: {command.fraction:g} of them opens none")
        reason = f"requested by a user: surge {command.fraction:.3g} of what is closed{_where(command.layers)}"
        regrow = Regrow(command.fraction, layers=command.layers)
        done = self._act(Decision(phase="open", reason=reason, actions=(regrow,)))
        return f"opened {done.grown} weights: sparsity {done.sparsity_after:.4f}"

    def pump(self, command: ask.Pump) -> str:
        """Start, change or stop the input noise."""
        if command.noise_std == self._controller.noise_std:
            raise ValueError(f"the input noise is {command.noise_std:g} already")
        noise = f"input noise of {command.noise_std:g}" if command.noise_std else "no input noise"
        reason = f"requested by a user: {noise}"
        self._act(Decision(phase=self._controller.phase, reason=reason, actions=(SetNoise(command.noise_std),)))
        return f"{noise} from now on"

    def set_sparsity(self, command: ask.SetSparsity) -> str:
        """Aim at another final sparsity."""
        self._check_open()
        self._controller.check_sparsity(command.sparsity)
        before = self._controller.plan.sparsity
        self.aim_at(command.sparsity)
        return f"target sparsity {before:g} → {command.sparsity:g}"

    def aim_at(self, sparsity: float) -> None:
        """Make another sparsity the target, in the middle of a run or before it."""
        self._renew(replace(self._controller.plan, sparsity=sparsity), self._thresholds)

    def set_thresholds(self, command: ask.SetThresholds) -> str:
        """Change numeric options of the policy."""
        before = {name: getattr(self._controller.policy, name, None) for name in command.values}
        self._renew(self._controller.plan, self._thresholds | command.values)
        return ", ".join(f"{name} {before[name]} → {value:g}" for name, value in command.values.items())

    def learning_rate(self, command: ask.LearningRate) -> str:
        """Multiply the loop's learning rates from now on."""
        self.factor = command.factor
        return f"learning rate × {command.factor:g}"

    def cadence(self, command: ask.Cadence) -> str:
        """Change the cadence of the monitors."""
        return cadence(self._controller.watch, command.every)

    def pace(self, command: ask.Pace) -> str:
        """Let the policy's time pass more slowly, or faster."""
        self._check_open()
        step, total, last = self._controller.command_loop.step, self._controller.plan.total_steps, self._last
        if command.factor == self.clock.factor:
            raise ValueError(f"the pace is {command.factor:g} already")
        before, clock = self.clock, PolicyClock(step=step, time=self.time(step), factor=command.factor)
        said = f"pace × {command.factor:g}"
        if last is not None and total is not None:
            if command.factor < before.factor and last - clock.time >= total - step:
                raise ValueError(f"the schedule ends with the run, at step {total}: it cannot be slower")
            said += f": the schedule ends at step {clock.ends(last, total)} instead of {before.ends(last, total)}"
            if clock.at(total, None, None) < last:
                said += ", faster again where it would end after the run"
        self.clock = clock
        self._controller.replace_policy(self._controller.policy, self._controller.plan)  # readings fall otherwise
        return said

    @property
    def _last(self) -> int | None:
        found: int | None = getattr(self._controller.policy, "last_step", None)
        return found

    def time(self, step: int) -> int:
        """The policy's step at a step of the run."""
        return step if self.clock.is_real else self.clock.at(step, self._last, self._controller.plan.total_steps)

    def due(self, step: int) -> int | None:
        """The policy's step at which it is to decide after a step of the run; ``None`` if none has come since."""
        policy = self._controller.policy
        if self.clock.is_real:
            return step if policy.due(step) else None
        passed = range(self.time(step), self.time(step - 1), -1)
        return next(filter(policy.due, passed), None)

    def pause_policy(self, _: ask.PausePolicy) -> str:
        """Let the policy decide nothing."""
        if self.held:
            raise ValueError("the policy is paused already")
        self.held = True
        return "the policy decides nothing until it is resumed"

    def resume_policy(self, _: ask.ResumePolicy) -> str:
        """Let the policy decide again."""
        if not self.held:
            raise ValueError("the policy is not paused")
        self.held = False
        return "the policy decides again"

    def pause(self, _: ask.Pause) -> str:
        """Make training wait."""
        return pause(self._controller.command_loop)

    def go_on(self, _: ask.Continue) -> str:
        """End the wait."""
        return go_on(self._controller.command_loop)

    def stop(self, _: ask.Stop) -> str:
        """Ask the loop to end."""
        self._controller.command_loop.stopping = True
        return "the loop is asked to end: controller.stopping is true"

    def _check_open(self) -> None:
        """Check that weights may still be opened and closed."""
        if not self._controller.resolved:
            raise ValueError("what is prunable is not known before the first step")
        if self._controller.frozen:
            raise ValueError("the mask is final: nothing can be opened or closed any more")

    def _act(self, decision: Decision) -> Intervention:
        """Carry a decision out; returns its last intervention."""
        done = self._controller.carry_out(decision)
        if not done:
            raise ValueError("nothing changed: fewer weights than half a group of the pattern")
        return done[-1]

    def _renew(self, plan: Plan, thresholds: Mapping[str, float]) -> None:
        """Put a policy with other options or another plan into the place of the present one, in the same state."""
        policy = _changed(self._policy, thresholds)
        policy.start(plan)
        policy.load_state_dict(self._controller.policy.state_dict())
        self._controller.replace_policy(policy, plan)
        self._thresholds = dict(thresholds)

    def state_dict(self) -> dict[str, Any]:
        """What was changed for good; empty if nothing was."""
        plan = self._controller.plan
        settings = self.settings.state_dict()
        now = (plan, self._thresholds, self.held, self.factor, settings, self.clock.is_real)
        if now == (self._plan, {}, False, 1.0, {}, True):
            return {}
        return {
            "sparsity": plan.sparsity,
            "thresholds": dict(self._thresholds),
            "held": self.held,
            "factor": self.factor,
            **({"settings": settings} if settings else {}),
            **({} if self.clock.is_real else {"clock": self.clock.state_dict()}),
        }

    @property
    def given_plan(self) -> Plan:
        """The plan under which the controller was attached."""
        return self._plan

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; the policy's own state must be loaded after it."""
        plan = replace(self._plan, sparsity=state.get("sparsity", self._plan.sparsity))
        thresholds = dict(state.get("thresholds", {}))
        if plan != self._controller.plan or thresholds != self._thresholds:
            policy = _changed(self._policy, thresholds)
            policy.start(plan)
            self._controller.replace_policy(policy, plan)
            self._thresholds = thresholds
        self.held, self.factor = state.get("held", False), state.get("factor", 1.0)
        begun, time, factor = state.get("clock", (0, 0, 1.0))
        self.clock = PolicyClock(step=begun, time=time, factor=factor)
        self.settings.load_state_dict(state.get("settings", {}))


def cadence(watch: Any, every: int) -> str:
    """Ask the monitors' :class:`~surgecollapse.observe.watch.Watch` for another cadence.

    Raises:
        ValueError: if there are no monitors (``None``).
    """
    if watch is None:
        raise ValueError("no monitors are attached: attach(monitors=…), or monitors = … of a run, adds them")
    watch.every = every
    return f"monitors every {watch.every} steps"


def pause(command_loop: Any) -> str:
    """Make a loop wait.

    Raises:
        ValueError: if it waits already.
    """
    if command_loop.paused:
        raise ValueError("training is paused already")
    command_loop.paused = True
    return "training waits"


def go_on(command_loop: Any) -> str:
    """End the wait of a loop.

    Raises:
        ValueError: if it does not wait.
    """
    if not command_loop.paused:
        raise ValueError("training is not paused")
    command_loop.paused = False
    return "training goes on"


def _where(layers: tuple[str, ...]) -> str:
    return f" in {', '.join(layers)}" if layers else ""


def _changed(policy: Policy, values: Mapping[str, float]) -> Policy:
    """A new policy of the same options but for some numbers.

    Raises:
        ValueError: if there are no such numbers, or they are out of range.
    """
    if not is_dataclass(policy) or isinstance(policy, type):
        raise ValueError(f"the policy {type(policy).__name__} cannot be changed while it runs: it is no dataclass")
    now = {part.name: getattr(policy, part.name) for part in fields(policy) if part.init}
    numbers = [name for name, value in now.items() if value is None or _is_number(value)]
    changed: dict[str, float | int] = {}
    for name, value in values.items():
        if name not in numbers:
            raise ValueError(f"{type(policy).__name__} has no number {name!r}: expected one of {', '.join(numbers)}")
        if isinstance(now[name], int) and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {value:g}")
        changed[name] = int(value) if isinstance(now[name], int) else value
    try:
        return replace(policy, **changed)
    except TypeError as error:
        raise ValueError(f"{type(policy).__name__} cannot take {changed}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
