"""On a GPU: whole runs of the lab, also resumed, moved and stacked, and what is exported."""

from __future__ import annotations

import pytest
import torch
from grokking_bank.stacked import train_stacked
from torch import nn

from surgecollapse import Readings, Target, attach
from surgecollapse.cli.machine_checks import examine
from surgecollapse.export.semi_structured import to_semi_structured
from surgecollapse.lab.config import as_mapping, layered, make_config, read_config, write_config
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.lab.training.evaluation import load_checkpointed_run, predict
from surgecollapse.lab.training.inspection import inspect
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import RunStore

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")

RUNS = {
    "surge-collapse": {"task": "digits", "sparsity": 0.8, "dropout": 0.2},
    "series": {"task": "mnist1d", "model": "cnn", "policy": "rigl", "sparsity": 0.8},
    "record": {"task": "grokfast-modular-record"},
    "transformer": {"task": "prieto-transformer-orthograd"},
    "stablemax": {"task": "prieto-parity-stablemax"},
    "plain": {"task": "digits", "policy": "none", "dropout": 0.2, "ema_decay": 0.9},
}
SHORT = {"steps": 60, "evaluate_every": 20, "checkpoint_every": 25, "device": "cuda", "monitor_budget": 1.0}


class Until40(Silent):
    """Stops a run after step 40."""

    def update(self, snapshot):
        if snapshot.step == 40:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_trains_on_the_gpu_and_is_read_back_on_the_host(name, tmp_path):
    config = make_config(**{**RUNS[name], **SHORT})
    result = train(config, tmp_path / "gpu")
    assert result.status == "complete"
    run = load_checkpointed_run(tmp_path / "gpu")
    try:
        assert next(run.model.parameters()).device.type == "cpu"
        losses = run.store.measurements("loss/train").values
        assert losses[-1] < losses[0]
    finally:
        run.store.close()
    if config.model.dropout:  # drawn by the generator of the device
        return
    on_host = train(layered(as_mapping(config), {"device": "cpu"}), tmp_path / "cpu")
    with RunStore(tmp_path / "cpu" / "run.db") as store:
        first = store.measurements("loss/train").values[0]
    assert losses[0] == pytest.approx(first, rel=1e-3)  # the same weights, samples and batch
    assert on_host.summary["parameters"] == result.summary["parameters"]


@pytest.mark.parametrize("name", ["surge-collapse", "plain"])
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    config = make_config(**{**RUNS[name], **SHORT})
    train(config, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=Until40())
    train(None, tmp_path / "parts", resume=True)
    ends = [load_checkpoint(tmp_path / part / "checkpoints" / "step-60.pt")["model"] for part in ("whole", "parts")]
    for key, weight in ends[0].items():
        assert torch.equal(weight, ends[1][key]), key


def test_a_run_of_the_gpu_goes_on_on_the_host(tmp_path):
    config = make_config(**{**RUNS["surge-collapse"], **SHORT})

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=Until40())
    file = tmp_path / "run" / "config.toml"
    write_config(read_config(file, device="cpu"), file)
    assert train(None, tmp_path / "run", resume=True).status == "complete"


@pytest.mark.parametrize("name", ["prieto-modular-orthograd", "prieto-transformer"])
def test_stacked_runs_are_the_single_ones(name, tmp_path):
    settings = {"task": name, "steps": 40, "evaluate_every": 20, "device": "cuda", "monitors": "none"}
    configs = [make_config(**settings, seed=seed) for seed in (0, 1)]
    stacked = train_stacked(configs)
    for config, run in zip(configs, stacked, strict=True):
        train(config, tmp_path / str(config.run.seed))
        with RunStore(tmp_path / str(config.run.seed) / "run.db") as store:
            alone = store.measurements("loss/validation").values
        assert run.loss_validation == pytest.approx(alone[: len(run.loss_validation)].tolist(), rel=2e-2)


def test_what_a_person_asks_to_see(tmp_path):
    training = Training(make_config(**{**RUNS["surge-collapse"], **SHORT}), tmp_path, Silent())
    with RunStore(tmp_path / "run.db", mode="w") as store, training.recorded(store):
        for _ in range(5):
            training.advance()
        assert inspect(training)


def test_the_doctor_finds_nothing_wrong():
    checks = examine(blocks=2)
    assert not [check for check in checks if check.good is False]
    assert any("on the GPU" in check.name for check in checks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_four_layers_run_on_sparse_tensor_cores(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x = torch.randn(512, 128, device="cuda")
    y = x[:, :10].argmax(1)
    with attach(
        model,
        optimizer,
        sparsity=Target(0.5, pattern="2:4"),
        total_steps=200,
        policy="gmp",
        readings=Readings(every=10),
    ) as controller:
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        controller.finalize()
    exported = to_semi_structured(model, x[:64], dtype=dtype)
    assert [layer.qualifies for layer in exported.layers] == [True, True, False]
    with torch.inference_mode():
        agree = (exported.model(x.to(dtype)).argmax(1) == model(x).argmax(1)).double().mean()
    assert agree > 0.97


def test_predictions_of_large_sets_fit_into_pieces():
    model = nn.Linear(4, 3).cuda()
    x = torch.randn(5_000, 4, device="cuda")
    torch.testing.assert_close(predict(model, x), model(x).detach())
