"""The adaptive rules: high entropy → collapse and refill, low → input noise, plateau → collapse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import validation as guards
from surgecollapse.policies.bands import Band, FixedBand, Hysteresis, QuantileBand, TargetBand
from surgecollapse.policies.schedule import to_step
from surgecollapse.policies.trend import Trend

_LIMITS = ("quantile", "fixed", "target")
_KEYS = ("phase", "pump", "readings", "acted_at", "signal", "level", "band", "trend")


@dataclass(slots=True)
class _Run:
    """What changes during a run."""

    band: Band
    level: Hysteresis
    trend: Trend
    plan: Plan | None = None
    phase: str = "dense"
    pump: float = 0.0
    readings: int = 0
    acted_at: int | None = None
    """Number of the reading at the last intervention."""
    signal: str | None = None
    """What that intervention answered: ``high | low | plateau``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyThresholds:
    """Answer the mean activation entropy of every reading by rule; masks hold.

    ========  ============================================================================================
    high      collapse by ``collapse`` of the live weights, then reopen ``reopen`` of what was just pruned,
              as noise of energy ≤ ``rho`` of the live energy ("energy injection")
    low       noise on the inputs, σ from ``pump[0]`` by ``pump_step`` to ``pump[1]`` at each further low
              reading; stopped once entropy is back in the band
    plateau   collapse by ``collapse`` of the live weights
    ========  ============================================================================================

    At sparsity s a collapse goes to s + collapse·(1 − s), never beyond the plan's sparsity. With
    ``total_steps`` known the exact target is collapsed to and frozen at ``freeze_at``; without, only
    ``controller.finalize()`` does that. The rules are those of Surge-Collapse Training (R. Aragon); every
    number here is this project's choice.

    Args:
        thresholds: ``quantile`` (rolling quantiles), ``fixed``, or ``target`` (a band steered to an entropy).
        low: the quantile (default .2) or the fixed limit below which entropy is low, in [0, 1].
        high: the quantile (default .8) or the fixed limit above which it is high.
        target: the entropy to track, for ``target``.
        window: readings over which the quantiles roll.
        hysteresis: how far inside the band entropy must come before high or low is over.
        dwell: readings after an intervention before another signal is answered.
        cooldown: readings after an intervention before the same signal is answered again.
        collapse: share of the live weights that one collapse removes, in (0, 1].
        reopen: share of those that are reopened on high entropy, in [0, 1].
        rho: bound on injected over live energy.
        pump: least and greatest σ of the input noise.
        pump_step: by how much σ rises at each further low reading, ≥ 0.
        plateau: |change| of the entropy's moving average per ``span`` readings below which it is flat.
        span: readings over which that change is taken.
        freeze_at: fraction of ``total_steps`` at which the mask is frozen, in (0, 1].

    Raises:
        ValueError: if an option is out of range, missing or of no effect.

    >>> policy = EntropyThresholds(thresholds="fixed", low=0.3, high=0.7)
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> decision = policy.decide(Reading(step=50, entropy=0.8, sparsity=0.5))
    >>> round(decision.depth, 6), decision.surge, decision.reopen, decision.rho
    (0.55, 0.5, 'collapsed', 0.1)
    >>> decision.reason
    'high entropy: 0.800 is above 0.700, the fixed high limit'
    """

    thresholds: str = "quantile"
    low: float | None = None
    high: float | None = None
    target: float | None = None
    window: int = 50
    hysteresis: float = 0.01
    dwell: int = 5
    cooldown: int = 5
    collapse: float = 0.1
    reopen: float = 0.5
    rho: float = 0.1
    pump: tuple[float, float] = (0.05, 0.2)
    pump_step: float = 0.05
    plateau: float = 1e-3
    span: int = 10
    freeze_at: float = 0.85
    _run: _Run = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options; the thresholds check theirs."""
        guards.one_of("thresholds", self.thresholds, _LIMITS)
        guards.whole("dwell", self.dwell, least=0)
        guards.whole("cooldown", self.cooldown, least=0)
        guards.fraction("collapse", self.collapse, zero=False)
        guards.fraction("reopen", self.reopen)
        guards.fraction("rho", self.rho)
        guards.fraction("freeze_at", self.freeze_at, zero=False)
        guards.not_negative("pump_step", self.pump_step)
        if len(self.pump) != 2 or not 0.0 < self.pump[0] <= self.pump[1] < float("inf"):
            raise ValueError(f"pump must be (least, greatest) σ with 0 < least <= greatest, got {self.pump!r}")
        object.__setattr__(self, "_run", self._fresh())

    def _fresh(self) -> _Run:
        """The state of a run that has not begun."""
        trend = Trend(limit=self.plateau, span=self.span)
        return _Run(band=self._band(), level=Hysteresis(self.hysteresis), trend=trend)

    def _band(self) -> Band:
        """Build the thresholds that the options describe."""
        if (self.target is not None) != (self.thresholds == "target"):
            raise ValueError(
                f"target goes with thresholds='target' and is needed there, got target={self.target!r} "
                f"with thresholds={self.thresholds!r}"
            )
        if self.target is not None:
            if self.low is not None or self.high is not None:
                raise ValueError("low and high have no effect with thresholds='target': leave them out")
            return TargetBand(self.target)
        if self.thresholds == "fixed":
            if self.low is None or self.high is None:
                raise ValueError(
                    f"thresholds='fixed' needs both low and high, got low={self.low!r}, high={self.high!r}"
                )
            return FixedBand(self.low, self.high)
        low = 0.2 if self.low is None else self.low
        high = 0.8 if self.high is None else self.high
        return QuantileBand(low, high, window=self.window, least=min(10, self.window))

    def start(self, plan: Plan) -> None:
        """Learn the plan and forget any earlier run.

        Raises:
            ValueError: if the plan is out of range.
        """
        guards.check_plan(plan, owner="EntropyThresholds", scheduled=False)
        object.__setattr__(self, "_run", self._fresh())
        self._run.plan = plan

    def _freeze_step(self, plan: Plan) -> int | None:
        """Step at which the mask becomes final, where the length of the run is known."""
        return None if plan.total_steps is None else max(1, to_step(self.freeze_at * plan.total_steps))

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every``, or the one at which the mask is frozen."""
        plan = guards.started(self._run.plan, owner="EntropyThresholds")
        return step > 0 and (step % plan.every == 0 or step == self._freeze_step(plan))

    def earliest(self, step: int) -> int | None:
        """The step at which the shorter of dwell and cool-down is over; ``None`` once the mask is final."""
        run = self._run
        plan = guards.started(run.plan, owner="EntropyThresholds")
        if run.phase == "frozen":
            return None
        if run.acted_at is None or run.pump > 0.0:
            return step + 1
        left = min(self.dwell, self.cooldown) - (run.readings - run.acted_at)
        free = step + 1 if left <= 0 else (step // plan.every + left) * plan.every
        freeze = self._freeze_step(plan)
        return free if freeze is None or freeze <= step else min(free, freeze)

    def decide(self, reading: Reading) -> Decision:
        """Answer one reading."""
        run = self._run
        plan = guards.started(run.plan, owner="EntropyThresholds")
        idle = guards.pause(reading, plan, run.phase)
        if idle is not None:
            return idle
        freeze = self._freeze_step(plan)
        if run.phase == "frozen":
            return Decision(phase="frozen", reason=f"frozen: the mask is final since step {freeze}")
        if freeze is not None and reading.step >= freeze:
            run.phase, run.pump = "frozen", 0.0
            reason = f"exact target {plan.sparsity:.4g} and final mask at step {reading.step} (due from {freeze})"
            return Decision(phase="frozen", reason=reason, depth=plan.sparsity, pump=0.0, freeze=True)
        entropy = guards.known(reading.entropy)
        if entropy is None:
            return Decision(phase=run.phase, reason=f"no activation entropy was read at step {reading.step}")
        signal, why = self._listen(entropy)
        if run.pump > 0.0:
            return self._pumping(signal, why, reading)
        if signal == "band":
            return Decision(phase=run.phase, reason=why)
        waiting = self._waiting(signal)
        if waiting is not None:
            return Decision(phase=run.phase, reason=f"{why}; {waiting}")
        return self._answer(signal, why, reading, plan)

    def _listen(self, entropy: float) -> tuple[str, str]:
        """Name the signal of a reading (``high | low | plateau | band``) and why, and learn from it."""
        run = self._run
        run.readings += 1
        run.trend.update(entropy)
        bounds = run.band.bounds()
        level = "band" if bounds is None else run.level.update(entropy, *bounds)
        why = f"in the band: entropy {entropy:.3f}"
        if bounds is None:
            why = f"entropy {entropy:.3f}: too few readings for limits yet"
        elif level != "band":
            limit, side = (bounds[1], "above") if level == "high" else (bounds[0], "below")
            beyond = entropy > limit if level == "high" else entropy < limit
            place = f"is {side}" if beyond else f"is not yet {run.level.margin:g} back inside"
            why = f"{level} entropy: {entropy:.3f} {place} {limit:.3f}, {run.band.words(level)}"
        run.band.update(entropy)
        if level == "band" and run.trend.plateau:
            return "plateau", f"plateau: {run.trend.words()}"
        return level, why

    def _waiting(self, signal: str) -> str | None:
        """Say how long an answer must still wait for dwell or cool-down; ``None`` if it need not."""
        run = self._run
        if run.acted_at is None:
            return None
        passed = run.readings - run.acted_at
        name, needed = ("cool-down", self.cooldown) if signal == run.signal else ("dwell", self.dwell)
        return f"{name}: {passed} of {needed} readings since the last intervention" if passed < needed else None

    def _answer(self, signal: str, why: str, reading: Reading, plan: Plan) -> Decision:
        """Carry out the rule of a signal."""
        run = self._run
        if signal == "low":
            run.acted_at, run.signal = run.readings, signal
            run.pump, run.phase = self.pump[0], "pump"
            return Decision(phase="pump", reason=f"{why}: input noise σ = {run.pump:g}", pump=run.pump)
        depth = min(reading.sparsity + self.collapse * (1.0 - reading.sparsity), plan.sparsity)
        if depth <= reading.sparsity:
            reason = f"{why}; sparsity {reading.sparsity:.4g} has reached its target {plan.sparsity:.4g}"
            return Decision(phase=run.phase, reason=reason)
        run.acted_at, run.signal, run.phase = run.readings, signal, "sparse"
        if signal == "plateau":
            return Decision(phase="sparse", reason=why, depth=depth)
        return Decision(
            phase="sparse",
            reason=why,
            depth=depth,
            surge=self.reopen,
            reopen="collapsed",
            initial="noise",
            rho=self.rho,
        )

    def _pumping(self, signal: str, why: str, reading: Reading) -> Decision:
        """Strengthen the input noise while entropy stays low; stop it once entropy is back."""
        run = self._run
        if signal == "low":
            sigma = min(run.pump + self.pump_step, self.pump[1])
            stronger = sigma > run.pump
            run.pump = sigma
            reason = f"{why}: input noise σ = {sigma:g}{'' if stronger else ', its greatest'}"
            return Decision(phase="pump", reason=reason, pump=sigma if stronger else None)
        run.acted_at, run.signal, run.pump = run.readings, "low", 0.0
        run.phase = "sparse" if reading.sparsity > 0.0 else "dense"
        return Decision(phase=run.phase, reason=f"entropy is no longer low, input noise stops ({why})", pump=0.0)

    def state_dict(self) -> dict[str, Any]:
        """The phase, the pump, what was last answered and when, and what the thresholds learnt."""
        run = self._run
        return {
            "policy": "EntropyThresholds",
            "phase": run.phase,
            "pump": run.pump,
            "readings": run.readings,
            "acted_at": run.acted_at,
            "signal": run.signal,
            "level": run.level.state_dict(),
            "band": run.band.state_dict(),
            "trend": run.trend.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; call it after :meth:`start`.

        Raises:
            ValueError: if the state is foreign or damaged.
        """
        guards.check_state(state, owner="EntropyThresholds", keys=_KEYS)
        run = self._run
        run.phase, run.pump, run.readings = state["phase"], state["pump"], state["readings"]
        run.acted_at, run.signal = state["acted_at"], state["signal"]
        run.level.load_state_dict(state["level"])
        run.band.load_state_dict(state["band"])
        run.trend.load_state_dict(state["trend"])
