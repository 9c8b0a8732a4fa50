"""What is killed at random moments loses nothing that counts: runs, searches with their database, comparisons."""

from __future__ import annotations

import gc
import importlib.util
import sys
from pathlib import Path

import pytest

from servers import Server

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A benchmark as a module, by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_kills_at_random_moments_leave_the_record_whole_and_the_weights_bitwise_the_same(script):
    found = script("kills").run(3, 300)
    assert found["kills"] == 3
    assert found["runs"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Server.installed(), reason="PostgreSQL is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers of a process as Linux shows them")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections to a killed server
def test_search_whose_tuner_worker_and_database_are_killed_loses_nothing_and_repeats_nothing(script):
    pytest.importorskip("psycopg")
    found = script("kill_studies").kill_searches(2, 12.0, seed=1, trials=5)
    gc.collect()  # so that connections to the killed server are dropped here
    assert sum(found["kills"].values()) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_comparison_whose_driver_workers_and_scheduler_are_killed_has_every_row_once(script):
    pytest.importorskip("distributed")
    found = script("kill_studies").kill_comparisons(2, 12.0, seed=1, seeds=2)
    assert sum(found["kills"].values()) == 2
    assert found["runs"] == 4
