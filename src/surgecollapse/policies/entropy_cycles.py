"""Entropy-bounded cycles: AC/DC's frame, its phases and depths bounded by activation entropy."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Action, Decision, Freeze, Plan, Prune, Reading, Regrow, SetNoise
from surgecollapse.events.switches import GROWTH, REGROW_INIT, Growth, RegrowInit
from surgecollapse.policies import validation
from surgecollapse.policies.acdc import ACDC
from surgecollapse.policies.base import BasePolicy, PolicyState
from surgecollapse.policies.phase_timing import PhaseTiming, Timing
from surgecollapse.policies.registry import policy
from surgecollapse.policies.schedule import CycleSchedule, to_step
from surgecollapse.policies.signals import EntropySignals, Measure, Signals
from surgecollapse.schedules import cosine, cubic

logger = logging.getLogger(__name__)

Ramp = Literal["none", "cubic"]
"""How the final sparsity is reached: at once, or by a cubic ramp."""


@dataclass(slots=True)
class _State(PolicyState):
    since: float = 0.0
    """Position at which the phase began, before rounding where that was a boundary of the schedule."""
    pumping: bool = False
    signals: EntropySignals = field(default_factory=EntropySignals)


@policy("entropy_cycles")
@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyCycles(BasePolicy):
    """Alternate sparse and open phases, ended early or late by activation entropy, as deep as it allows.

    The frame is that of :class:`~surgecollapse.policies.acdc.ACDC` (AC/DC, arXiv 2106.12379): dense,
    alternating phases, open, final mask, at the same fractions of the run. Inside it, with lengths as
    fractions of the run:

    - an *open* phase collapses from ``shortest`` on at a plateau or high entropy. It does so at its nominal length
      unless the measure is under ``floor``, and at ``longest`` always;
    - a *sparse* phase surges from ``shortest`` on if the measure is under its floor. It does so at its nominal length
      unless entropy still rises clearly, and at ``longest`` always.

    A collapse may go from the plan's sparsity down to ``max_sparsity``. The controller goes as deep as leaves the
    measure on the probe batch at ``floor`` or above. A surge reopens ``surge`` of the pruned weights, at zero, by |EMA
    of the dense gradient|. Where the measure is under its floor it also starts input noise, which stops at the next
    collapse or once the measure is back. At ``cycles_until`` a sparse phase surges; no sparse phase is begun that could
    not last ``shortest`` until then. At ``freeze_at`` the exact target is collapsed to and the mask is final. Where
    entropy is missing, phases have their nominal length. The bounds by entropy are this project's; that they beat fixed
    times is a hypothesis to test, with ``periodic=True`` as its ablation.

    Args:
        dense_until: fraction of the run before the first collapse, in (0, 1).
        cycles_until: fraction at which the cycles end.
        freeze_at: fraction at which the mask is frozen, at most 1.
        phase: nominal length of a phase.
        shortest: least length of a phase, in (0, phase].
        longest: greatest length of a phase, in [phase, 1].
        max_sparsity: greatest sparsity of a collapse inside the cycles; default 1 − (1 − s)/2, half the target's
            density.
        floor: lowest value of ``measure`` that counts as enough (bits for ``on_off``), in [0, 1].
        measure: ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).
        surge: share of the pruned weights that a surge reopens, in (0, 1].
        growth: criterion by which they are chosen.
        regrow_init: their first value: ``zero | noise | last``.
        noise_std: σ of the input noise, ≥ 0; 0 for none.
        plateau: |change| of the entropy's moving average per 10 readings below which it is flat.
        high: quantile of the readings outside sparse phases; a phase whose mean entropy is above it is high.
        window: such readings over which that quantile rolls.
        timing: what ends a phase: ``entropy``, or as its ablations ``random`` (lengths drawn uniformly from
            [shortest, longest]) and ``fixed`` (the nominal length).
        full_depth_at: fraction of the run from which collapses go to their full depth. Sooner ones are scaled by the
            cubic 1 − (1 − t/(full_depth_at·T))³ of gradual pruning (arXiv 1710.01878). 0: always full.
        anneal: whether surges shrink: the share at step t is surge/2·(1 + cos(πt/t_c)), with t_c the step of
            ``cycles_until``. This is the decay of RigL's exchanges (arXiv 1911.11134), so that the mask settles. The
            last collapse of the cycles is then not reopened.
        final_ramp: how the target is reached after the cycles: ``none``, at once at ``freeze_at``; or ``cubic``, by
            the cubic schedule of gradual pruning (arXiv 1710.01878) from ``cycles_until`` to ``freeze_at``.
        periodic: decide exactly as ``ACDC`` does: nominal phases, depth at the target, all pruned reopened,
            no noise.

    Raises:
        ValueError: if an option is out of range.

    >>> from surgecollapse.events import Plan
    >>> policy = EntropyCycles()
    >>> policy.start(Plan(sparsity=0.9, total_steps=1000, every=25))
    >>> first = policy.decide(Reading(step=100, entropy=0.5, on_off=0.8))
    >>> first.phase, [round(sparsity, 6) for sparsity in first.actions[0].range], first.actions[0].floor
    ('sparse', [0.9, 0.95], 0.4)
    >>> early = policy.decide(Reading(step=125, entropy=0.4, on_off=0.3))
    >>> early.phase, early.find(Regrow).fraction, early.find(SetNoise)
    ('open', 0.5, SetNoise(std=0.05))
    >>> early.reason
    'low entropy: on_off 0.300 is under its floor 0.4 after 25 steps of the sparse phase'

    When to use:
        To study entropy as a trigger: ``timing`` and ``periodic`` are its ablations. Over ten seeds, phases ended
        by entropy were as accurate as random and fixed ones. For accuracy use ``cyclic_pruning``.

    Cost:
        Mean training density 0.30 at 90% sparsity. A prune with the floor takes up to five passes of the probe
        batch; growth keeps a running mean of dense gradients.

    Deviations:
        The schedule is AC/DC's; bounding phases and depths by entropy is this project's.

    Source:
        After Peste, Iofinova, Vladu, Alistarh 2021, arXiv 2106.12379.
    """

    dense_until: float = 0.10
    cycles_until: float = 0.75
    freeze_at: float = 0.85
    phase: float = 0.05
    shortest: float = 0.025
    longest: float = 0.10
    max_sparsity: float | None = None
    floor: float = 0.4
    measure: Measure = "on_off"
    surge: float = 0.5
    growth: Growth = "ema_gradient"
    regrow_init: RegrowInit = "zero"
    noise_std: float = 0.05
    plateau: float = 1e-3
    high: float = 0.8
    window: int = 50
    periodic: bool = False
    timing: Timing = "entropy"
    full_depth_at: float = 0.0
    anneal: bool = False
    final_ramp: Ramp = "none"
    scheduled: ClassVar[bool] = True
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options; the frame, the timing and the signals check theirs."""
        self._fixed, self._timing, self._signals()
        one_of("final_ramp", self.final_ramp, get_args(Ramp))
        validation.fraction("full_depth_at", self.full_depth_at, one=False)
        if self.max_sparsity is not None:
            validation.fraction("max_sparsity", self.max_sparsity, one=False)
        validation.fraction("surge", self.surge, zero=False)
        one_of("growth", self.growth, GROWTH)
        one_of("regrow_init", self.regrow_init, REGROW_INIT)
        validation.not_negative("noise_std", self.noise_std)

    @cached_property
    def _fixed(self) -> ACDC:
        """The same frame with fixed times: gives the schedule, and the decisions where ``periodic``."""
        return ACDC(
            dense_until=self.dense_until,
            cycles_until=self.cycles_until,
            freeze_at=self.freeze_at,
            phase=self.phase,
        )

    @cached_property
    def _timing(self) -> PhaseTiming:
        return PhaseTiming(shortest=self.shortest, nominal=self.phase, longest=self.longest, timing=self.timing)

    def _signals(self) -> EntropySignals:
        """What a run that has not begun listens with."""
        return EntropySignals(
            measure=self.measure,
            floor=self.floor,
            plateau=self.plateau,
            high=self.high,
            window=self.window,
        )

    def start(self, plan: Plan) -> None:
        """Learn the plan, lay out the schedule and forget any earlier run.

        Raises:
            ValueError: if ``total_steps`` is missing or too short, or ``max_sparsity`` is shallower than the
                target.
        """
        if self.max_sparsity is not None and self.max_sparsity < plan.sparsity:
            raise ValueError(
                f"max_sparsity={self.max_sparsity!r} is shallower than the target sparsity {plan.sparsity!r}: "
                "give at least the target, or leave it out"
            )
        super().start(plan)

    def _begin(self, plan: Plan) -> None:
        self._fixed.start(plan)
        self._state.signals = self._signals()
        if not self.periodic and plan.every > self._shortest_steps:
            logger.warning(
                "every=%d is longer than the shortest phase (%d steps): decisions are also due every %d "
                "steps from %d to %d",
                plan.every,
                self._shortest_steps,
                self._shortest_steps,
                self._schedule.dense_end,
                self._schedule.cycles_end,
            )

    @property
    def _schedule(self) -> CycleSchedule:
        return self._fixed.schedule

    @property
    def _shortest_steps(self) -> int:
        """Least length of a phase, in whole steps."""
        return self._timing.shortest_steps(self._plan.total_steps or 0)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every`` or a nominal boundary.

        Where ``every`` is longer than the shortest phase, also every shortest phase inside the cycles. The times are
        fixed, so that a resumed run reads at the same steps.
        """
        if self._fixed.due(step) or self.periodic or self._plan.every <= self._shortest_steps:
            return self._fixed.due(step)
        start, end = self._schedule.dense_end, self._schedule.cycles_end
        return start <= step <= end and (step - start) % self._shortest_steps == 0

    def earliest(self, step: int) -> int | None:
        """The first step after ``step`` at which the present phase may end; ``None`` once the mask is final."""
        state, schedule = self._state, self._schedule
        if self.periodic or state.phase in ("dense", "frozen"):
            return None if state.phase == "frozen" else self._fixed.earliest(step)
        if state.pumping:  # it stops as soon as the measure is back
            return step + 1
        if step >= schedule.cycles_end:
            return schedule.freeze if self.final_ramp == "none" else step + 1
        return max(step + 1, min(to_step(state.since) + self._shortest_steps, schedule.cycles_end))

    def decide(self, reading: Reading) -> Decision:
        """Begin the next phase, or say why the present one goes on."""
        return self._fixed.decide(reading) if self.periodic else super().decide(reading)

    def _act(self, reading: Reading) -> Decision:
        state, step, schedule = self._state, reading.step, self._schedule
        signals = state.signals.read(reading, sparse=state.phase == "sparse")
        if step >= schedule.freeze:
            return self._freeze(step)
        if step >= schedule.cycles_end:
            if state.phase == "sparse" and state.since < schedule.cycles_end and not self.anneal:
                return self._surge(step, f"last surge: the cycles end at step {schedule.cycles_end}", signals)
            return self._ramp(reading, signals)
        ends, why = self._ends(step, signals)
        if not ends:
            return self._stay(why, signals)
        if state.phase == "sparse":
            return self._surge(step, why, signals)
        if step + self._shortest_steps > schedule.cycles_end:
            late = f"too late for a sparse phase before step {schedule.cycles_end}"
            return self._stay(f"{why}, but {late}", signals)
        return self._collapse(step, why)

    def _ends(self, step: int, signals: Signals) -> tuple[bool, str]:
        """Whether the phase ends at this step, and why or why not."""
        state, plan = self._state, self._plan
        if state.phase != "dense":
            return self._timing.ends(state.phase, state.since, step, plan.total_steps or 0, signals, seed=plan.seed)
        start = self._schedule.dense_end
        if step < start:
            return False, f"dense until step {start}, at step {step}"
        return True, f"the dense start is over: first collapse at step {step} (planned for {start})"

    def _enter(self, phase: str, step: int) -> None:
        """Note that a phase begins."""
        state = self._state
        state.phase, state.since = phase, self._schedule.position(step)
        state.signals.new_phase()

    def _collapse(self, step: int, why: str) -> Decision:
        """Begin a sparse phase."""
        least = self._plan.sparsity
        most = 1.0 - (1.0 - least) / 2.0 if self.max_sparsity is None else self.max_sparsity
        if (full := to_step(self.full_depth_at * (self._plan.total_steps or 0))) > step:
            share = cubic(step, 0, full, 0.0, 1.0)
            least, most = share * least, share * most
        quiet = (SetNoise(0.0),) if self._state.pumping else ()
        self._state.pumping = False
        self._enter("sparse", step)
        keep = self.regrow_init == "last"
        prune = Prune((least, most), floor=self.floor, measure=self.measure, keep_values=keep)
        return Decision(phase="sparse", reason=why, actions=(prune, *quiet))

    def _surge(self, step: int, why: str, signals: Signals) -> Decision:
        """Begin an open phase, with input noise where the measure is under its floor."""
        pumped = self.noise_std > 0.0 and signals.low is not None
        self._state.pumping = pumped
        self._enter("open", step)
        surge = cosine(step, 0, self._schedule.cycles_end, self.surge, 0.0) if self.anneal else self.surge
        actions: list[Action] = [Regrow(surge, growth=self.growth, regrow_init=self.regrow_init)]
        if pumped:
            actions.append(SetNoise(self.noise_std))
        return Decision(phase="open", reason=why, actions=tuple(actions))

    def _freeze(self, step: int) -> Decision:
        """Collapse to the exact target, for good."""
        self._state.pumping = False
        self._enter("frozen", step)
        target = self._plan.sparsity
        reason = f"exact target {target:.4g} and final mask at step {step} (planned for {self._schedule.freeze})"
        return Decision(phase="frozen", reason=reason, actions=(Prune(target), SetNoise(0.0), Freeze()))

    def _ramp(self, reading: Reading, signals: Signals) -> Decision:
        """Go down to the target between the cycles and the final mask, or wait for it."""
        step, schedule, phase = reading.step, self._schedule, self._state.phase
        if self.final_ramp == "cubic":
            depth = cubic(step, schedule.cycles_end, schedule.freeze, 0.0, self._plan.sparsity)
            if depth > reading.sparsity:
                if phase != "sparse":
                    self._enter("sparse", step)
                reason = f"final ramp: sparsity {depth:.4g} at step {step}"
                return Decision(phase="sparse", reason=reason, actions=(Prune(depth),))
        return self._stay(f"{phase} until the final mask at step {schedule.freeze}", signals)

    def _stay(self, why: str, signals: Signals) -> Decision:
        """Stay in the phase; stop the input noise once the measure is back."""
        state = self._state
        if not state.pumping or signals.back is None:
            return Decision(phase=state.phase, reason=why)
        state.pumping = False
        return Decision(phase=state.phase, reason=f"input noise stops: {signals.back}", actions=(SetNoise(0.0),))

    def state_dict(self) -> dict[str, Any]:
        """The phase and when it began, whether there is noise, and what the signals learned."""
        return {**super().state_dict(), "periodic": self.periodic, "fixed": self._fixed.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged, or was written with the other value of
                ``periodic``.
        """
        super().load_state_dict(state)
        if state["periodic"] != self.periodic:
            raise ValueError(
                f"the state was written with periodic={state['periodic']!r}, this policy has "
                f"{self.periodic!r}: resume with the options of the run"
            )
        self._fixed.load_state_dict(state["fixed"])
