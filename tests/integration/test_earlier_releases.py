"""Run folders that earlier releases wrote are still opened: listed, read as tables, reported on and resumed.

``tests/data/run-0.1.0`` was written by version 0.1.0 (``surgecollapse run``: parity of two bits, RigL, stopped after
step 25 of 40); only the arrays between its first and its last step were taken out, to keep it small.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from surgecollapse.dashboard.runs import Runs
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.record import RunStore, Tail, load_run

DATA = Path(__file__).parents[1] / "data"
RELEASES = sorted(path.name for path in DATA.glob("run-*"))


@pytest.fixture(params=RELEASES)
def folder(request, tmp_path):
    shutil.copytree(DATA / request.param, tmp_path / "runs" / "old")
    return tmp_path / "runs" / "old"


def test_there_is_a_folder_of_every_release_and_each_is_small():
    assert "run-0.1.0" in RELEASES
    for name in RELEASES:
        assert sum(path.stat().st_size for path in (DATA / name).rglob("*") if path.is_file()) < 60_000


def test_it_is_listed_with_its_state(folder):
    runs = Runs(folder.parent)
    (row,) = runs.rows()
    assert (row["name"], row["status"]) == ("old", "interrupted")
    assert len(runs.sparklines([row["id"]])[row["id"]]) > 10


def test_its_record_is_read_whole(folder):
    with load_run(folder) as run:
        assert run.series("loss/train").steps.tolist() == list(range(1, 26))
        assert run.meta["status"] == "interrupted"
        assert [event.step for event in run.store.readings()] == [10, 20]
        assert len(run.store.interventions()) == 1
        assert len(run.store.decisions()) == 1
        assert [step for step, _ in run.arrays("sketch/weights")] == [0, 25]
        assert run.store.skipped == 0
    tail = Tail(folder / "run.db")
    assert len(tail.read().measurements) == 45
    assert tail.skipped == 0


def test_its_record_is_written_on(folder):
    with RunStore(folder / "run.db", mode="a") as store:
        store.measure(26, "loss/train", 0.5)
        store.truncate_after(20)
        assert store.measurements("loss/train").steps.tolist() == list(range(1, 21))


def test_its_checkpoint_is_read(folder):
    state = load_checkpoint(folder / "checkpoints" / "step-25.pt")
    assert state["step"] == 25
    assert state["model"]["body.1.weight"].shape == (4, 6)


def test_its_model_is_rebuilt_and_a_report_is_written(folder):
    pytest.importorskip("matplotlib")
    from surgecollapse.lab.training.evaluation import load_checkpointed_run
    from surgecollapse.report import write_report

    run = load_checkpointed_run(folder)
    run.store.close()
    assert (run.step, run.status) == (25, "interrupted")
    assert write_report([folder], folder.parent / "report").exists()


def test_it_is_resumed_to_its_end(folder):
    from surgecollapse.lab.training.run import train

    result = train(None, folder, resume=True)
    assert (result.status, result.step) == ("complete", 40)
    assert result.summary["sparsity"] == pytest.approx(0.5, abs=0.05)
    with RunStore(folder / "run.db") as store:
        assert store.measurements("loss/train").steps.tolist() == list(range(1, 41))
