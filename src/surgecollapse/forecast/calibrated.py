"""The detectors that the library ships, calibrated on the bank of small runs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from surgecollapse.errors import unknown
from surgecollapse.forecast.combination import Combination, from_plain

SHIPPED = ("slope", "give up")


def calibrated(name: str) -> Combination:
    """A detector with the threshold that ``benchmarks/early_warning.py --write`` wrote.

    * ``slope``: the net is about to generalize, since d ln(validation loss)/d ln(step) over the last third of the steps
      is steep. No detector with learned weights raises more alarms for runs that grok at as few false ones, on tasks
      that it has not seen, so that none is shipped for this purpose.
    * ``give up``: the net will not generalize; learned weights over training and validation series.

    Both come from perceptrons with one hidden layer on small tasks; what they are worth elsewhere nobody has measured.

    Args:
        name: which.

    Returns:
        A new detector.

    Raises:
        ValueError: for an unknown name.

    >>> calibrated("slope").score.features[0].name, calibrated("give up").below
    ('slope of loss/validation', True)
    """
    if name not in SHIPPED:
        raise ValueError(unknown("detector", name, SHIPPED))
    text = files("surgecollapse.forecast").joinpath("calibrated.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return from_plain(found[name])
