"""Situations that people met with records, pages, checkpoints and several processes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import surgecollapse as sc
from processes import run_ranks
from surgecollapse.dashboard.server import application
from surgecollapse.functional import marchenko_pastur_bulk
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.checkpoint import CheckpointError, load_checkpoint
from surgecollapse.lab.training.run import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions of Starlette would rather have another client than httpx
    from starlette.testclient import TestClient


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32, torch.tensor, np.asarray])
def test_04_steps_that_are_numpy_or_torch_scalars_are_numbers(kind, tmp_path):
    with sc.RunStore(tmp_path / "run.db", mode="w") as store:
        for step in range(3):
            store.measure(kind(step), "loss/train", 1.0)
    series = sc.load_run(tmp_path / "run.db").series("loss/train")
    assert series.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None, [1, {"deep": float("-inf")}], "text"])
def test_07_the_page_answers_whatever_a_configuration_holds(value, tmp_path):
    (tmp_path / "a").mkdir()
    with sc.RunStore(tmp_path / "a" / "run.db", mode="w") as store:
        store.set("config", {"max_norm": value})
        store.measure(1, "loss", 1.0)
    headers = {"authorization": "Bearer tok"}
    client = TestClient(application(tmp_path, "tok", ["testserver"]), headers=headers)
    run = client.get("/api/runs").json()["runs"][0]["id"]
    assert client.get(f"/api/runs/{run}").status_code == 200


RANKS = """
import os, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import surgecollapse as sc

rank, folder, case = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
parallel = case == "parallel"
model = DistributedDataParallel(net) if parallel else net
optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
steps = 120 if parallel else 80 + 20 * rank
sc.attach(model, optimizer, sparsity=0.8, total_steps=steps, readings=sc.Readings(every=10))
torch.manual_seed(1 + rank)
for _ in range(steps):
    optimizer.zero_grad()
    F.cross_entropy(model(torch.randn(16, 8)), torch.randint(3, (16,))).backward()
    optimizer.step()
torch.save(net[2].weight.detach(), f"{folder}/{rank}.pt")
dist.barrier()
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""


def _on_two_ranks(folder, case):
    (folder / "worker.py").write_text(RANKS)
    run_ranks(folder / "worker.py", folder, case)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_10_nets_of_their_own_in_one_process_group_wait_for_nobody(tmp_path):
    first, second = _on_two_ranks(tmp_path, "apart")
    assert not torch.equal(first, second)


def test_11_data_parallel_ranks_have_the_same_weights(tmp_path):
    first, second = _on_two_ranks(tmp_path, "parallel")
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["rank one", "dead rows", "one live row"])
def test_17_spikes_are_not_counted_from_rounding_noise(kind):
    torch.manual_seed(0)
    matrix = torch.outer(torch.randn(64), torch.randn(64))
    if kind != "rank one":
        matrix[1 if kind == "one live row" else 32 :] = 0
    assert int(marchenko_pastur_bulk(matrix).spikes) <= 1


def test_19_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path):
    config = make_config(
        task="digits", policy="static", steps=20, checkpoint_every=10, widths=(16,), train_samples=200, monitors="none"
    )
    train(config, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-20.pt"
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")  # at the end of the file, it says where each tensor lies
    for at in [*range(0, directory, directory // 60), *range(directory, len(whole), 7)]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
