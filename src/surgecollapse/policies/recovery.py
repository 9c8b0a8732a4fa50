"""Whether training recovers from being pruned, by its loss or by the confidence of its predictions."""

from __future__ import annotations

from typing import Any, Literal

from surgecollapse.events import Action, Aim, Decision, Freeze, Prune, Reading, Warn
from surgecollapse.policies import validation

NotRecovering = Literal["exact", "at_most"]
"""Whether the target is reached in any case, or given up where training does not recover."""

_BEGUN, _LEARNED, _ENOUGH = 0.05, 0.9, 0.8


class Recovery:
    """Follows how much training has learned: first loss − loss where the loss is noted, else prediction confidence.

    A moving average h of it is kept, with its greatest value. Training *has begun to learn* once h exceeds 5% of the
    scale: of the first loss, or of full confidence. It *has learned* once h exceeds 90% of it. It *does not recover*
    where h is under 80% of its greatest value for ``patience`` readings in a row. A reading with neither number says
    nothing.

    Args:
        patience: readings, at least 1.
        decay: of the moving average, in [0, 1).

    >>> recovery = Recovery(patience=2, decay=0.0)
    >>> for step, loss in enumerate((2.0, 0.2, 1.9, 1.9), start=1):
    ...     recovery.read(Reading(step=step, loss=loss))
    >>> recovery.begun, recovery.learned, recovery.failed
    (True, False, 'average loss 1.9 for 2 readings, against 0.2 at best and 2 at first')
    """

    def __init__(self, *, patience: int = 4, decay: float = 0.5) -> None:
        validation.whole("patience", patience)
        self._patience, self._decay = patience, decay
        self._first: float | None = None
        self._now, self._best, self._bad = 0.0, 0.0, 0

    def read(self, reading: Reading) -> None:
        """Learn from a reading."""
        loss, confidence = validation.known(reading.loss), validation.known(reading.prediction_confidence)
        if self._first is None and loss is not None:
            self._first, self._now, self._best = loss, 0.0, 0.0
        value = confidence if self._first is None else None if loss is None else self._first - loss
        if value is None:
            return
        self._now = self._decay * self._now + (1.0 - self._decay) * value
        self._best = max(self._best, self._now)
        self._bad = self._bad + 1 if self.begun and self._now < _ENOUGH * self._best else 0

    @property
    def known(self) -> bool:
        """Whether any reading had a number."""
        return self._first is not None or self._best > 0.0

    @property
    def begun(self) -> bool:
        """Whether training has begun to learn."""
        return self._best > _BEGUN * self._scale

    @property
    def learned(self) -> bool:
        """Whether training has learned most of what there is to learn."""
        return self._best > _LEARNED * self._scale

    @property
    def _scale(self) -> float:
        return 1.0 if self._first is None else abs(self._first)

    @property
    def failed(self) -> str | None:
        """Why training counts as not recovering; ``None`` where it does not."""
        if self._bad < self._patience:
            return None
        if self._first is None:
            what = "prediction confidence"
            return f"average {what} {self._now:.3g} for {self._bad} readings, against {self._best:.3g} at best"
        now, best, first = self._first - self._now, self._first - self._best, self._first
        return f"average loss {now:.3g} for {self._bad} readings, against {best:.3g} at best and {first:.3g} at first"

    def forgive(self) -> None:
        """Count anew: something was done about it."""
        self._bad = 0

    def waits(self, step: int, latest: int) -> str | None:
        """Why pruning had better not begin yet; once training has begun to learn, it waits until ``latest`` at most."""
        if self.learned:
            return None
        if not self.begun:
            return f"dense at step {step}: training has not begun to learn"
        return f"dense at step {step}: training has not learned yet, until step {latest}" if step < latest else None

    def warning(self) -> Warn:
        """What is said where training does not recover and pruning goes on; counts anew."""
        advice = "lower the sparsity, or pass when_not_recovering='at_most'"
        message = f"training does not recover from being pruned ({self.failed}): {advice}"
        self.forgive()
        return Warn(message)

    def lower(self, reading: Reading, target: float) -> tuple[str, tuple[Action, ...], float]:
        """Half as sparse: why, the actions that make it the target and say so, and the sparsity; counts anew."""
        lower = max(0.0, 1.0 - 2.0 * (1.0 - min(reading.sparsity, target)))
        reason = f"training does not recover ({self.failed}): back to sparsity {lower:.4g}"
        self.forgive()
        return reason, (Warn(reason), Aim(lower)), lower

    def final(self, reading: Reading, due: int, target: float, *, at_most: bool, begun: bool) -> Decision:
        """Prune to the exact target for good; where ``at_most`` is asked for, only as far as training went along.

        Args:
            reading: that at which the mask becomes final.
            due: the step at which it was planned.
            target: sparsity.
            at_most: whether the target may be given up.
            begun: whether pruning had begun.
        """
        step = reading.step
        if at_most and not begun:
            reason = f"training has not begun to learn until step {step}: nothing is pruned"
            return Decision(phase="frozen", reason=reason, actions=(Warn(reason), Aim(0.0), Freeze()))
        if at_most and self.failed:
            reason, said, lower = self.lower(reading, target)
            return Decision(phase="frozen", reason=reason, actions=(*said, Prune(lower), Freeze()))
        reason = f"exact target {target:.4g} and final mask at step {step} (planned for {due})"
        final: tuple[Action, ...] = (Prune(target), Freeze())
        if self.known and not self.begun:
            nothing = f"training has learned nothing until the final mask at step {step}, at sparsity {target:.4g}"
            final = (Warn(nothing), *final)
        return Decision(phase="frozen", reason=reason, actions=final)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"first": self._first, "now": self._now, "best": self._best, "bad": self._bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._first, self._now, self._best, self._bad = (state[key] for key in ("first", "now", "best", "bad"))
