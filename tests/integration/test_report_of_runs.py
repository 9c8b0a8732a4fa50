"""The report of runs that were really trained, from the directories alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.evaluation import load_checkpointed_run, predict
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.lab.training.run import train
from surgecollapse.report import table, write_report
from surgecollapse.report.classification import evaluate
from surgecollapse.report.collect import collect
from surgecollapse.report.fourier import spectrum
from surgecollapse.report.summary import summarize

SHORT = {"steps": 120, "every": 5, "evaluate_every": 20, "sparsity": 0.8}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, policy in (("plain", "no_op"), ("sparse", "entropy_cycles")):
        train(make_config(task="digits", policy=policy, widths=(32,), **SHORT), folder / name)
    return [folder / "plain", folder / "sparse"]


@pytest.fixture(scope="module")
def sparse(directories):
    return collect(directories[1])


def test_the_page_of_two_runs_shows_every_picture(directories, tmp_path):
    page = write_report(directories, tmp_path / "report")
    text = page.read_text()
    assert page.stat().st_size < 1_500_000
    shown = set(re.findall(r'id="p-([\w-]+)"', text))
    assert shown == {path.stem for path in page.parent.glob("*.png")}
    assert shown >= {
        "overview", "loss", "accuracy", "entropy-1", "entropy-2", "sparsity", "energy", "ledger-2", "confusion-1",
        "confusion-2", "roc-1", "roc-2", "classes", "weights", "gradients", "trajectory", "fourier",
    }  # fmt: skip


def test_numbers_of_the_report_are_those_of_the_run(directories, sparse):
    with load_checkpointed_run(directories[1]).store as store:
        summary = store.get("summary")
    found = summarize(sparse)
    assert found.accuracy == pytest.approx(summary["accuracy"])
    assert found.sparsity == pytest.approx(summary["sparsity"])
    assert found.sparsity_all == pytest.approx(summary["sparsity_total"])
    assert found.nonzeros == summary["nonzeros"]
    assert found.size == summary["bytes_sparse"]
    assert found.interventions == summary["interventions"]


def test_scores_are_of_the_final_model_on_the_test_set(directories, sparse):
    loaded = load_checkpointed_run(directories[1])
    loaded.store.close()
    right = (predict(loaded.model, loaded.data.x_test).argmax(1) == loaded.data.y_test).double().mean().item()
    assert sparse.predictions.split == "test"
    assert evaluate(sparse.predictions).accuracy == pytest.approx(right)


def test_the_gradient_is_that_of_the_loss(directories, sparse):
    loaded = load_checkpointed_run(directories[1])
    loaded.store.close()
    model, loss = loaded.model.double(), make_loss(loaded.config, loaded.data)
    x, y = loaded.data.x_validation[:256].double(), loaded.data.y_validation[:256]
    gradient = sparse.gradients["head.weight"]
    place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    values = []
    with torch.no_grad():
        for step in (1e-4, -1e-4):
            model.head.weight[place] += step
            values.append(loss(model(x), y).item())
            model.head.weight[place] -= step
    assert gradient[place] == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)


def test_what_was_done_is_read_back(sparse):
    kinds = [event.kind for event in sparse.interventions]
    assert {"collapse", "surge", "freeze"} <= set(kinds)
    assert sparse.prunable
    assert sparse.phases[0] == (0, "dense")
    assert sparse.phases[-1][1] == "frozen"
    assert sparse.sketch is not None
    assert sparse.sketch[1].shape[1] == 1_024
    assert sparse.sketch[0][0] == 0


def test_runs_are_named_as_their_folders(directories):
    rows = table(directories)
    assert [row["run"] for row in rows] == ["plain", "sparse"]
    assert rows[1]["sparsity"] == "79.98 %"  # round(0.2 · 2,048) = 410 live weights


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"task": "modular", "modulus": 7, "model": "transformer", "widths": (16, 32)}, "tokens"),
        ({"task": "modular", "modulus": 7, "model": "mlp", "widths": (16,)}, "tokens"),
        ({"task": "modular", "modulus": 7, "model": "autoregressive", "widths": (16,)}, "tokens"),
        ({"task": "parity", "widths": (16,)}, "inputs"),
        ({"task": "digits", "model": "cnn", "widths": (4,)}, "image"),
    ],
)
def test_every_task_and_model_can_be_reported(options, kind, tmp_path):
    train(make_config(policy="none", steps=3, **options), tmp_path / "run")
    run = collect(tmp_path / "run")
    assert spectrum(run).kind == kind
    assert run.readings == ()
    assert run.predictions is not None
    assert summarize(run).accuracy is not None


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_runs_of_two_tasks_are_not_mixed_on_one_page(directories, tmp_path):
    train(make_config(task="dummy", policy="none", steps=20, train_samples=200), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"of 2: digits \(plain\), dummy \(other\)"):
        write_report([*directories, tmp_path / "other"], tmp_path / "report")
    assert not (tmp_path / "report").exists()
