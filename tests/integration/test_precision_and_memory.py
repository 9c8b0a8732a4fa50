"""Mixed precision and gradient checkpointing, for models of the library and of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.cli import MISTAKE, main
from surgecollapse.lab.config import make_config
from surgecollapse.lab.nets.gpt import GPT
from surgecollapse.lab.nets.resnet import ResNet
from surgecollapse.lab.training.checkpoint import load_checkpoint, step_checkpoints
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.recomputing import RecomputedBlocks, blocks_of
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

PROJECT = """
import torch
from torch import nn

SEEN = []


def data(count=96):
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.randn(count, 3, 16, 16, generator=draws)
    x[torch.arange(count), y] += 1.0
    return (x[:64], y[:64]), (x[64:], y[64:])


def rows():
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(11, (96, 12), generator=draws)
    y = (x + 1) % 11
    return (x[:64], y[:64]), (x[64:], y[64:])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.act(self.norm(self.conv(x))))


class net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        SEEN.append((self.training and torch.is_grad_enabled(), x.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def tokens():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, activation=nn.GELU())
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(11, 16), body, nn.Linear(16, 11))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 3))
"""
PARTS = {"images": ("data", "net"), "tokens": ("rows", "tokens")}


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "project.py"
    path.write_text(PROJECT)
    return path


def configuration(project, kind="images", **changes):
    data, net = PARTS[kind]
    keys = {
        "task": f"{project}:{data}", "model": f"{project}:{net}", "policy": "entropy_thresholds", "sparsity": 0.7,
        "min_density": 0.0, "steps": 40, "every": 3, "batch_size": 16, "evaluate_every": 20, "checkpoint_every": 15,
        "monitor_budget": 1.0,
    }  # fmt: skip
    keys = {**keys, **changes}
    if keys["policy"] == "none":
        keys = {name: value for name, value in keys.items() if name not in ("sparsity", "min_density")}
    return make_config(**keys)


def state(folder):
    return load_checkpoint(step_checkpoints(folder / "checkpoints")[0])


def decisions(folder):
    with RunStore(folder / "run.db") as store:
        return store.readings(), store.decisions(), store.interventions()


def assert_same(one, other):
    first, second = state(one), state(other)
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    masks = [it["optimizer"]["surgecollapse.controller"][0]["engine"]["weights"]["masks"] for it in (first, second)]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    assert decisions(one) == decisions(other)


@pytest.mark.parametrize("mixed", ["none", "bfloat16"])
@pytest.mark.parametrize("kind", PARTS)
def test_gradient_checkpointing_changes_no_weight_mask_buffer_or_reading(project, tmp_path, kind, mixed):
    for name, again in (("plain", False), ("again", True)):
        train(configuration(project, kind, mixed_precision=mixed, gradient_checkpointing=again), tmp_path / name)
    assert_same(tmp_path / "plain", tmp_path / "again")


class StopAt(Silent):
    def __init__(self, step):
        self.step = step

    def update(self, snapshot):
        if snapshot.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.conformance("resume bitwise", place="the lab in bfloat16 with gradient checkpointing")
@pytest.mark.parametrize("kind", PARTS)
def test_a_resumed_run_in_mixed_precision_is_bitwise_the_uninterrupted_one(project, tmp_path, kind):
    config = configuration(project, kind, mixed_precision="bfloat16", gradient_checkpointing=True)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", progress=StopAt(20))
    assert train(None, tmp_path / "cut", resume=True).status == "complete"
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_steps_compute_in_bfloat16_and_evaluations_and_weights_in_float32(project, tmp_path):
    from surgecollapse.lab.references import found_part

    train(configuration(project, mixed_precision="bfloat16", policy="none", monitors="none"), tmp_path / "run")
    seen = found_part(f"{project}:SEEN", "list")
    assert {dtype for trained, dtype in seen if trained} == {torch.bfloat16}
    assert {dtype for trained, dtype in seen if not trained} == {torch.float32}
    assert {value.dtype for value in state(tmp_path / "run")["model"].values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("make", "x", "blocks"),
    [
        (lambda: ResNet(3, 10, 18, 4), torch.randn(4, 3, 32, 32), 8),
        (lambda: GPT(11, 12, width=16, hidden=32, layers=3, heads=2), torch.randint(11, (4, 12)), 3),
    ],
    ids=["resnet", "gpt"],
)
def test_blocks_keep_their_inputs_alone(make, x, blocks):
    model = make()
    assert len(blocks_of(model)) == blocks
    counts = []
    recomputed = RecomputedBlocks(model, "model")
    for again in (False, True):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.shape) or t, lambda t: t):
            if again:
                with recomputed.applied():
                    out = model(x)
            else:
                out = model(x)
        counts.append(len(kept))
        out.sum().backward()
    assert counts[1] < counts[0] / 2
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_block_with_a_forward_of_its_own_keeps_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    mine = model[0].forward
    model[0].forward = lambda x: mine(x) + 1
    own = model[0].forward
    with RecomputedBlocks(model, "model").applied():
        out = model(torch.ones(1, 2))
    assert model[0].forward is own
    assert torch.equal(out, model(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model", "project.py:flat", "--gradient-checkpointing"], "has no blocks; expected modules of several"),
        (
            ["--model", "project.py:net", "--mixed-precision", "bfloat16", "--precision", "float64"],
            "is over float32 weights, not float64",
        ),
        (["--model", "project.py:net", "--mixed-precision", "float16"], "bfloat16"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(project, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(project.parent)
    assert main(["run", "--data", "project.py:data", "--steps", "5", *argv]) == MISTAKE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
