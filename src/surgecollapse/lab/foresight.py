"""The detectors of a run: they hear its measurements, and their alarms are events of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.forecast.calibrated import PURPOSES, calibrated
from surgecollapse.functional import predictive_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from surgecollapse.events import Alarm, Measurement


class Foresight:
    """One detector that says that the net is about to generalise, one that says that it will not.

    Args:
        track: what they may look at, see :func:`surgecollapse.forecast.calibrated.calibrated`.
        tell: takes every alarm.
    """

    def __init__(self, track: str, tell: Callable[[Alarm], None]) -> None:
        self._tell = tell
        self._detectors = {purpose: calibrated(track, purpose) for purpose in PURPOSES}
        self.hopeless = False
        """Whether the second one has spoken before the first."""
        self._hopeful = False

    def take(self, measurement: Measurement) -> None:
        """Hear one measurement, in the order of the steps."""
        for purpose, detector in self._detectors.items():
            alarm = detector.update(measurement)
            if alarm is None:
                continue
            self._tell(alarm)
            if purpose == "grokking":
                self._hopeful = True
            self.hopeless = self.hopeless or (purpose == "give up" and not self._hopeful)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        states = {purpose: detector.state_dict() for purpose, detector in self._detectors.items()}
        return {"detectors": states, "hopeless": self.hopeless, "hopeful": self._hopeful}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        for purpose, detector in self._detectors.items():
            detector.load_state_dict(state["detectors"][purpose])
        self.hopeless, self._hopeful = state["hopeless"], state["hopeful"]


def certainty(logits: Tensor, part: str) -> dict[str, float]:
    """How certain the net is of rows whose labels nobody needs to know, as measurements by name.

    Args:
        logits: (n, K).
        part: ``train`` or ``validation``.

    Returns:
        Mean largest probability (``confidence/…``) and its distance from the second (``margin/…``); of the validation
        rows also the entropy over ln K, and the root mean square of the logits about their mean.

    >>> import torch
    >>> certainty(torch.zeros(3, 4), "train")
    {'confidence/train': 0.25, 'margin/train': 0.0}
    """
    wide = logits.double()
    top = wide.softmax(-1).topk(2, dim=-1).values
    found = {f"confidence/{part}": top[:, 0].mean(), f"margin/{part}": (top[:, 0] - top[:, 1]).mean()}
    if part != "train":
        found[f"entropy/predictive_{part}"] = predictive_entropy(wide)
        found[f"logits/scale_{part}"] = (wide - wide.mean(-1, keepdim=True)).square().mean().sqrt()
    return {name: value.item() for name, value in found.items()}
