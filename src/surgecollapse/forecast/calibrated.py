"""The detectors that the library ships, with thresholds from the bank of small runs."""

from __future__ import annotations

import json
from importlib.resources import files
from math import log
from typing import Any

from surgecollapse.errors import unknown
from surgecollapse.forecast.combination import Combination, from_plain

LOSS = "loss/validation"
SHIPPED = ("slope", "give up")


def calibrated(name: str, classes: int | None = None) -> Combination:
    """A detector with its threshold, which ``benchmarks/early_warning.py --write`` sets from a bank of runs.

    * ``slope``: the net is about to generalize, since d ln(validation loss)/d ln(step) over the last third of the steps
      is steep. No detector with learned weights was ahead of it both on tasks and on kinds of nets that it had not
      seen. So none is shipped for this purpose. The threshold lies between the steepest slope of six runs that did not
      grok and the gentlest of six that did. They are of the slice of the bank in ``tests/data/bank``.
    * ``give up``: the net will not generalize; learned weights over training and validation series,
      calibrated on the whole bank.

    All come from perceptrons with one hidden layer on small tasks. There ``slope``, with ``classes``, raised false
    alarms for 1% of the runs, and found 59% of those that grok. On small transformers it was 19 and 68%, with three
    hidden layers 11 and 94%. Other nets have not been measured.

    Args:
        name: which.
        classes: of a task under cross-entropy. ``slope`` then says nothing while the validation loss is above ln of
            their number, that of guessing: the loss of a net that only remembers may fall steeply from far above it.

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
    if name == "slope" and classes is not None and classes > 1:
        found[name]["at_most"] = [LOSS, "value", log(log(classes))]
    return from_plain(found[name])
