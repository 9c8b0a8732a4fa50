"""The detectors of a run: they hear its measurements, and their alarms are events of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.forecast.calibrated import SHIPPED, calibrated
from surgecollapse.forecast.detectors import Detector
from surgecollapse.functional import predictive_entropy
from surgecollapse.plugins import find, fitting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from surgecollapse.events import Alarm, Measurement


FAILURE = "does not generalize"
"""The forecast of an alarm that says so."""


class GrokkingForecast:
    """Detectors that say that the net is about to generalize, or that it will not.

    Args:
        name: ``slope``, both of :func:`surgecollapse.forecast.calibrated.calibrated`; or one detector that a package
            registered under the entry-point group ``surgecollapse.detectors``.
        tell: takes every alarm.
        classes: of the task, if its loss is a cross-entropy.

    Raises:
        ValueError: for an unknown name.
        TypeError: if what a package registered is no detector.
    """

    def __init__(self, name: str, tell: Callable[[Alarm], None], classes: int | None = None) -> None:
        self._tell = tell
        self._detectors = _detectors(name, classes)
        self.predicts_failure = False
        """Whether an alarm said that the net will not generalize before any said that it will."""
        self._hopeful = False

    def take(self, measurement: Measurement) -> None:
        """Hear one measurement, in the order of the steps."""
        for detector in self._detectors.values():
            alarm = detector.update(measurement)
            if alarm is None:
                continue
            self._tell(alarm)
            if alarm.forecast != FAILURE:
                self._hopeful = True
            self.predicts_failure = self.predicts_failure or not self._hopeful

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        states = {purpose: detector.state_dict() for purpose, detector in self._detectors.items()}
        return {"detectors": states, "predicts_failure": self.predicts_failure, "hopeful": self._hopeful}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        for purpose, detector in self._detectors.items():
            detector.load_state_dict(state["detectors"][purpose])
        self.predicts_failure, self._hopeful = state["predicts_failure"], state["hopeful"]


def _detectors(name: str, classes: int | None) -> dict[str, Detector]:
    if name == "slope":
        return {purpose: calibrated(purpose, classes) for purpose in SHIPPED}
    made = find("detectors", "forecast", name, {}, also=("slope",))()
    return {name: fitting("detectors", name, made, lambda part: isinstance(part, Detector))}


def prediction_confidence(logits: Tensor, part: str) -> dict[str, float]:
    """Prediction confidence on rows whose labels are not used, as measurements by name.

    Args:
        logits: (n, K).
        part: ``train`` or ``validation``.

    Returns:
        Mean largest probability (``confidence/…``) and its distance from the second (``margin/…``). Of the validation
        rows also the entropy over ln K, and the root mean square of the logits about their mean.

    >>> import torch
    >>> prediction_confidence(torch.zeros(3, 4), "train")
    {'confidence/train': 0.25, 'margin/train': 0.0}
    """
    wide = logits.double()
    top = wide.softmax(-1).topk(2, dim=-1).values
    found = {f"confidence/{part}": top[:, 0].mean(), f"margin/{part}": (top[:, 0] - top[:, 1]).mean()}
    if part != "train":
        found[f"entropy/predictive_{part}"] = predictive_entropy(wide)
        found[f"logits/scale_{part}"] = (wide - wide.mean(-1, keepdim=True)).square().mean().sqrt()
    return {name: value.item() for name, value in found.items()}
