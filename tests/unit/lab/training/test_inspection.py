"""What a person asks to see of a net while it trains, and what its steps cost."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.commands import Inspect
from surgecollapse.dashboard import reading
from surgecollapse.dashboard.operations import operations
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.inspection import BINS, histogram
from surgecollapse.lab.training.run import train
from surgecollapse.record import CommandQueue, RunStore
from surgecollapse.record.schema import connect

# Runs so short learn little before their masks are final, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:training (has learned nothing|does not recover):UserWarning")

STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(configuration(), folder)
    return folder


SPARSE = {"sparsity": 0.8, "min_density": 0.01, "growth": "ema_gradient"}


def configuration(policy="cyclic_pruning", **changes):
    values = {"task": "digits", "widths": (16, 16), "steps": STEPS, "every": 5, "evaluate_every": 20,
              "monitors": "none", "policy": policy, **({} if policy == "none" else SPARSE)}  # fmt: skip
    return make_config(**{**values, **changes})


@pytest.mark.parametrize("policy", ["entropy_cycles", "none"])
def test_operations_at_the_end_are_those_of_the_summary(tmp_path, policy):
    train(configuration(policy=policy), tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        costs, summary = store.get("costs"), store.get("summary")
    found = operations(connect(tmp_path / "run" / "run.db", "r"))
    dense = 6 * STEPS * costs["rows"] * sum(costs["multiplications"].values())
    assert found["x"][-1] == STEPS
    assert found["y"] == sorted(found["y"])
    assert found["y"][-1] / dense == pytest.approx(summary["flops_training"], rel=1e-12)
    assert (found["y"][-1] == dense) == (policy == "none")


def test_a_run_that_did_not_record_its_costs_has_no_operations(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.measure(1, "loss/train", 1.0)
    assert operations(connect(tmp_path / "run.db", "r")) == {"x": [], "y": []}


def test_histograms_are_exact_and_count_zeros_and_what_is_not_finite_apart():
    values = torch.tensor([0.0, float("nan"), float("inf"), -1.0, 1.0, 1.0])
    edges, counts, rest = histogram(values)
    assert (edges[0], edges[-1], counts.sum(), counts[0], counts[BINS - 1]) == (-1.0, 1.0, 3, 1, 2)
    assert rest[:3].tolist() == [1, 2, 6]
    assert histogram(torch.zeros(4))[2, 0] == 4


class Asking:
    """Asks for something after a step, as a person at a page does."""

    def __init__(self, path, asked):
        self.path, self.asked = path, asked

    def start(self, *_):
        CommandQueue(self.path).put(self.asked, source="test")

    def __getattr__(self, _):
        return lambda *_: None


def test_inspecting_records_pictures_and_changes_nothing_that_the_run_computes(folder, tmp_path):
    train(configuration(), tmp_path / "run", progress=Asking(tmp_path / "run" / "run.db", Inspect()))
    with RunStore(tmp_path / "run" / "run.db") as store, RunStore(folder / "run.db") as plain:
        (asked,) = CommandQueue(store.path).all()
        assert (asked.status, store.get("touched", False)) == ("applied", False)
        assert store.measurements("loss/train").values.tolist() == plain.measurements("loss/train").values.tolist()
        assert store.readings() == plain.readings()
        names = [row["name"] for row in reading.arrays(connect(store.path, "r"))]
        for kind in ("weights", "gradients", "activations"):
            assert [name for name in names if name.startswith(f"histogram/{kind}/")]
        ((step, matrix),) = store.arrays("confusion/validation")
        assert step == asked.step
        assert matrix.shape == (10, 10)
        ((_, edges_counts_rest),) = store.arrays(next(name for name in names if name.startswith("histogram/weights/")))
        assert edges_counts_rest[1].sum() + edges_counts_rest[2, :2].sum() == edges_counts_rest[2, 2]
        shown = reading.array(connect(store.path, "r"), next(n for n in names if n.startswith("histogram/")))
        assert len(shown["edges"]) == len(shown["counts"]) + 1
