"""Models, loss, learning rate, batches and sketches against answers known by hand."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgecollapse.compare.plan import key_of
from surgecollapse.lab.config import ConfigError, as_mapping, make_config
from surgecollapse.lab.nets.autoregressive import AutoregressiveMLP
from surgecollapse.lab.nets.cnn import SmallCNN
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.lab.nets.transformer import OneLayerTransformer
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss, make_optimizer, rate_factor
from surgecollapse.lab.training.progress import Lines, Snapshot
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.sampler import Batches
from surgecollapse.lab.training.sketch import CountSketch
from surgecollapse.lab.training.summary import weight_summary

FITTING = [
    ("digits", "mlp"),
    ("digits", "cnn"),
    ("digits", "autoregressive"),
    ("modular", "mlp"),
    ("modular", "transformer"),
    ("modular", "autoregressive"),
    ("parity", "mlp"),
    ("dummy", "autoregressive"),
]


@pytest.mark.parametrize(("task", "model"), FITTING)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_models_give_logits_of_every_task_that_they_read(task, model, activation):
    config = make_config(
        task=task, model=model, activation=activation, **({"modulus": 11} if task == "modular" else {})
    )
    data = load_data(config)
    net = build_model(config, data)
    logits = net(data.x_train[:3])
    assert logits.shape == (3, data.num_classes)
    assert any(isinstance(part, nn.ReLU if activation == "relu" else nn.GELU) for part in net.modules())


@pytest.mark.parametrize(("task", "model"), [("digits", "transformer"), ("modular", "cnn"), ("parity", "cnn")])
def test_models_refuse_what_they_cannot_read(task, model):
    config = make_config(task=task, model=model)
    with pytest.raises(ConfigError, match=f"model '{model}' reads"):
        build_model(config, load_data(config))


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone():
    config, other = make_config(task="digits", seed=1), make_config(task="digits", seed=2)
    data = load_data(config)
    before = torch.get_rng_state()
    one, two, three = (build_model(c, data).state_dict() for c in (config, config, other))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], three["head.weight"])


def test_the_transformer_reads_positions():
    net = OneLayerTransformer(9, 4, 7, width=16, hidden=32)
    logits = net(torch.tensor([[1, 7, 2, 8], [2, 7, 1, 8]]))
    assert not torch.allclose(logits[0], logits[1]), "swapped operands must differ"


def test_the_last_position_alone_gives_the_logits_and_gradients_of_a_causal_pass_over_all():
    net = OneLayerTransformer(9, 4, 7, width=16, hidden=32).double()
    x = torch.randint(0, 9, (6, 4), generator=torch.Generator().manual_seed(0))
    embedded = net.tokens(x) + net.positions.weight
    causal = torch.ones(4, 4).triu(1).bool()
    stream = embedded + net.attention(embedded, embedded, embedded, attn_mask=causal, need_weights=False)[0]
    whole = net.head(stream + net.mlp(stream))[:, -1]
    weights = list(net.parameters())
    torch.testing.assert_close(net(x), whole)
    expected = torch.autograd.grad(whole.square().sum(), weights)
    torch.testing.assert_close(torch.autograd.grad(net(x).square().sum(), weights), expected)


def test_the_transformer_has_the_size_of_its_parts():
    net = OneLayerTransformer(99, 4, 97, width=128, hidden=512)
    parts = 99 * 128 + 4 * 128 + 4 * 128 * 128 + (128 * 512 + 512) + (512 * 128 + 128) + 97 * 128
    assert sum(p.numel() for p in net.parameters()) == parts


def test_the_transformer_gives_the_same_answers_in_both_modes_without_dropout():
    net = OneLayerTransformer(9, 4, 7, width=16, hidden=32)
    x = torch.randint(0, 9, (5, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(net.train()(x), net.eval()(x), atol=1e-6)


def test_the_autoregressive_net_reads_one_hots():
    net = AutoregressiveMLP(4, 7, hidden=5, vocabulary=9)
    x = torch.tensor([[1, 7, 2, 8]])
    columns = torch.tensor([1, 9 + 7, 18 + 2, 27 + 8])
    hidden = torch.relu(net.hidden.weight[:, columns].sum(1) + net.hidden.bias)
    assert torch.allclose(net(x)[0], net.head(hidden), atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: SmallCNN((1, 4, 4), (2, 2, 2), 3), lambda: OneLayerTransformer(5, 4, 3, width=6)]
)
def test_impossible_shapes_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_predict_is_without_dropout_and_gives_the_mode_back():
    net = MLP(4, (32,), 3, dropout=0.5).train()
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict(net, x, rows=3), predict(net, x, rows=3))
    assert net.training
    assert not predict(net, x).requires_grad


# losses


def test_balanced_classes_weigh_the_same_in_sum():
    config = make_config(task="parity", class_weights="balanced")
    data = load_data(config)
    object.__setattr__(data, "y_train", torch.tensor([0] * 9 + [1]))
    loss = make_loss(config, data)
    logits = torch.zeros(10, 2)
    logits[9, 1] = -20.0  # only the rare sample is wrong
    expected = (0.5 * math.log(2)) + 0.5 * 20.0
    assert loss(logits, data.y_train).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_mse_is_the_mean_square_distance_to_the_one_hot(weights):
    config = make_config(task="parity", loss="mse", class_weights=weights)
    data = load_data(config)
    loss = make_loss(config, data)
    labels = torch.tensor([0, 1])
    assert loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels).item() == 0.0
    assert loss(torch.zeros(2, 2), labels).item() == pytest.approx(0.5)


# learning rate


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [("cosine", 0, 1.0), ("cosine", 50, 0.5), ("cosine", 100, 0.0), ("linear", 25, 0.75), ("constant", 99, 1.0)],
)
def test_schedules_at_known_points(schedule, step, factor):
    assert rate_factor(step, 100, schedule=schedule, warmup=0) == pytest.approx(factor)


@given(
    st.integers(0, 500),
    st.integers(1, 500),
    st.sampled_from(["constant", "cosine", "linear"]),
    st.integers(0, 600),
    st.integers(0, 600),
)
def test_rate_factors_stay_in_the_unit_interval(step, total, schedule, warmup, hold):
    assert 0.0 <= rate_factor(min(step, total), total, schedule=schedule, warmup=warmup, hold=hold) <= 1.0


def test_a_held_rate_falls_only_after_the_step_that_it_is_held_to():
    factors = [rate_factor(step, 100, schedule="linear", warmup=10, hold=60) for step in (9, 10, 59, 60, 80, 100)]
    assert factors == [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_warm_up_rises_in_equal_steps():
    factors = [rate_factor(step, 100, schedule="constant", warmup=4) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_lowers_the_loss(name):
    settings = {"lr": 1e-2} if name == "sgd" else {"lr": 1e-3, "beta2": 0.99}
    config = make_config(task="digits", optimizer=name, **settings)
    data = load_data(config)
    net = build_model(config, data).eval()
    optimizer = make_optimizer(config, net)
    loss_of = make_loss(config, data)
    first = loss_of(net(data.x_train), data.y_train)
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(net(data.x_train), data.y_train).backward()
        optimizer.step()
    assert loss_of(net(data.x_train), data.y_train) < first


# batches


@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(size, batch_size, seed):
    batches = Batches(size, batch_size, seed)
    for epoch in (1, 2):
        seen: list[int] = []
        while len(seen) < size:
            seen += next(batches).tolist()
        assert sorted(seen) == list(range(size))
        assert batches.epoch == epoch


@given(st.integers(2, 40), st.integers(1, 10), st.integers(0, 30))
def test_batches_resume_anywhere(size, batch_size, done):
    one = Batches(size, batch_size, seed=0)
    for _ in range(done):
        next(one)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    two = Batches(size, batch_size, seed=99)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(10):
        assert torch.equal(next(one), next(two))


def test_batches_of_other_data_are_refused():
    with pytest.raises(ValueError, match="5 samples"):
        Batches(6, 2, seed=0).load_state_dict(Batches(5, 2, seed=0).state_dict())


def test_a_saved_order_is_no_alias():
    batches = Batches(5, 2, seed=0)
    next(batches)
    state = batches.state_dict()
    state["order"].zero_()
    assert sorted(torch.cat([next(batches), next(batches)]).tolist()) != [0, 0, 0]


# sketch


def test_a_sketch_is_linear_and_the_same_map_each_time():
    u, v = (torch.randn(50, 40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert np.array_equal(CountSketch([u])(), CountSketch([u])())
    assert np.allclose(CountSketch([u])() + CountSketch([v])(), CountSketch([u + v])(), atol=1e-5)


def test_a_sketch_keeps_distances():
    u = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    ratio = float((CountSketch([u])() ** 2).sum()) / float(u.square().sum())
    assert ratio == pytest.approx(1.0, abs=4 * math.sqrt(2 / 1_024))


def test_a_sketch_follows_the_weights_and_changes_none():
    weight = nn.Parameter(torch.ones(10))
    sketch = CountSketch([weight])
    before = sketch()
    with torch.no_grad():
        weight.mul_(2)
    assert np.allclose(sketch(), 2 * before)
    assert torch.equal(weight.detach(), torch.full((10,), 2.0))


# summary


def test_sizes_of_a_net_are_counted_by_hand():
    net = nn.Linear(16, 8)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[0, :4] = 1.0
        net.bias.fill_(1.0)
    facts = weight_summary(net, None)
    assert facts["parameters"] == 136
    assert facts["nonzeros"] == 12
    assert facts["sparsity_total"] == pytest.approx(124 / 136)
    assert facts["bytes_dense"] == 544
    assert facts["bytes_sparse"] == (4 * 4 + 16) + 32


def test_plain_lines_say_where_the_run_is():
    stream = io.StringIO()
    lines = Lines(stream, seconds=0.0)
    lines.start("digits none", 10, 4)
    lines.update(Snapshot(step=5, phase="sparse", sparsity=0.5, entropy=0.25, loss=1.0, accuracy=0.75))
    lines.stop()
    assert stream.getvalue().splitlines() == [
        "digits none: 10 steps, going on after 4",
        "step 5/10  sparse  sparsity 50.0%  entropy 0.250  loss 1.000  accuracy 75.0%",
    ]


def test_a_gpu_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device = 'cuda': torch sees no GPU here .*or train with device = 'cpu'"):
        train(make_config(task="digits", device="cuda", steps=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_where_a_run_trained_does_not_make_it_another():
    here, there = (as_mapping(make_config(task="digits", device=device)) for device in ("cpu", "cuda"))
    assert key_of(here) == key_of(there)


def test_samples_that_lie_there_already_are_not_copied():
    data = load_data(make_config(task="digits"))
    assert data.to(torch.device("cpu")) is data
    moved = data.to(torch.device("meta"))
    assert {t.device.type for t in (moved.x_train, moved.y_train, moved.x_test, moved.y_validation)} == {"meta"}
    assert (moved.name, moved.source) == (data.name, data.source)
