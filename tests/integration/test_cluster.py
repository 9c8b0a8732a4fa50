"""A comparison on a real Dask cluster of several processes, which are killed; skipped where Dask is not installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("distributed")

from comparisons import prepare
from surgecollapse.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


class Cluster:
    """A scheduler on a free port of the loopback, and workers."""

    def __init__(self, folder) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self.scheduler, self.workers = self._scheduler(), [self._worker(), self._worker()]

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__DIAGNOSTICS__NVML": "False"}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, env=environment)

    def _scheduler(self) -> subprocess.Popen[bytes]:
        here = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        return self._start("distributed.cli.dask_scheduler", *here)

    def _worker(self) -> subprocess.Popen[bytes]:
        how = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder))
        return self._start("distributed.cli.dask_worker", self.address, *how)

    def kill_worker(self) -> None:
        self.workers[0].kill()
        self.workers[0].wait()

    def restart_all(self) -> None:
        self.stop()
        self.scheduler, self.workers = self._scheduler(), [self._worker(), self._worker()]

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


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
