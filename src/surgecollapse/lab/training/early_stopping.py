"""When the evaluations of a run say that it is enough, and which of them was the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.forecast.times import GENERALIZE, IN_A_ROW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgecollapse.lab.config import RunConfig


class Stopping:
    """Counts evaluations: those without improvement, and those on end at which the run has what it is for.

    Args:
        config: the run.

    Attributes:
        accuracy: of the last evaluation; ``None`` before the first.
        best: accuracy and negative loss of the best evaluation that counted; ``None`` before the first.
        best_step: when that was.
        early: whether the patience is at its end.

    >>> from surgecollapse.lab.config import make_config
    >>> stopping = Stopping(make_config(task="digits", early_stopping=2))
    >>> [stopping.improved(step, accuracy, 1.0, counts=True) for step, accuracy in enumerate((0.5, 0.6, 0.6, 0.4))]
    [True, True, False, False]
    >>> stopping.early, stopping.best_step
    (True, 1)
    """

    def __init__(self, config: RunConfig) -> None:
        self._patience = config.run.early_stopping
        self._goal = GENERALIZE if config.run.until == "grokked" else config.run.stop_at_accuracy
        self.accuracy: float | None = None
        self.best: list[float] | None = None
        self.best_step = 0
        self.early = False
        self._worse = self._at_goal = 0

    @property
    def reached_goal(self) -> bool:
        """Whether enough evaluations on end had the accuracy at which the run is to stop."""
        return self._at_goal >= IN_A_ROW

    def improved(self, step: int, accuracy: float, loss: float, *, counts: bool) -> bool:
        """Take an evaluation; returns whether it is the best so far of those that count.

        Args:
            step: after which it was made.
            accuracy: in [0, 1].
            loss: decides between equal accuracies.
            counts: whether the mask is final, or nothing is pruned.
        """
        self.accuracy = accuracy
        self._at_goal = self._at_goal + 1 if self._goal is not None and accuracy >= self._goal else 0
        if not counts:
            return False
        score = [accuracy, -loss]
        if self.best is None or score > self.best:
            self.best, self.best_step, self._worse = score, step, 0
            return True
        self._worse += 1
        self.early = bool(self._patience) and self._worse >= self._patience
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "worse": self._worse,
            "accuracy": self.accuracy,
            "at_goal": self._at_goal,
            "stopped_early": self.early,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.best_step, self._worse = state["best"], state["best_step"], state["worse"]
        self.accuracy, self.early = state["accuracy"], state["stopped_early"]
        self._at_goal = state.get("at_goal", 0)  # not in checkpoints of version 0.1.0
