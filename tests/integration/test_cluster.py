"""A comparison on a real Dask cluster of several processes, which are killed; skipped where Dask is not installed."""

from __future__ import annotations

import json
import time

import pytest

pytest.importorskip("distributed")

from comparisons import prepare
from servers import Cluster
from surgecollapse.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.stop()


class Killing:
    """A display that does something once, when so many runs are done."""

    def __init__(self, what) -> None:
        self._left = what

    def update(self, done, total, remaining, running):
        for count in [count for count in self._left if done >= count]:
            self._left.pop(count)()

    def note(self, line):
        pass

    def stop(self):
        pass


@pytest.mark.slow
@pytest.mark.timeout(900)  # starting seven processes that import torch takes long beside others
def test_workers_and_scheduler_are_killed_and_every_run_has_one_row(cluster, tmp_path):
    options = {"methods": "gmp,static", "seeds": 2, "budget": "none"}
    comparison = prepare("smoke", tmp_path / "out", cluster=cluster.address, **options)
    outcome = comparison.run(Killing({1: cluster.kill_worker, 2: cluster.restart_all}))
    assert outcome.status == "complete"
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "method" in row]
    pairs = sorted((row["method"], row["seed"]) for row in rows)
    assert pairs == [(name, seed) for name in ("gmp", "static") for seed in range(2)]
    # The same run in a process here gives the same row: where it is trained does not matter.
    from surgecollapse.compare.worker import train_cell

    cell = next(cell for cell in comparison.plan.final({}) if (cell.method, cell.seed) == ("gmp", 0))
    here = train_cell(cell.message, tmp_path)
    there = next(row for row in rows if (row["method"], row["seed"]) == ("gmp", 0))
    assert all(there[name] == value for name, value in here.items() if name != "seconds")


def test_no_scheduler_is_one_line_with_the_commands(monkeypatch):
    from surgecollapse.compare import cluster

    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"start one \(dask scheduler\)") as caught:
        cluster.ClusterPool("tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60


def test_jobs_and_cluster_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="give one"):
        prepare("smoke", tmp_path, methods="gmp", budget="none", jobs=2, cluster="tcp://x:1")
