"""A run that is killed at random moments loses nothing that counts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_kills_at_random_moments_leave_the_record_whole_and_the_weights_bitwise_the_same():
    path = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    assert spec is not None
    assert spec.loader is not None
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    found = kills.run(3, 300)
    assert found["kills"] == 3
    assert found["runs"] >= 1
