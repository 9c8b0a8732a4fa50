"""``torchrun -m surgecollapse run`` trains one run in two processes: one record, resumable bitwise."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.checkpoint import CheckpointError, checkpoint_path, load_checkpoint
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS, HALF = 120, 60
OPTIONS = {
    "task": "digits", "sparsity": 0.8, "steps": STEPS, "every": 6, "evaluate_every": 30, "checkpoint_every": HALF,
    "dropout": 0.0, "precision": "float64", "batch_size": 50, "monitors": "none",
}  # fmt: skip


def together(*arguments, check=True):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "surgecollapse", "run"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=250)
    assert not check or done.returncode == 0, done.stderr
    return done


def flags(**changed):
    values = {**OPTIONS, **changed}
    task = values.pop("task")
    return [task, *(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run in two processes, with dropout and without, and in one."""
    folder = tmp_path_factory.mktemp("lab")
    together(*flags(), "--out", folder / "two")
    together(*flags(dropout=0.2), "--out", folder / "dropout")
    train(make_config(**OPTIONS), folder / "one")
    return folder


def final(folder):
    return load_checkpoint(checkpoint_path(folder / "checkpoints", STEPS))


def decisions(folder):
    with RunStore(folder / "run.db") as store:
        return [(event.step, event.kind, [layer.live for layer in event.layers]) for event in store.interventions()]


@pytest.mark.conformance("ranks equal", place="the lab under torchrun, 2 processes")
@pytest.mark.conformance("target reached", place="the lab under torchrun, 2 processes")
def test_two_processes_make_the_run_of_one(runs):
    two, one = final(runs / "two"), final(runs / "one")
    assert decisions(runs / "two") == decisions(runs / "one")
    saved = [state["optimizer"]["surgecollapse.controller"][0]["engine"]["weights"]["masks"] for state in (two, one)]
    assert all(torch.equal(mask, saved[1][name]) for name, mask in saved[0].items())
    for name, weight in one["model"].items():
        # Half of the digits: rounding differs from the first sum on, and training carries it along.
        assert torch.allclose(two["model"][name], weight, rtol=0.0, atol=torch.finfo(weight.dtype).eps ** 0.5)


@pytest.mark.conformance("heads right", place="the lab under torchrun, 2 processes")
def test_the_layer_of_the_output_is_left_alone(runs):
    masks = final(runs / "two")["optimizer"]["surgecollapse.controller"][0]["engine"]["weights"]["masks"]
    matrices = [name for name, weight in final(runs / "two")["model"].items() if weight.ndim == 2]
    assert list(masks) == matrices[:-1]


@pytest.mark.conformance("entropy read", place="the lab under torchrun, 2 processes")
def test_every_reading_has_an_entropy(runs):
    with RunStore(runs / "two" / "run.db") as store:
        readings = store.readings()
    assert len(readings) >= STEPS // OPTIONS["every"]  # the policy may read on further steps
    assert all(reading.entropy is not None and 0.0 <= reading.entropy <= 1.0 for reading in readings)


def test_there_is_one_record_and_it_says_of_how_many_processes(runs):
    assert sorted(path.name for path in runs.iterdir()) == ["dropout", "one", "two"]
    with RunStore(runs / "two" / "run.db") as two, RunStore(runs / "one" / "run.db") as one:
        assert two.get("status") == one.get("status") == "complete"
        assert two.get("processes") == 2
        assert one.get("processes") is None
        assert [r.step for r in two.readings()] == [r.step for r in one.readings()]
        assert two.get("summary")["sparsity"] == one.get("summary")["sparsity"]
        first, second = (store.get("summary")["accuracy"] for store in (two, one))
    assert first == pytest.approx(second, abs=0.01)


@pytest.mark.conformance("resume bitwise", place="the lab under torchrun, 2 processes")
def test_a_resumed_run_with_dropout_is_bitwise_the_uninterrupted_one(runs, tmp_path):
    half, uninterrupted = tmp_path / "half", runs / "dropout"
    shutil.copytree(uninterrupted, half)
    checkpoint_path(half / "checkpoints", STEPS).unlink()
    with RunStore(half / "run.db", mode="a") as store:
        store.set("status", "running")
    together("--resume", half)
    whole, again = final(uninterrupted), final(half)
    assert all(torch.equal(weight, again["model"][key]) for key, weight in whole["model"].items())
    assert decisions(half) == decisions(uninterrupted)


PROJECT = """
import torch
from torch import nn


def data():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return (x[:120], y[:120]), (x[120:], y[120:])


def net():
    layer = lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1))
    return nn.Sequential(layer(), layer(), nn.Linear(8, 2))
"""


@pytest.mark.conformance("resume bitwise", place="one's own model under torchrun in bfloat16 with checkpointing")
def test_ones_own_model_in_mixed_precision_with_gradient_checkpointing_resumes_bitwise(tmp_path):
    (tmp_path / "mine.py").write_text(PROJECT)
    options = ["--steps", 40, "--every", 4, "--batch-size", 30, "--sparsity", 0.5, "--checkpoint-every", 20]
    options += ["--min-density", 0, "--monitors", "none", "--mixed-precision", "bfloat16"]
    mine = str(tmp_path / "mine.py")
    together(mine, *options, "--out", tmp_path / "plain")
    together(mine, *options, "--gradient-checkpointing", "--out", tmp_path / "whole")
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "whole", half)
    checkpoint_path(half / "checkpoints", 40).unlink()
    with RunStore(half / "run.db", mode="a") as store:
        store.set("status", "running")
    together("--resume", half)
    plain, whole, again = (
        load_checkpoint(checkpoint_path(tmp_path / name / "checkpoints", 40))["model"]
        for name in ("plain", "whole", "half")
    )
    for name, weight in whole.items():
        assert torch.equal(weight, again[name]), name
        assert torch.equal(weight, plain[name]), name


def test_another_number_of_processes_is_refused_with_the_command(runs, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(runs / "two", half)
    checkpoint_path(half / "checkpoints", STEPS).unlink()
    with RunStore(half / "run.db", mode="a") as store:
        store.set("status", "running")
    with pytest.raises(CheckpointError, match=r"trained by 2 process\(es\), not 1.*torchrun --nproc-per-node 2"):
        train(None, half, resume=True)


def test_a_run_that_cannot_begin_ends_on_every_rank(runs):
    done = together(*flags(), "--out", runs / "two", check=False)
    assert done.returncode != 0
    assert "already holds a run" in done.stderr
