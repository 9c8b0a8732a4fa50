"""Grokking tracks under a policy: settings of each track, and sums of digits with a mask."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sparse(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import grokking_sparse

    yield grokking_sparse
    parts = ("page", "rows", "runs")
    for name in ("grokking_sparse", "grokking_records", "digits", "grokking_tracks"):
        sys.modules.pop(name, None)
    for part in parts:
        sys.modules.pop(f"grokking_tracks.{part}", None)


def test_every_track_but_the_digits_has_settings_that_the_lab_accepts(sparse):
    from surgecollapse.lab.config import make_config

    for track, methods in sparse.TRACKS.items():
        if track in sparse.DIGITS:
            continue
        for method in methods:
            config = make_config(**sparse.sparse_settings(track, method, 0.8), seed=0)
            assert config.method.sparsity == 0.8
            assert config.method.every == config.run.steps // 40


def test_sums_of_digits_are_trained_until_the_mask_is_final(sparse, monkeypatch):
    digits = sys.modules["digits"]
    monkeypatch.setitem(digits.SIZES, "small", {"layers": 1, "width": 16, "hidden": 32, "heads": 2, "batch": 16})
    monkeypatch.setattr(digits, "TRAIN", 200)
    monkeypatch.setattr(digits, "VALIDATION", 100)
    monkeypatch.setitem(sparse.DIGITS, "digits-small", 200)
    row = sparse._on_digits("digits-small", "one-setting", 3, 0.8)
    assert row["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert row["steps"] == 200
    assert row["config"]["policy"] == "cyclic_pruning"
    assert (row["config"]["sparsity"], row["config"]["seed"]) == (0.8, 3)
