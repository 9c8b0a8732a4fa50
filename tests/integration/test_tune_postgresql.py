"""Studies in a PostgreSQL server of their own, which is killed; skipped where none is installed."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from here_pool import HerePool
from servers import Server
from surgecollapse.compare.pool import Done
from surgecollapse.errors import ConfigError
from surgecollapse.tuning.objectives import choose_objectives
from surgecollapse.tuning.search import Budget, Search
from surgecollapse.tuning.settings import RunSpace
from surgecollapse.tuning.storage import LOCK_SECONDS, LOST, REASON, RETRY, open_storage

pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.skipif(not Server.installed(), reason="PostgreSQL is not installed"),
    # Connections to a server that was killed are not closed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def server():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="surgecollapse-postgresql-") as folder:  # its user cannot enter tmp_path
        made = Server(Path(folder))
        yield made
        made.stop()
        gc.collect()  # so that they are all dropped here
    optuna.logging.set_verbosity(optuna.logging.INFO)


def pool_of(before):
    """A pool without processes whose runs are made up; ``before`` is called with their number before each."""

    class OneByOne(HerePool):
        def feed(self, take, stop, look, hear=None):
            while not stop() and (job := take()) is not None:
                look()
                before()
                value = job.config.optimizer.lr  # so that the untuned settings are not the best
                row = {"accuracy": value, "test_accuracy": value, "sparsity": 0.0, "seconds": 0.0, "flops": 1.0}
                yield Done(job, {**row, "steps": 1, "diverged": False}, None)

    return OneByOne


def search(server, out, before=lambda: None, trials=6):
    space = RunSpace([{"task": "digits", "steps": 10}], {"lr": "1e-3..1e-1:log"})
    how = {"sampler": "random", "fresh": 2, "storage": server.address, "make_pool": pool_of(before)}
    return Search(space, choose_objectives("accuracy"), out, budget=Budget(trials=trials), **how)


def test_search_survives_a_kill_of_its_database(server, tmp_path):
    begun = []

    def before():
        begun.append(1)
        if len(begun) == 3:
            server.kill()

    with pytest.raises(ConfigError, match=r"the storage cannot be reached.*finished trials are kept") as caught:
        search(server, tmp_path / "a", before).run()
    assert "\n" not in str(caught.value)
    server.start()
    again = []
    outcome = search(server, tmp_path / "a", lambda: again.append(1)).run()
    assert outcome.status == "complete"
    kept = [trial for trial in outcome.study.trials if trial.user_attrs.get(REASON) != LOST]
    assert [trial.state for trial in kept] == [TrialState.COMPLETE] * 6
    assert len({trial.params["lr"] for trial in kept}) == 6
    # The run that had ended when the database was gone is in the rows: 6 trials and 2·2 runs at the end, each once.
    assert len(begun) + len(again) == 6 + 4


PROGRAM = """
import sys, time
import optuna
from surgecollapse import tune
optuna.logging.set_verbosity(optuna.logging.ERROR)

def objective(trial):
    time.sleep(0.1)
    return trial.params["x"]

tune(objective, {"x": "0.0..1.0"}, trials=10_000, storage=sys.argv[1], sampler="random", seed=int(sys.argv[2]))
"""


def test_two_processes_share_a_study_and_one_is_killed(server):
    storage = open_storage(server.address)
    pair = [subprocess.Popen([sys.executable, "-c", PROGRAM, server.address, str(seed)]) for seed in (1, 1_000)]
    try:

        def ended():
            names = [study.study_name for study in optuna.get_all_study_summaries(storage)]
            trials = optuna.load_study(study_name="tuning", storage=storage).trials if names else []
            return [trial for trial in trials if trial.state is TrialState.COMPLETE]

        while len({trial.user_attrs["process"]["pid"] for trial in ended()}) < 2:
            assert all(process.poll() is None for process in pair)
            time.sleep(0.1)
        before = {trial.number for trial in ended()}
        pair[0].kill()
        pair[0].wait()
        while len(ended()) < len(before) + 5:  # the other one goes on
            assert pair[1].poll() is None
            time.sleep(0.1)
    finally:
        for process in pair:
            process.kill()
            process.wait()
    from surgecollapse import tune

    time.sleep(LOCK_SECONDS)  # what a process has to sign a trial that it has just begun
    count = len(ended())
    study = tune(lambda trial: trial.params["x"], {"x": "0.0..1.0"}, trials=count + 3, storage=server.address)
    trials = study.trials
    assert before <= {trial.number for trial in trials if trial.state is TrialState.COMPLETE}
    lost = [trial.number for trial in trials if trial.user_attrs.get(REASON) == LOST]
    assert sorted(trial.user_attrs[RETRY] for trial in trials if RETRY in trial.user_attrs) == lost
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) == len(trials) - len(lost)
    assert len(lost) <= 2


def test_database_that_is_not_there_is_one_line(server):
    server.stop()
    with pytest.raises(
        ValueError, match=r"cannot open the storage 127\.0\.0\.1.*start it, or correct the address"
    ) as caught:
        open_storage(server.address.replace("tuner@", "tuner:secret@"))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    server.start()
