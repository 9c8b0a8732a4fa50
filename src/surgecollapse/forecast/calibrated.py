"""The detectors that the library ships, calibrated on the bank of small runs."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from surgecollapse.forecast.combination import Combination, from_plain
from surgecollapse.forecast.features import TRACKS

PURPOSES = ("grokking", "give up")


def calibrated(track: str, purpose: str = "grokking") -> Combination:
    """A detector with the weights and thresholds that ``benchmarks/early_warning.py --write`` wrote.

    They come from perceptrons with one hidden layer on small tasks; what they are worth elsewhere nobody has measured.

    Args:
        track: what it may look at: ``train``, ``unlabeled`` (validation inputs, too) or ``labeled`` (their labels).
        purpose: ``grokking``: alarms when the net is about to generalize; ``give up``: when it will not.

    Returns:
        A new detector.

    Raises:
        ValueError: for an unknown track or purpose.

    >>> calibrated("train").name, calibrated("labeled", "give up").below
    ('early warning, train', True)
    """
    if track not in TRACKS or purpose not in PURPOSES:
        raise ValueError(
            f"no detector for track {track!r} and purpose {purpose!r}: "
            f"expected one of {', '.join(TRACKS)}, and one of {', '.join(PURPOSES)}"
        )
    text = files("surgecollapse.forecast").joinpath("calibrated.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return from_plain(found[track][purpose])
