"""What happens between two optimizer steps: observe → decide → act → record."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from surgecollapse.controller.advice import Advice
from surgecollapse.controller.command_handlers import CommandHandlers
from surgecollapse.controller.components import Components
from surgecollapse.controller.options import Updates
from surgecollapse.controller.reading_schedule import ReadingSchedule
from surgecollapse.events import (
    Action,
    Aim,
    Decision,
    Event,
    Exchange,
    Freeze,
    Intervention,
    Measurement,
    Plan,
    Prune,
    Reading,
    Regrow,
    SetNoise,
    Threshold,
    Warn,
)
from surgecollapse.gradients.effects import Effects
from surgecollapse.protocols import Policy, Recorder

logger = logging.getLogger(__name__)


class DecisionLoop:
    """Reads the net where a reading is due, lets the policy decide, carries the decision out, and records all of it.

    Args:
        plan: target sparsity, total steps and cadence.
        policy: what decides; told the plan already.
        updates: how weights are chosen and optimizer states treated.
        recorders: take every event.
        handlers: of commands; they may pause the policy or change the target.
        effects: what the transforms did to gradients.
        claim: takes hold of parameters that replaced others.
        advice: warns of each matter once.
        confidence: measure the prediction confidence at every reading.

    Attributes:
        components: masked weights and what acts on them, set anew when it is known which weights are prunable.
        step: completed optimizer steps.
        phase: the state of training.
        finalized: whether :meth:`finalize` has been called.
        decision: the last decision.
        events: every intervention, oldest first.
        readings: the last 1,000 readings.
        schedule: when readings fall.
    """

    components: Components

    def __init__(
        self,
        plan: Plan,
        policy: Policy,
        updates: Updates,
        recorders: Sequence[Recorder],
        *,
        handlers: CommandHandlers,
        effects: Effects,
        claim: Callable[[], None],
        advice: Advice,
        confidence: bool = False,
    ) -> None:
        self.plan, self.policy = plan, policy
        self._updates, self._recorders = updates, recorders
        self._handlers, self._effects, self._claim, self._advice = handlers, effects, claim, advice
        self._confidence = confidence
        self.step, self.phase, self.finalized = 0, "dense", False
        self.decision: Decision | None = None
        self.events: list[Intervention] = []
        self.readings: deque[Reading] = deque(maxlen=1000)
        self.schedule = ReadingSchedule(self._falls_on)
        self._layout_known = False

    # ---- when ---------------------------------------------------------------------------------------------------

    def _falls_on(self, step: int) -> bool:
        """Whether a reading falls on a step, as far as the policy knows now."""
        return step % self.plan.every == 0 or self._handlers.due(step) is not None

    def arm(self) -> None:
        """Arm the reader if a reading falls on the next step; on others no hook exists."""
        self.schedule.look_ahead(self.step + 1, self.components.signal.window)  # the growth signal must know so far
        if self.due:
            self.components.observer.arm()

    @property
    def due(self) -> bool:
        """Whether the step under way is due for a reading."""
        return self.schedule.next == self.step + 1

    # ---- observe, decide, act -------------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Count a step, and read, decide and act where that is due."""
        self.step += 1
        self._check_optimizers()
        if self.schedule.next == self.step:
            self._observe_decide_act()
        self.components.observer.end_step()

    def _check_optimizers(self) -> None:
        """Find an optimizer whose memory cannot be masked after its first step, not at the first collapse."""
        if self._layout_known or self.plan.sparsity == 0.0 or self._updates.optimizer_state == "keep":
            return
        self._layout_known = True
        self.components.check_optimizer_states()

    def begin(self) -> None:
        """Carry out what the policy decides before the first optimizer step."""
        if self.step == 0 and self.decision is None and getattr(self.policy, "from_start", False):
            decision = self._within_target(self.policy.decide(Reading(step=0, source="none")))
            self.record(decision)
            self.carry_out(decision)

    def _observe_decide_act(self) -> None:
        self._rebind()
        reading = self._with_measures(self.components.observer.read(self.step, self.components.weights.sparsity))
        self.readings.append(reading)
        self.record(reading)
        for name, value in self._effects.read().items():
            self.record(Measurement(step=self.step, name=name, value=value))
        if self.components.found_values():
            self.log(
                "zeros",
                f"pruned weights had other values than zero at step {self.step}, from something that writes to weights "
                "through .data or sets moments: they are zero again, and from now on after every step",
            )
        self.settle_shadow()
        joined = self.components.join()
        if joined is not None:
            self.log("join", f"joined the optimizer, prunable from now on: {', '.join(joined) or 'no new weights'}")
        if self.finalized or self._handlers.held:
            return
        if not reading.finite:
            if not self.components.actor.shadow.active:
                self.components.actor.writer.restore_zeros()
            self.log(
                "skip",
                f"a gradient, an activation or the loss was not finite at step {self.step}: no decision was made",
            )
            return
        decision = self._decide(reading)
        if decision is None:
            return
        if decision.acts or decision.phase != self.phase:
            self.record(replace(decision, eligible=self._eligible(decision)))
        self.carry_out(decision)

    def _decide(self, reading: Reading) -> Decision | None:
        """What the policy says at its own time; ``None`` where, at another pace, nothing is due."""
        clock = self._handlers.clock
        if clock.is_real:
            return self._within_target(self.policy.decide(reading))
        time = self._handlers.due(self.step)
        if time is None:
            return None
        decision = self._within_target(self.policy.decide(replace(reading, step=time)))
        return replace(decision, reason=f"{decision.reason}; at step {self.step}, pace × {clock.factor:g}")

    def _with_measures(self, reading: Reading) -> Reading:
        """The reading, with what the policy, or a person, wants to see of the probe batch."""
        asked = not self.frozen and "prediction_confidence" in getattr(self.policy, "measures", ())
        if not asked and not self._confidence:
            return reading
        found = self.components.observer.measure("prediction_confidence")
        return replace(reading, prediction_confidence=found if math.isfinite(found) else None)

    def _within_target(self, decision: Decision) -> Decision:
        """The decision; under a target of zero without what prunes. Recycling and renewal stay."""
        if self.plan.sparsity > 0.0:
            return decision
        kept = [action for action in decision.actions if not _masks(action)]
        return replace(decision, actions=tuple(kept))

    def _eligible(self, decision: Decision) -> int | None:
        """The first step at which the policy reads again and may act, as far as it knows."""
        earliest = getattr(self.policy, "earliest", lambda step: step + 1)(self._handlers.time(self.step))
        if earliest is None or decision.find(Freeze):
            return None
        if not self._handlers.clock.is_real:
            ahead = range(self.step + 1, self.step + 1 + 10 * self.plan.every)
            return next((step for step in ahead if (self._handlers.due(step) or 0) >= earliest), None)
        first = max(earliest, self.step + 1)
        return next(filter(self._falls_on, range(first, first + self.plan.every)), None)

    def carry_out(self, decision: Decision, signals: Mapping[str, Tensor] | None = None) -> None:
        """Do what a decision says, with the growth signal or these signals instead."""
        self.decision, self.phase = decision, decision.phase
        if aim := decision.find(Aim):
            before = self.plan.sparsity
            self._handlers.aim_at(aim.sparsity)
            self.log("aim", f"target sparsity {before:g} → {aim.sparsity:g}: {decision.reason}")
        if warn := decision.find(Warn):
            self.log("warning", warn.message)
            self._advice.give("recovery", warn.message)
        signals = self.components.signal.values if signals is None else signals
        for event in self.components.actor.carry_out(decision, self.step, signals):
            self.events.append(event)
            self.record(event)
        self.components.forget_signal()

    # ---- masks and weights that something else wrote ----------------------------------------------------------------

    def _rebind(self) -> None:
        """Take up layers and parameters that were replaced since, and say so."""
        kept, lost = self.components.rebind()
        if not kept and not lost:
            return
        self._claim()
        if kept:
            self.log("join", f"other parameters stand under these names, and take over their masks: {', '.join(kept)}")
        if lost:
            self.log("join", f"these weights are gone or of another shape, and have no mask: {', '.join(lost)}")
        unstepped = self.components.unstepped()
        if lost or unstepped:
            self._advice.give(
                "replaced",
                f"weights were replaced (a new layer, or load_state_dict(assign=True)): "
                f"{', '.join([*lost, *unstepped])} are not pruned as planned, or no attached optimizer steps them. "
                "Build a new optimizer and attach again after detach()",
            )

    def _apply_masks(self) -> None:
        """Put closed weights that have a value back to zero, and say so."""
        weights = self.components.weights
        self.settle_shadow()
        found = weights.disobeying()
        if found:
            self.components.actor.writer.restore_zeros()
            self.log(
                "zeros",
                f"closed weights had values ({', '.join(f'{name}: {n}' for name, n in found.items())}), from older "
                "weights that were loaded or from something else that writes to weights: they are zero again",
            )

    def settle_shadow(self) -> None:
        """Take up what was written to weights under a threshold, and say so."""
        self.components.actor.shadow.settle()
        if found := self.components.actor.shadow.found_values():
            self.log(
                "zeros",
                f"something else wrote to weights under the threshold ({', '.join(dict.fromkeys(found))}): their "
                "shadow takes these values up",
            )

    def finalize(self) -> None:
        """Collapse to exactly the target if need be, stop the input noise, and freeze the mask."""
        self._rebind()
        self._apply_masks()
        if self.finalized:
            return
        components, target, total = self.components, self.plan.sparsity, self.plan.total_steps
        reached = components.actor.planner.at(target)
        early = f" at step {self.step} of {total}" if total and self.step < total else ""
        reason = f"finalize{early}: exact target {target:g}, final mask"
        done = self.frozen and reached
        components.actor.frozen &= reached  # a mask that was frozen, or changed since, at another sparsity is not final
        saliency, signals = None, components.signals_at_hand()
        if not done and self._updates.saliency == "taylor" and not signals:
            saliency, reason = "magnitude", f"{reason}; by magnitude, since no gradient is at hand"
        prune = () if done else (Prune(target, saliency=saliency),)
        decision = Decision(phase="frozen", reason=reason, actions=(*prune, SetNoise(0.0), Freeze()))
        self.carry_out(decision, signals)
        self.finalized = True

    @property
    def frozen(self) -> bool:
        """Whether the mask is final."""
        return self.components.actor.frozen

    # ---- record -----------------------------------------------------------------------------------------------------

    def log(self, kind: str, reason: str) -> None:
        """Record something that happened without a decision."""
        event = Intervention(
            step=self.step,
            kind=kind,
            phase=self.phase,
            reason=reason,
            sparsity_before=self.components.weights.sparsity,
            sparsity_after=self.components.weights.sparsity,
        )
        logger.info("step %d: %s: %s", self.step, kind, reason)
        self.events.append(event)
        self.record(event)

    def record(self, event: Event) -> None:
        """Hand an event to every recorder."""
        if isinstance(event, Decision):  # one of a person falls between two readings
            event = replace(event, step=self.step)
        for recorder in self._recorders:
            recorder.record(event)


def _masks(action: Action) -> bool:
    """Whether an action opens or closes weights under the mask."""
    match action:
        case Prune():
            return action.keep_mask
        case Regrow():
            return action.source != "zeros"
        case Exchange():
            return action.idle is None  # else it renews weights, also of a dense net
    return isinstance(action, Threshold)
