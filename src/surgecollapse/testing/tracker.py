"""What every tracker must take."""

from __future__ import annotations

import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[str, Mapping[str, Any], Path], Any]
"""Makes a tracker of a run's name, its configuration, and a folder for its files."""
_CONFIG = {"task": "digits", "lr": 1e-3, "widths": [8, 8], "clip": None, "standardize": True}


def check_tracker(make: Make) -> None:
    """Check a tracker: it takes everything that a run records, and says at the end how to look at it.

    Args:
        make: makes one of a name, a configuration and a folder; the class itself will do.

    Raises:
        AssertionError: for the first claim that does not hold.
    """
    for check in TRACKER_CHECKS:
        check(make)


def takes_a_whole_run(make: Make) -> None:
    """Numbers (some not finite), texts, histograms, pictures, a roll-back and the end."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = make("a run", _CONFIG, Path(folder) / "out")
        for step in (1, 2, 50):
            tracker.scalars(step, {"loss/train": 1.0 / step, "weight_norm/0.weight": 2.0})
        tracker.scalars(60, {"loss/train": math.nan, "entropy/0": math.inf})
        tracker.scalars(61, {})
        tracker.text(50, "intervention/collapse", "the schedule says so (sparsity 0.0000 → 0.9000)")
        tracker.histogram(50, "weights/0.weight", np.linspace(-1, 1, 5), np.array([1, 0, 3, 2]))
        picture = Path(folder) / "confusion.png"
        picture.write_bytes(_png())
        tracker.picture(50, "confusion", picture)
        picture.unlink()
        tracker.back(2)
        tracker.scalars(3, {"loss/train": 0.25})
        said = tracker.finish({"test_accuracy": 0.5, "task": "digits", "modified_by_user": False})
        assert said, f"finish() returns {said!r}: expected how to look at the run"
        assert isinstance(said, str), f"finish() returns {said!r}: expected how to look at the run"


def takes_a_run_that_did_not_end(make: Make) -> None:
    """A run without final numbers is finished too."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = make("a run", {}, Path(folder) / "out")
        tracker.scalars(1, {"loss/train": 1.0})
        said = tracker.finish({})
        assert said, f"finish() returns {said!r}: expected how to look at the run"
        assert isinstance(said, str), f"finish() returns {said!r}: expected how to look at the run"


TRACKER_CHECKS: tuple[Callable[[Make], None], ...] = (takes_a_whole_run, takes_a_run_that_did_not_end)
"""The claims, each a function of what makes the tracker."""


def _png() -> bytes:
    """A picture of 2 × 2 gray pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\x00\x00\xff\x00\xff\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
