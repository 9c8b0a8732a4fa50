"""Run folders that releases wrote are still opened: listed, read as tables, reported on and resumed.

Each ``tests/data/run-VERSION`` was written by that version (``surgecollapse run``: parity of two bits, RigL, stopped
after step 25 of 40); only the arrays between its first and its last step were taken out, to keep it small. The folder
of the present version is written once and then stays: it shows that no change makes today's folders unreadable.
``tests/data/files-0.1.0`` holds what else version 0.1.0 wrote: states of loops of one's own, and sparse files.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.compare.plan import key_of
from surgecollapse.compare.rows import NAME, Rows
from surgecollapse.dashboard.runs import Runs
from surgecollapse.export import load_csr, load_metadata, load_sparse
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.record import RunStore, Tail, load_run

DATA = Path(__file__).parents[1] / "data"
FILES = DATA / "files-0.1.0"
PUBLISHED = sorted(path.parent for path in (DATA.parents[1] / "benchmarks" / "results" / "compare").glob(f"*/{NAME}"))
RELEASES = sorted(path.name for path in DATA.glob("run-*"))
MEASUREMENTS = {"run-0.1.0": 45, "run-0.2.0": 49}
"""That each record holds: 0.2 also records the use of the machine."""


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


@pytest.fixture
def folder(release, tmp_path):
    shutil.copytree(DATA / release, tmp_path / "runs" / "old")
    return tmp_path / "runs" / "old"


def test_there_is_a_folder_of_every_release_and_each_is_small():
    assert {"run-0.1.0", f"run-{surgecollapse.__version__}"} <= set(RELEASES)
    for name in RELEASES:
        assert sum(path.stat().st_size for path in (DATA / name).rglob("*") if path.is_file()) < 60_000


def test_it_is_listed_with_its_state(folder):
    runs = Runs(folder.parent)
    (row,) = runs.rows()
    assert (row["name"], row["status"]) == ("old", "interrupted")
    assert len(runs.sparklines([row["id"]])[row["id"]]) > 10


def test_its_record_is_read_whole(folder, release):
    with load_run(folder) as run:
        assert run.series("loss/train").steps.tolist() == list(range(1, 26))
        assert run.meta["status"] == "interrupted"
        assert [event.step for event in run.store.readings()] == [10, 20]
        assert len(run.store.interventions()) == 1
        assert len(run.store.decisions()) == 1
        assert [step for step, _ in run.arrays("sketch/weights")] == [0, 25]
        assert run.store.skipped == 0
    tail = Tail(folder / "run.db")
    assert len(tail.read().measurements) == MEASUREMENTS[release]
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


def lines_of(folder):
    return [json.loads(line) for line in (folder / NAME).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path.name)
def test_every_published_row_of_a_comparison_is_read_under_todays_names(published):
    """Rows of 0.1 have flat configurations and the old names of keys, policies, options and methods."""
    wholes = []

    def key(row):
        wholes.append(row)
        return key_of(row["config"])

    rows = Rows(published, key)
    written = [line for line in lines_of(published) if "base" not in line]
    assert len(wholes) == len(written) > 0
    assert all(rows.get(key_of(row["config"])) or rows.earlier(key_of(row["config"])) for row in wholes)
    assert not [row["method"] for row in wholes if "-" in row["method"]]


def test_published_rows_are_of_both_releases():
    assert {"0.1", "0.2"} <= {line.get("version") for folder in PUBLISHED for line in lines_of(folder)}


# files beside run folders: states of loops of one's own, sparse files


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def half_of(weight):
    threshold = weight.abs().flatten().kthvalue(weight.numel() // 2)[0]
    return torch.where(weight.abs() < threshold, torch.zeros(()), weight)


@pytest.mark.parametrize(("saved", "policy"), [("gmp", "gmp"), ("entropy", "entropy_cycles")])
def test_a_loop_goes_on_from_its_states(saved, policy):
    """Written after step 30 of 60, with the names of then; `gmp` had a filter of the gradients, too."""
    state = torch.load(FILES / "loops.pt", weights_only=True)[saved]
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    transforms = [surgecollapse.Grokfast(alpha=0.9, lamb=1.0)] if saved == "gmp" else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run so short has few readings
        controller = surgecollapse.attach(
            model, optimizer, 0.5, 60, policy=policy, readings=surgecollapse.Readings(every=5), transforms=transforms
        )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        controller.load_state_dict(state["controller"])
        masks = {name: mask.clone() for name, mask in controller.masks.items()}
        closed = sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        assert closed == pytest.approx({"gmp": 0.4722, "entropy": 0.75}[saved], abs=1e-4)
        assert (controller.step, controller.sparsity) == (30, closed)
        x, y = torch.randn(64, 6), torch.randint(3, (64,))
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        controller.finalize()
    assert (controller.step, controller.sparsity) == (60, 0.5)


def test_its_sparse_files_are_read():
    pytest.importorskip("safetensors")
    expected = {name: half_of(value) if value.ndim > 1 else value for name, value in small().state_dict().items()}
    found = load_sparse(FILES / "sparse.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)  # drawn anew here, with the rounding of this processor
        assert torch.equal(found[name] == 0, value == 0)
    assert load_metadata(FILES / "sparse.safetensors")["task"] == "none"
    dense = small()
    dense.load_state_dict(expected)
    x = torch.randn(5, 6)
    csr = load_csr(small(), FILES / "csr.safetensors")
    assert type(csr[2]).__name__ == "CsrLinear"
    with torch.inference_mode():
        torch.testing.assert_close(csr(x), dense(x))
