"""Entropy-bounded cycles, the default: AC/DC's frame, its phases and depths bounded by activation entropy."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.acdc import ACDC
from surgecollapse.policies.dynamic_sparse import cosine_decay
from surgecollapse.policies.phase_timing import PhaseTiming
from surgecollapse.policies.schedule import CycleSchedule, to_step
from surgecollapse.policies.signals import EntropySignals, Signals

logger = logging.getLogger(__name__)

_KEYS = ("periodic", "fixed", "phase", "since", "pumping", "signals")


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    signals: EntropySignals
    phase: str = "dense"
    since: float = 0.0
    """Position at which the phase began, before rounding where that was a boundary of the schedule."""
    pumping: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyCycles:
    """Alternate sparse and open phases, ended early or late by activation entropy, as deep as it allows.

    The frame is that of :class:`~surgecollapse.policies.acdc.ACDC` (AC/DC, arXiv 2106.12379): dense,
    alternating phases, open, final mask, at the same fractions of the run. Inside it, with lengths as
    fractions of the run:

    - an *open* phase collapses from ``shortest`` on at a plateau or high entropy; at its nominal length
      unless the measure is under ``floor``; at ``longest`` always;
    - a *sparse* phase surges from ``shortest`` on if the measure is under its floor; at its nominal length
      unless entropy still rises clearly; at ``longest`` always.

    A collapse may go from the plan's sparsity down to ``deepest``; the controller goes as deep as leaves the
    measure on the probe batch at ``floor`` or above. A surge reopens ``surge`` of the pruned weights, at
    zero, by |EMA of the dense gradient|; where the measure is under its floor it also starts input noise,
    which stops at the next collapse or once the measure is back. At ``cycles_until`` a sparse phase surges;
    no sparse phase is begun that could not last ``shortest`` until then. At ``freeze_at`` the exact target is
    collapsed to and the mask is final. Where entropy is missing, phases have their nominal length. The bounds
    by entropy are this project's; that they beat fixed times is a hypothesis to test, with ``periodic=True``
    as its ablation.

    Args:
        dense_until: fraction of the run before the first collapse, in (0, 1).
        cycles_until: fraction at which the cycles end.
        freeze_at: fraction at which the mask is frozen, at most 1.
        phase: nominal length of a phase.
        shortest: least length of a phase, in (0, phase].
        longest: greatest length of a phase, in [phase, 1].
        deepest: greatest sparsity of a collapse inside the cycles; default 1 − (1 − s)/2, half the target's
            density.
        floor: lowest value of ``measure`` that counts as enough (bits for ``on_off``), in [0, 1].
        measure: ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).
        surge: share of the pruned weights that a surge reopens, in (0, 1].
        growth: criterion by which they are chosen.
        initial: their first value: ``zero | noise | last``.
        pump: σ of the input noise, ≥ 0; 0 for none.
        plateau: |change| of the entropy's moving average per 10 readings below which it is flat.
        high: quantile of the readings outside sparse phases; a phase whose mean entropy is above it is high.
        window: such readings over which that quantile rolls.
        timing: what ends a phase: ``entropy``, or as its ablations ``random`` (lengths drawn uniformly from
            [shortest, longest]) and ``fixed`` (the nominal length).
        full_depth_at: fraction of the run from which collapses go to their full depth; sooner ones are scaled by
            the cubic 1 − (1 − t/(full_depth_at·T))³ of gradual pruning (arXiv 1710.01878). 0: always full.
        anneal: whether surges shrink: the share at step t is surge/2·(1 + cos(πt/t_c)), with t_c the step of
            ``cycles_until`` (the decay of RigL's exchanges, arXiv 1911.11134), so that the mask settles; the last
            collapse of the cycles is then not reopened.
        landing: how the target is reached after the cycles: ``drop``, at once at ``freeze_at``; or ``gradual``, by
            the cubic schedule of gradual pruning (arXiv 1710.01878) from ``cycles_until`` to ``freeze_at``.
        periodic: decide exactly as ``ACDC`` does: nominal phases, depth at the target, all pruned reopened,
            no noise.

    Raises:
        ValueError: if an option is out of range.

    >>> policy = EntropyCycles()
    >>> policy.start(Plan(sparsity=0.9, total_steps=1000, every=25))
    >>> first = policy.decide(Reading(step=100, entropy=0.5, on_off=0.8))
    >>> first.phase, [round(depth, 6) for depth in first.depth], first.floor
    ('sparse', [0.9, 0.95], 0.4)
    >>> early = policy.decide(Reading(step=125, entropy=0.4, on_off=0.3))
    >>> early.phase, early.surge, early.pump, early.reason
    ('open', 0.5, 0.05, 'low entropy: on_off 0.300 is under its floor 0.4 after 25 steps of the sparse phase')
    """

    dense_until: float = 0.10
    cycles_until: float = 0.75
    freeze_at: float = 0.85
    phase: float = 0.05
    shortest: float = 0.025
    longest: float = 0.10
    deepest: float | None = None
    floor: float = 0.4
    measure: str = "on_off"
    surge: float = 0.5
    growth: str = "ema_gradient"
    initial: str = "zero"
    pump: float = 0.05
    plateau: float = 1e-3
    high: float = 0.8
    window: int = 50
    periodic: bool = False
    timing: str = "entropy"
    full_depth_at: float = 0.0
    anneal: bool = False
    landing: str = "drop"
    _clock: PhaseTiming = field(init=False, repr=False)
    _fixed: ACDC = field(init=False, repr=False)
    """The same frame with fixed times: gives the schedule, and the decisions where ``periodic``."""
    _run: _Run = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options; the frame and the thresholds check theirs."""
        fixed = ACDC(
            dense_until=self.dense_until,
            cycles_until=self.cycles_until,
            freeze_at=self.freeze_at,
            phase=self.phase,
        )
        clock = PhaseTiming(shortest=self.shortest, nominal=self.phase, longest=self.longest, timing=self.timing)
        guards.one_of("landing", self.landing, ("drop", "gradual"))
        guards.fraction("full_depth_at", self.full_depth_at, one=False)
        if self.deepest is not None:
            guards.fraction("deepest", self.deepest, one=False)
        guards.fraction("surge", self.surge, zero=False)
        guards.one_of("growth", self.growth, ("random", "gradient", "ema_gradient", "momentum"))
        guards.one_of("initial", self.initial, ("zero", "noise", "last"))
        guards.not_negative("pump", self.pump)
        object.__setattr__(self, "_fixed", fixed)
        object.__setattr__(self, "_clock", clock)
        object.__setattr__(self, "_run", self._fresh())

    def _fresh(self) -> _Run:
        """The state of a run that has not begun."""
        signals = EntropySignals(
            measure=self.measure,
            floor=self.floor,
            plateau=self.plateau,
            high=self.high,
            window=self.window,
        )
        return _Run(signals=signals)

    def start(self, plan: Plan) -> None:
        """Learn the plan, lay out the schedule and forget any earlier run.

        Raises:
            ValueError: if ``total_steps`` is missing or too short, or ``deepest`` is shallower than the
                target.
        """
        if self.deepest is not None and self.deepest < plan.sparsity:
            raise ValueError(
                f"deepest={self.deepest!r} is shallower than the target sparsity {plan.sparsity!r}: "
                "give at least the target, or leave it out"
            )
        self._fixed.start(plan)
        object.__setattr__(self, "_run", self._fresh())
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
    def _plan(self) -> Plan:
        return guards.started(self._fixed.plan, owner="EntropyCycles")

    @property
    def _schedule(self) -> CycleSchedule:
        return self._fixed.schedule

    @property
    def _shortest_steps(self) -> int:
        """Least length of a phase, in whole steps."""
        return self._clock.shortest_steps(self._plan.total_steps or 0)

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every`` or a nominal boundary.

        Where ``every`` is longer than the shortest phase, also every shortest phase inside the cycles: fixed
        times, so that a resumed run reads at the same steps.
        """
        if self._fixed.due(step) or self.periodic or self._plan.every <= self._shortest_steps:
            return self._fixed.due(step)
        start, end = self._schedule.dense_end, self._schedule.cycles_end
        return start <= step <= end and (step - start) % self._shortest_steps == 0

    def earliest(self, step: int) -> int | None:
        """The first step after ``step`` at which the present phase may end; ``None`` once the mask is final."""
        run, schedule = self._run, self._schedule
        if self.periodic or run.phase in ("dense", "frozen"):
            return None if run.phase == "frozen" else self._fixed.earliest(step)
        if run.pumping:  # it stops as soon as the measure is back
            return step + 1
        if step >= schedule.cycles_end:
            return schedule.freeze if self.landing == "drop" else step + 1
        return max(step + 1, min(to_step(run.since) + self._shortest_steps, schedule.cycles_end))

    def decide(self, reading: Reading) -> Decision:
        """Begin the next phase, or say why the present one goes on."""
        if self.periodic:
            return self._fixed.decide(reading)
        run = self._run
        idle = guards.pause(reading, self._plan, run.phase)
        if idle is not None:
            return idle
        step, schedule = reading.step, self._schedule
        if run.phase == "frozen":
            return Decision(phase="frozen", reason=f"frozen: the mask is final since step {schedule.freeze}")
        signals = run.signals.read(reading, sparse=run.phase == "sparse")
        if step >= schedule.freeze:
            return self._freeze(step)
        if step >= schedule.cycles_end:
            if run.phase == "sparse" and run.since < schedule.cycles_end and not self.anneal:
                return self._surge(step, f"last surge: the cycles end at step {schedule.cycles_end}", signals)
            return self._land(reading, signals)
        ends, why = self._ends(step, signals)
        if not ends:
            return self._stay(why, signals)
        if run.phase == "sparse":
            return self._surge(step, why, signals)
        if step + self._shortest_steps > schedule.cycles_end:
            late = f"too late for a sparse phase before step {schedule.cycles_end}"
            return self._stay(f"{why}, but {late}", signals)
        return self._collapse(step, why)

    def _ends(self, step: int, signals: Signals) -> tuple[bool, str]:
        """Whether the phase ends at this step, and why or why not."""
        run, plan = self._run, self._plan
        if run.phase != "dense":
            return self._clock.ends(run.phase, run.since, step, plan.total_steps or 0, signals, seed=plan.seed)
        start = self._schedule.dense_end
        if step < start:
            return False, f"dense until step {start}, at step {step}"
        return True, f"the dense start is over: first collapse at step {step} (due from {start})"

    def _enter(self, phase: str, step: int) -> None:
        """Note that a phase begins."""
        run = self._run
        run.phase, run.since = phase, self._schedule.position(step)
        run.signals.new_phase()

    def _collapse(self, step: int, why: str) -> Decision:
        """Begin a sparse phase."""
        least = self._plan.sparsity
        most = 1.0 - (1.0 - least) / 2.0 if self.deepest is None else self.deepest
        if (full := to_step(self.full_depth_at * (self._plan.total_steps or 0))) > step:
            share = 1.0 - (1.0 - step / full) ** 3
            least, most = share * least, share * most
        pump = 0.0 if self._run.pumping else None
        self._run.pumping = False
        self._enter("sparse", step)
        return Decision(
            phase="sparse",
            reason=why,
            depth=(least, most),
            floor=self.floor,
            measure=self.measure,
            initial=self.initial,
            pump=pump,
        )

    def _surge(self, step: int, why: str, signals: Signals) -> Decision:
        """Begin an open phase, with input noise where the measure is under its floor."""
        pumped = self.pump > 0.0 and signals.low is not None
        self._run.pumping = pumped
        self._enter("open", step)
        return Decision(
            phase="open",
            reason=why,
            surge=cosine_decay(self.surge, step, self._schedule.cycles_end) if self.anneal else self.surge,
            growth=self.growth,
            initial=self.initial,
            pump=self.pump if pumped else None,
        )

    def _freeze(self, step: int) -> Decision:
        """Collapse to the exact target, for good."""
        self._run.pumping = False
        self._enter("frozen", step)
        target = self._plan.sparsity
        reason = f"exact target {target:.4g} and final mask at step {step} (due from {self._schedule.freeze})"
        return Decision(phase="frozen", reason=reason, depth=target, freeze=True, pump=0.0)

    def _land(self, reading: Reading, signals: Signals) -> Decision:
        """Go down to the target between the cycles and the final mask, or wait for it."""
        step, schedule, phase = reading.step, self._schedule, self._run.phase
        if self.landing == "gradual":
            u = (step - schedule.cycles_end) / (schedule.freeze - schedule.cycles_end)
            depth = self._plan.sparsity * (1.0 - (1.0 - u) ** 3)
            if depth > reading.sparsity:
                if phase != "sparse":
                    self._enter("sparse", step)
                return Decision(phase="sparse", reason=f"landing: sparsity {depth:.4g} at step {step}", depth=depth)
        return self._stay(f"{phase} until the final mask at step {schedule.freeze}", signals)

    def _stay(self, why: str, signals: Signals) -> Decision:
        """Stay in the phase; stop the input noise once the measure is back."""
        run = self._run
        if not run.pumping or signals.back is None:
            return Decision(phase=run.phase, reason=why)
        run.pumping = False
        return Decision(phase=run.phase, reason=f"input noise stops: {signals.back}", pump=0.0)

    def state_dict(self) -> dict[str, Any]:
        """The phase and when it began, the pump, and what the thresholds learnt."""
        run = self._run
        return {
            "policy": "EntropyCycles",
            "periodic": self.periodic,
            "fixed": self._fixed.state_dict(),
            "phase": run.phase,
            "since": run.since,
            "pumping": run.pumping,
            "signals": run.signals.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged, or was written with the other value of
                ``periodic``.
        """
        guards.check_state(state, owner="EntropyCycles", keys=_KEYS)
        if state["periodic"] != self.periodic:
            raise ValueError(
                f"the state was written with periodic={state['periodic']!r}, this policy has "
                f"{self.periodic!r}: resume with the options of the run"
            )
        run = self._run
        self._fixed.load_state_dict(state["fixed"])
        run.phase, run.since, run.pumping = state["phase"], state["since"], state["pumping"]
        run.signals.load_state_dict(state["signals"])
