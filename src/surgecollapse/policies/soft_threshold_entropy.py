"""SoftThresholdEntropy: a soft threshold that entropy raises faster or slower, and lowers where the net is starved."""

from __future__ import annotations

from dataclasses import dataclass, field

from surgecollapse.events import Plan, Reading
from surgecollapse.policies import validation
from surgecollapse.policies.registry import policy
from surgecollapse.policies.signals import EntropySignals, Measure
from surgecollapse.policies.soft_threshold import SoftState, SoftThreshold


@dataclass(slots=True)
class _State(SoftState):
    pace: float = 0.5
    """Where the sparsity lies between the slow schedule (0) and the fast one (1)."""
    confidence: float = 0.0
    """Greatest prediction confidence so far."""
    signals: EntropySignals = field(default_factory=EntropySignals)


@policy("soft_threshold_entropy")
@dataclass(frozen=True, kw_only=True, eq=False)
class SoftThresholdEntropy(SoftThreshold):
    """A soft threshold whose height follows entropy, between a fast and a slow cubic schedule.

    As :class:`~surgecollapse.policies.soft_threshold.SoftThreshold`, but at every reading the sparsity is::

        s = slow + pace·(fast − slow)

    of two cubic schedules to the target: fast ends at ``earliest_end``, slow at ``end_at``. The pace starts at 0.5.

    - The network is *starved* where the prediction confidence is under ``confidence_floor`` of its greatest value so
      far, or ``measure`` under ``floor``. Then the pace falls by ``relief``. The threshold falls with it (a *surge*),
      unless slow rises faster.
    - It has *room* where activation entropy is high (above the rolling ``high`` quantile) or on a plateau: the pace
      rises by ``gain`` (a deeper *collapse*).
    - Otherwise the pace stays.

    Both schedules meet at the target at ``end_at``, so that the end is exact whatever entropy says.

    Args:
        start_at: as of ``SoftThreshold``.
        end_at: fraction of the run at which the target is reached at the latest.
        freeze_at: as of ``SoftThreshold``.
        p: as of ``SoftThreshold``.
        theta: as of ``SoftThreshold``.
        rescale: as of ``SoftThreshold``.
        allocation: as of ``SoftThreshold``.
        when_not_recovering: as of ``SoftThreshold``.
        threshold_every: as of ``SoftThreshold``.
        earliest_end: fraction of the run at which the target is reached at the earliest, in (start_at, end_at].
        gain: by which the pace rises at one reading, in (0, 1].
        relief: by which it falls, in (0, 1].
        confidence_floor: share of the greatest prediction confidence under which the network is starved, in [0, 1].
        measure: ``on_off`` (lowest on/off unit entropy over layers) or ``entropy`` (mean activation entropy).
        floor: value of ``measure`` under which the network is starved, in [0, 1].
        plateau: |change| of the entropy's moving average per 10 readings below which it is flat.
        high: quantile of the readings above which entropy is high.

    Raises:
        ValueError: if an option is out of range or the fractions do not ascend.

    >>> from surgecollapse.events import Plan, Threshold
    >>> policy = SoftThresholdEntropy()
    >>> policy.start(Plan(sparsity=0.8, total_steps=100, every=1))
    >>> depths = []
    >>> for step in range(25):  # the predictions become uncertain at step 22
    ...     confidence = 0.8 if step < 22 else 0.2
    ...     decision = policy.decide(Reading(step=step, on_off=0.9, prediction_confidence=confidence))
    ...     depths.append(round(decision.find(Threshold).sparsity, 3))
    >>> depths[-5:]
    [0.674, 0.684, 0.606, 0.599, 0.614]
    >>> decision.reason
    'prediction confidence 0.200 is under 0.9 of its greatest, 0.800; pace 0.00: to sparsity 0.6136 at step 25'

    When to use:
        To study entropy as what drives the threshold. The fixed schedule is its control.

    Cost:
        That of ``SoftThreshold``, and one pass of the probe batch at each reading.

    Deviations:
        This project's own form.

    Source:
        After ST-3, arXiv 2212.01076; the entropy signals are those of ``entropy_cycles``.
    """

    end_at: float = 0.65
    earliest_end: float = 0.25
    gain: float = 0.1
    relief: float = 0.4
    confidence_floor: float = 0.9
    measure: Measure = "on_off"
    floor: float = 0.3
    plateau: float = 1e-3
    high: float = 0.8
    _state: _State = field(default_factory=_State, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options; the signals check theirs."""
        super().__post_init__()
        validation.fraction("earliest_end", self.earliest_end, zero=False)
        validation.fraction("gain", self.gain, zero=False)
        validation.fraction("relief", self.relief, zero=False)
        validation.fraction("confidence_floor", self.confidence_floor)
        if not self.start_at < self.earliest_end <= self.end_at:
            raise ValueError(
                "expected start_at < earliest_end <= end_at, got "
                f"{self.start_at!r}, {self.earliest_end!r}, {self.end_at!r}"
            )
        self._signals()

    def _signals(self) -> EntropySignals:
        return EntropySignals(measure=self.measure, floor=self.floor, plateau=self.plateau, high=self.high)

    @property
    def measures(self) -> tuple[str, ...]:
        """What a reading must hold beside activation entropy."""
        return ("prediction_confidence",)

    def _begin(self, plan: Plan) -> None:
        super()._begin(plan)
        self._state.signals = self._signals()

    def _depth(self, reading: Reading, coming: int, target: float) -> tuple[float, str]:
        state, end = self._state, self._step(self.end_at)
        change, why = self._change(reading)
        state.pace = min(1.0, max(0.0, round(state.pace + change, 9)))
        if coming >= end:
            return self._cubic(coming, end, target), f"soft threshold, pace {state.pace:.2f}"
        slow = self._cubic(coming, end, target)
        fast = self._cubic(coming, self._step(self.earliest_end), target)
        return slow + state.pace * (fast - slow), f"{why}; pace {state.pace:.2f}"

    def _change(self, reading: Reading) -> tuple[float, str]:
        """How the pace changes at a reading, and why."""
        state, signals = self._state, self._state.signals.read(reading, sparse=False)
        confidence = validation.known(reading.prediction_confidence)
        if confidence is not None:
            state.confidence = max(state.confidence, confidence)
            if confidence < self.confidence_floor * state.confidence:
                return -self.relief, (
                    f"prediction confidence {confidence:.3f} is under {self.confidence_floor:g} of its greatest, "
                    f"{state.confidence:.3f}"
                )
        if signals.low is not None:
            return -self.relief, signals.low
        room = signals.high or signals.plateau
        if room is not None:
            return self.gain, room
        return 0.0, "soft threshold"
