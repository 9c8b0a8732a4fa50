"""The adaptive rules: high entropy → collapse and refill, low → input noise, plateau → collapse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from surgecollapse.errors import one_of
from surgecollapse.events import Decision, Freeze, Plan, Prune, Reading, Regrow, SetNoise
from surgecollapse.policies import validation
from surgecollapse.policies.bands import Band, FixedBand, Hysteresis, QuantileBand, TargetBand
from surgecollapse.policies.base import BasePolicy, PolicyState
from surgecollapse.policies.registry import policy
from surgecollapse.policies.schedule import to_step
from surgecollapse.policies.trend import Trend

Limits = Literal["quantile", "fixed", "target"]


@dataclass(slots=True)
class _State(PolicyState):
    pump: float = 0.0
    """Standard deviation of the input noise."""
    readings: int = 0
    acted_at: int | None = None
    """Number of the reading at the last intervention."""
    signal: str | None = None
    """What that intervention answered: ``high | low | plateau``."""
    level: Hysteresis = field(default_factory=lambda: Hysteresis(0.0))
    band: Band = field(default_factory=QuantileBand)
    trend: Trend = field(default_factory=Trend)


@policy("entropy_thresholds")
@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyThresholds(BasePolicy):
    """Answer the mean activation entropy of every reading by rule; masks hold.

    ========  ============================================================================================
    high      collapse by ``collapse`` of the live weights, then reopen ``reopen`` of what was just pruned,
              as noise of energy ≤ ``noise_energy_budget`` of the live energy ("energy injection")
    low       noise on the inputs, σ from ``noise_std[0]`` by ``noise_step`` to ``noise_std[1]`` at each further low
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
        noise_energy_budget: bound on injected over live energy.
        noise_std: least and greatest σ of the input noise.
        noise_step: by how much σ rises at each further low reading, ≥ 0.
        plateau: |change| of the entropy's moving average per ``span`` readings below which it is flat.
        span: readings over which that change is taken.
        freeze_at: fraction of ``total_steps`` at which the mask is frozen, in (0, 1].

    Raises:
        ValueError: if an option is out of range, missing or of no effect.

    >>> policy = EntropyThresholds(thresholds="fixed", low=0.3, high=0.7)
    >>> policy.start(Plan(sparsity=0.9, total_steps=None, every=50))
    >>> decision = policy.decide(Reading(step=50, entropy=0.8, sparsity=0.5))
    >>> regrow = decision.find(Regrow)
    >>> round(decision.find(Prune).sparsity, 6), regrow.fraction, regrow.source, regrow.noise_energy_budget
    (0.55, 0.5, 'collapsed', 0.1)
    >>> decision.reason
    'high entropy: 0.800 is above 0.700, the fixed high limit'

    When to use:
        The length of the training is not known, or the method's published rules are to be tested. It lost 3.1
        points to dense training on 5,000 MNIST digits at 90% sparsity.

    Cost:
        Mean training density 0.75 on that task. Readings at the usual cadence.

    Deviations:
        Bands, hysteresis, dwell and cool-down are this project's: the published description names the signals and
        the responses only.

    Source:
        Surge-Collapse Training, R. Aragon; StabilAI, M. Young.
    """

    thresholds: Limits = "quantile"
    low: float | None = None
    high: float | None = None
    target: float | None = None
    window: int = 50
    hysteresis: float = 0.01
    dwell: int = 5
    cooldown: int = 5
    collapse: float = 0.1
    reopen: float = 0.5
    noise_energy_budget: float = 0.1
    noise_std: tuple[float, float] = (0.05, 0.2)
    noise_step: float = 0.05
    plateau: float = 1e-3
    span: int = 10
    freeze_at: float = 0.85
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options; the thresholds check theirs."""
        one_of("thresholds", self.thresholds, get_args(Limits))
        validation.whole("dwell", self.dwell, least=0)
        validation.whole("cooldown", self.cooldown, least=0)
        validation.fraction("collapse", self.collapse, zero=False)
        validation.fraction("reopen", self.reopen)
        validation.fraction("noise_energy_budget", self.noise_energy_budget)
        validation.fraction("freeze_at", self.freeze_at, zero=False)
        validation.not_negative("noise_step", self.noise_step)
        if len(self.noise_std) != 2 or not 0.0 < self.noise_std[0] <= self.noise_std[1] < float("inf"):
            raise ValueError(
                f"noise_std must be (least, greatest) σ with 0 < least <= greatest, got {self.noise_std!r}"
            )
        self._fresh(_State())

    def _fresh(self, state: _State) -> None:
        """Give a state what the options describe."""
        state.band, state.level = self._band(), Hysteresis(self.hysteresis)
        state.trend = Trend(limit=self.plateau, span=self.span)

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

    def _begin(self, plan: Plan) -> None:  # noqa: ARG002
        self._fresh(self._state)

    def _freeze_step(self, plan: Plan) -> int | None:
        """Step at which the mask becomes final, where the length of the run is known."""
        return None if plan.total_steps is None else max(1, to_step(self.freeze_at * plan.total_steps))

    def due(self, step: int) -> bool:
        """Whether ``step`` is a multiple of the plan's ``every``, or the one at which the mask is frozen."""
        return super().due(step) or (step > 0 and step == self._freeze_step(self._plan))

    def earliest(self, step: int) -> int | None:
        """The step at which the shorter of dwell and cool-down is over; ``None`` once the mask is final."""
        state, plan = self._state, self._plan
        if state.phase == "frozen":
            return None
        if state.acted_at is None or state.pump > 0.0:
            return step + 1
        left = min(self.dwell, self.cooldown) - (state.readings - state.acted_at)
        free = step + 1 if left <= 0 else (step // plan.every + left) * plan.every
        freeze = self._freeze_step(plan)
        return free if freeze is None or freeze <= step else min(free, freeze)

    def _act(self, reading: Reading) -> Decision:
        """Answer one reading."""
        state, plan = self._state, self._plan
        freeze = self._freeze_step(plan)
        if freeze is not None and reading.step >= freeze:
            state.pump = 0.0
            reason = f"exact target {plan.sparsity:.4g} and final mask at step {reading.step} (planned for {freeze})"
            return Decision(phase="frozen", reason=reason, actions=(Prune(plan.sparsity), SetNoise(0.0), Freeze()))
        entropy = validation.known(reading.entropy)
        if entropy is None:
            return Decision(phase=state.phase, reason=f"no activation entropy was read at step {reading.step}")
        signal, why = self._listen(entropy)
        if state.pump > 0.0:
            return self._pumping(signal, why, reading)
        if signal == "band":
            return Decision(phase=state.phase, reason=why)
        waiting = self._waiting(signal)
        if waiting is not None:
            return Decision(phase=state.phase, reason=f"{why}; {waiting}")
        return self._answer(signal, why, reading, plan)

    def _listen(self, entropy: float) -> tuple[str, str]:
        """Name the signal of a reading (``high | low | plateau | band``) and why, and learn from it."""
        state = self._state
        state.readings += 1
        state.trend.update(entropy)
        bounds = state.band.bounds()
        level = "band" if bounds is None else state.level.update(entropy, *bounds)
        why = f"in the band: entropy {entropy:.3f}"
        if bounds is None:
            why = f"entropy {entropy:.3f}: too few readings for limits yet"
        elif level != "band":
            limit, side = (bounds[1], "above") if level == "high" else (bounds[0], "below")
            beyond = entropy > limit if level == "high" else entropy < limit
            place = f"is {side}" if beyond else f"is not yet {state.level.margin:g} back inside"
            why = f"{level} entropy: {entropy:.3f} {place} {limit:.3f}, {state.band.words(level)}"
        state.band.update(entropy)
        if level == "band" and state.trend.plateau:
            return "plateau", f"plateau: {state.trend.words()}"
        return level, why

    def _waiting(self, signal: str) -> str | None:
        """Say how long an answer must still wait for dwell or cool-down; ``None`` if it need not."""
        state = self._state
        if state.acted_at is None:
            return None
        passed = state.readings - state.acted_at
        name, needed = ("cool-down", self.cooldown) if signal == state.signal else ("dwell", self.dwell)
        return f"{name}: {passed} of {needed} readings since the last intervention" if passed < needed else None

    def _answer(self, signal: str, why: str, reading: Reading, plan: Plan) -> Decision:
        """Carry out the rule of a signal."""
        state = self._state
        if signal == "low":
            state.acted_at, state.signal = state.readings, signal
            state.pump = std = self.noise_std[0]
            return Decision(phase="pump", reason=f"{why}: input noise σ = {std:g}", actions=(SetNoise(std),))
        depth = min(reading.sparsity + self.collapse * (1.0 - reading.sparsity), plan.sparsity)
        if depth <= reading.sparsity:
            reason = f"{why}; sparsity {reading.sparsity:.4g} has reached its target {plan.sparsity:.4g}"
            return Decision(phase=state.phase, reason=reason)
        state.acted_at, state.signal = state.readings, signal
        if signal == "plateau":
            return Decision(phase="sparse", reason=why, actions=(Prune(depth),))
        regrow = Regrow(
            self.reopen, source="collapsed", regrow_init="noise", noise_energy_budget=self.noise_energy_budget
        )
        return Decision(phase="sparse", reason=why, actions=(Prune(depth), regrow))

    def _pumping(self, signal: str, why: str, reading: Reading) -> Decision:
        """Strengthen the input noise while entropy stays low; stop it once entropy is back."""
        state = self._state
        if signal == "low":
            sigma = min(state.pump + self.noise_step, self.noise_std[1])
            stronger = sigma > state.pump
            state.pump = sigma
            reason = f"{why}: input noise σ = {sigma:g}{'' if stronger else ', its greatest'}"
            return Decision(phase="pump", reason=reason, actions=(SetNoise(sigma),) if stronger else ())
        state.acted_at, state.signal, state.pump = state.readings, "low", 0.0
        phase, reason = (
            "sparse" if reading.sparsity > 0.0 else "dense",
            f"entropy is no longer low, input noise stops ({why})",
        )
        return Decision(phase=phase, reason=reason, actions=(SetNoise(0.0),))
