"""A project of one's own, from its file to the export: everything that works on the library's tasks works on it."""

from __future__ import annotations

import json

import pytest
import torch

from surgecollapse.cli import INTERRUPTED, MISTAKE, main
from surgecollapse.lab.config import make_config, read_config
from surgecollapse.lab.training.checkpoint import load_checkpoint, step_checkpoints
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

PROJECT = '''
import torch
from torch import nn
from torch.utils.data import Dataset


class Stripes(Dataset):
    """Images of horizontal or vertical stripes, with noise that is drawn anew each time."""

    classes = ("across", "down")

    def __init__(self, count, noise):
        self.count, self.noise = count, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.zeros(1, 8, 8)
        image[:, index % 4 :: 4] = 1.0
        image = image if index % 2 else image.transpose(1, 2)
        return image + self.noise * torch.randn(1, 8, 8), index % 2


def data(noise=0.3):
    return Stripes(200, noise), Stripes(60, 0.1)


def net(width=16):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(256, width), nn.ReLU(), nn.Linear(width, 2),
    )


def loss(output, target):
    return nn.functional.cross_entropy(output, target, label_smoothing=0.1)
'''


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "project.py"
    path.write_text(PROJECT)
    return path


SHORT = ["--steps", "60", "--every", "5", "--evaluate-every", "20", "--checkpoint-every", "20"]


def weights(folder):
    return load_checkpoint(step_checkpoints(folder / "checkpoints")[0])["model"]


def test_a_run_of_a_project_holds_what_rebuilds_it_anywhere(project, tmp_path, monkeypatch, capsys):
    argv = ["run", "project.py", "--set", "data.noise=0.2", "--set", "model.width=12", "--sparsity", "0.8", *SHORT]
    assert main([*argv, "--out", "runs/a"]) == 0
    config = read_config(tmp_path / "runs/a/config.toml")
    assert config.data.task == f"{project}:data"
    assert config.data.data_options == {"noise": 0.2}
    assert config.model.name == f"{project}:net"
    assert config.model.model_options == {"width": 12}
    assert config.run.loss == f"{project}:loss"
    with RunStore(tmp_path / "runs/a/run.db") as store:
        assert store.get("status") == "complete"
        assert store.get("summary")["task"] == "project"
        assert store.get("data")["samples"] == {"train": 200, "validation": 30, "test": 30}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = str(tmp_path / "runs/a")
    assert main(["report", run]) == 0
    assert main(["analyze", run, "--what", "cka,neural_collapse,heavy_tails", "--samples", "32"]) == 0
    assert main(["export", run, "--format", "sparse"]) == 0
    capsys.readouterr()
    project.unlink()
    assert main(["report", run]) == MISTAKE
    assert f"no file {project}: name one that defines the data" in capsys.readouterr().err


class StopAt(Silent):
    """Interrupts the run when it has passed a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step, self.lines = step, []

    def update(self, snapshot):
        if snapshot.step == self.step:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    def note(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("policy", ["none", "cyclic_pruning"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(project, tmp_path, workers, policy):
    config = make_config(
        task=f"{project}:data", model=f"{project}:net", policy=policy, steps=40, every=3, evaluate_every=10,
        checkpoint_every=12, workers=workers, batch_size=48, monitor_budget=1.0,
    )  # fmt: skip
    train(config, tmp_path / "whole")
    assert train(config, tmp_path / "cut", progress=StopAt(23)).status == "interrupted"
    project.write_text(PROJECT + "\n# another line\n")
    said = StopAt(-1)
    assert train(None, tmp_path / "cut", resume=True, progress=said).status == "complete"
    assert any("has changed since the run began" in line for line in said.lines)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_methods_are_compared_on_a_project(project, capsys, tmp_path):
    keys = {"task": f"{project}:data", "model": f"{project}:net", "steps": 40, "every": 4, "policy": "rigl"}
    (tmp_path / "mine.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    argv = ["compare", "mine.toml", "--methods", "dense,gmp", "--seeds", "1", "--budget", "none", "--jobs", "1"]
    assert main(argv) == 0
    table = (tmp_path / "runs/compare-mine/table.md").read_text()
    assert "gmp" in table
    assert "dense" in table
    for budget in ("none", "equal"):  # trials of what a model of one's own lacks, such as dropout, are made without it
        assert main(["compare", "project.py", "--dry-run", "--budget", budget, "--seeds", "1"]) == 0
    assert "runs to report" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "none.py"], "cannot read the project none.py"),
        (["run", "half.py"], "half.py has no 'model' or 'net' at its top level"),
        (["run", "project.py:dat"], "has no 'dat': expected one of its names"),
        (["run", "--data", "digits"], "--data digits: expected file.py:name"),
        (["run", "digits", "--data", "project.py:data"], "two tasks"),
        (["run", "project.py", "--set", "width=3"], "expected data.NAME=VALUE or model.NAME=VALUE"),
        (["run", "project.py", "--set", "model.w=3"], "unexpected keyword argument 'w'; it takes width, got w"),
        (["run", "project.py", "--model", "nets"], "unknown model 'nets'"),
        (["run", "project.py", "--loss", "huber"], "unknown loss 'huber'"),
        (["run", "project.py", "--policy", "none", "--forecast", "slope"], "is for classes of data in memory"),
        (["compare", "none.toml"], "cannot read the configuration none.toml"),
    ],
)
def test_every_mistake_is_one_line(project, tmp_path, capsys, argv, words):
    (tmp_path / "half.py").write_text("def data(): ...\n")
    assert main(argv) == MISTAKE
    captured = capsys.readouterr()
    assert captured.err.startswith("surgecollapse: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not list(tmp_path.glob("runs/*"))


FAULTY = """
import torch
from torch import nn


def data(fault="none"):
    x = torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    if fault == "attribute":
        x.nothing
    if fault == "labels":
        y[5] = 7
    if fault == "nan":
        x[3] = torch.nan
    cut = 0 if fault == "empty" else 60
    return (x[:cut], y[:cut]), (x[60:], y[60:])


class net(nn.Module):
    def __init__(self, fault="none"):
        super().__init__()
        self.body, self.head, self.fault = nn.Linear(8, 16), nn.Linear(16, 2), fault

    def forward(self, x):
        if self.training and self.fault == "attribute":
            x = x + self.nothing
        if self.training and self.fault == "memory":
            torch.empty(10**15)
        return self.head(torch.relu(self.body(x)))
"""
FAULTS = {
    "data.fault=attribute": "faulty.py, line 10: AttributeError: 'Tensor' object has no attribute 'nothing'",
    "data.fault=labels": "model faulty gives 2 logits, and the labels of faulty go up to 7: expected 8 logits",
    "data.fault=empty": "the train part is empty; expected at least one sample",
    "model.fault=attribute": "faulty.py, line 26: AttributeError: 'net' object has no attribute 'nothing'",
    "model.fault=memory": "not enough memory for this run: make widths, batch_size or the data smaller",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_in_the_project_is_one_line_with_what_it_is(tmp_path, capsys, fault):
    (tmp_path / "faulty.py").write_text(FAULTY)
    assert main(["run", "faulty.py", "--set", fault, "--sparsity", "0.8", *SHORT, "--out", "a"]) == MISTAKE
    notes = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loss: ")]
    assert len(notes) == 1
    assert FAULTS[fault] in notes[0]


@pytest.mark.slow
def test_a_study_survives_every_mistake_in_a_trial_with_its_reason(tmp_path):
    """Real processes, and a real allocation that no machine can make."""
    optuna = pytest.importorskip("optuna")
    from surgecollapse.tuning.storage import REASON, open_storage

    (tmp_path / "faulty.py").write_text(FAULTY)
    space = ["data.fault=none,attribute,labels,empty,nan", "model.fault=none,memory"]
    options = ["--sampler", "grid", "--sparsity", "0.8", *SHORT, "--workers", "1", "--fresh", "1", "--out", "study"]
    assert main(["tune", "faulty.py", "--search", *space, *options]) == 0
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="faulty", storage=open_storage(tmp_path / "study/study.journal"))
    assert len(study.trials) == 10
    for trial in study.trials:
        data, model = trial.params["data.fault"], trial.params["model.fault"]
        reason = trial.user_attrs.get(REASON, "")
        assert "\n" not in reason
        if (data, model) == ("none", "none"):
            assert trial.state.name == "COMPLETE"
        elif data in ("attribute", "labels", "empty"):
            assert FAULTS[f"data.fault={data}"] in reason
        elif model != "none":
            assert FAULTS[f"model.fault={model}"] in reason
        else:
            assert "training diverged" in reason
    assert (tmp_path / "study/index.html").is_file()


def test_samples_that_cannot_be_read_are_named_counted_and_recorded(project, tmp_path, capsys):
    broken = PROJECT.replace("image = torch", "if index in (7, 21): raise OSError('torn')\n        image = torch", 1)
    project.write_text(broken)
    assert main(["run", "project.py", *SHORT, "--out", "a", "--policy", "none"]) == MISTAKE
    assert "sample 7 of the train data (torn)" in capsys.readouterr().err
    assert main(["run", "project.py", *SHORT, "--out", "b", "--policy", "none", "--max-bad", "6"]) == 0
    with RunStore(tmp_path / "b/run.db") as store:
        named = store.get("bad_samples")
    assert {f"sample {row} of the train data" for row in (7, 21)} <= set(named)
    assert set(named.values()) == {"torn"}


def test_an_interrupted_run_says_how_to_go_on(project, tmp_path, monkeypatch, capsys):
    import surgecollapse.lab.training.progress as shown

    monkeypatch.setattr(shown, "for_terminal", lambda: StopAt(20))
    assert main(["run", "project.py", *SHORT, "--policy", "none", "--workers", "1", "--out", "a"]) == INTERRUPTED
    assert "surgecollapse run --resume a" in capsys.readouterr().out


# runs of a loop of one's own


def own_loop(folder, *, checkpoints=True):
    """A loop that records, and saves its weights as people do."""
    import surgecollapse
    from surgecollapse.lab.references import found_part

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = found_part("project.py:net", "model")()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data, _ = found_part("project.py:data", "data")()
    x, y = (torch.stack([torch.as_tensor(row[i]) for row in (data[k] for k in range(64))]) for i in (0, 1))
    with surgecollapse.RunStore(folder / "run.db", mode="w") as store:
        readings = surgecollapse.Readings(every=5)
        controller = surgecollapse.attach(model, optimizer, 0.8, 60, readings=readings, recorders=[store], seed=0)
        for step in range(60):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            store.measure(step + 1, "loss/train", loss.item())
            if checkpoints and (step + 1) % 20 == 0:
                (folder / "checkpoints").mkdir(exist_ok=True)
                torch.save(model.state_dict(), folder / "checkpoints" / f"step-{step + 1}.pt")
        controller.finalize()
        store.set("status", "complete")


def test_a_run_of_ones_own_loop_has_a_report_analyses_and_exports(tmp_path, capsys):
    folder = tmp_path / "runs/mine"
    own_loop(folder)
    assert main(["report", "runs/mine"]) == 0
    page = (folder / "report/index.html").read_text()
    assert "recorded by a loop of its own" in page
    argv = ["analyze", "runs/mine", "--model", "project.py:net", "--what", "cka,heavy_tails", "--samples", "32"]
    assert main(argv) == 0
    result = json.loads((folder / "analysis/cka.json").read_text())
    assert result["steps"] == [0, 20, 40, 60]
    assert main(["export", "runs/mine", "--format", "sparse", "--model", "project.py:net"]) == 0
    assert (folder / "export/model.safetensors").is_file()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["analyze", "runs/mine"], "has no config.toml: name the net with --model FILE.py:NAME"),
        (["export", "runs/mine", "--format", "csr", "--data", "project.py:data"], "--data goes with --model"),
        (["analyze", "runs/mine", "--model", "net"], "--model net: expected file.py:name"),
        (["analyze", "runs/mine", "--model", "project.py:net"], "has no step-N.pt: save the weights there"),
        (["analyze", "runs/mine", "--model", "bare.py:net"], "bare.py has no 'data' at its top level"),
    ],
)
def test_what_a_run_of_ones_own_loop_lacks_is_said_in_one_line(tmp_path, capsys, argv, words):
    own_loop(tmp_path / "runs/mine", checkpoints=False)
    (tmp_path / "bare.py").write_text("def net(): ...\n")
    capsys.readouterr()
    assert main(argv) == MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
