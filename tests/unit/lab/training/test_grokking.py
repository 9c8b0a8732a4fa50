"""Times of fitting and generalizing; the published experiments; gradient transforms by option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgecollapse
from surgecollapse.forecast.times import first_at, grokking_summary, grokking_times
from surgecollapse.lab.config import ConfigError, as_toml, layered, make_config, read_config
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.config.keys import KEYS
from surgecollapse.lab.config.stored import current
from surgecollapse.lab.data.synthetic import modular
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.muon import Muon, orthogonalized
from surgecollapse.lab.training.optim import make_loss, make_optimizer, make_transforms
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

STEPS = list(range(10, 110, 10))


def test_times_of_a_run_that_groks_by_hand():
    train_accuracy = [0.3, 0.99, 1, 1, 1, 1, 1, 1, 1, 1]
    validation = [0.1, 0.1, 0.2, 0.3, 0.96, 0.94, 0.95, 0.99, 1, 1]
    found = grokking_times(STEPS, train_accuracy, validation)
    assert (found.t_fit, found.t_fit_sustained) == (20, 20)
    assert (found.t_gen, found.t_gen_sustained) == (50, 70), "a single crossing is not yet sustained"
    assert found.delay == 30
    assert found.outcome == "grokked"


@pytest.mark.parametrize(
    ("train_accuracy", "validation", "outcome", "delay"),
    [
        ([1] * 10, [1] * 10, "at once", 0),
        ([0.5] * 4 + [1] * 6, [0.1] * 3 + [0.95] * 7, "at once", -10),
        ([1] * 10, [0.1] * 8 + [0.95] * 2, "not", 80),
        ([0.9] * 10, [0.1] * 10, "not", None),
        ([0.9] * 10, [0.95] * 10, "at once", None),
        ([float("nan")] * 10, [float("nan")] * 10, "not", None),
        ([1] * 10, [0.1] + [0.95] * 9, "grokked", 10),
    ],
)
def test_outcomes_are_three_classes(train_accuracy, validation, outcome, delay):
    found = grokking_times(STEPS, train_accuracy, validation)
    assert (found.outcome, found.delay) == (outcome, delay)


@given(st.lists(st.sampled_from([0.0, 0.5, 0.95, 1.0]), max_size=30), st.integers(1, 4))
def test_the_first_sustained_step_is_the_least_that_is_so_by_definition(values, in_a_row):
    steps = [7 * (i + 1) for i in range(len(values))]
    wanted = [steps[i] for i in range(len(values) - in_a_row + 1) if all(v >= 0.95 for v in values[i : i + in_a_row])]
    assert first_at(steps, values, 0.95, in_a_row=in_a_row) == (wanted[0] if wanted else None)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        grokking_times([1, 2], [0.5, 0.5], [0.5])


def test_seconds_are_those_of_training_up_to_generalizing():
    found = grokking_summary(STEPS, [1] * 10, [0.0] * 4 + [1.0] * 6, seconds_a_step=0.5)
    assert (found["t_gen"], found["seconds_to_t_gen"]) == (50, 25.0)
    assert grokking_summary([], [], [])["seconds_to_t_gen"] is None


# the published experiments

PUBLISHED = json.loads((Path(__file__).parents[3] / "data" / "experiments-0.1.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_experiment_is_the_configuration_that_its_figures_were_made_with(name, tmp_path):
    """The data are what version 0.1 resolved each experiment to, from settings in Python."""
    config = make_config(task=name)
    assert config == layered(current(PUBLISHED[name]))
    assert config.method.policy == "none"
    assert make_config(task=name, lr=0.5, epochs=3).run.epochs == 3


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_is_a_complete_file(name):
    path = experiments()[name]
    config = read_config(path)
    assert config == make_config(task=name)
    assert path.read_text(encoding="utf-8").partition("[data]")[2] == as_toml(config).partition("[data]")[2]


def test_a_mistyped_experiment_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match="Did you mean 'grokfast-modular"):
        make_config(task="grokfast-modulo")
    with pytest.raises(
        ConfigError, match=r"no task given: .*a published experiment \(`surgecollapse list experiments`\)"
    ):
        make_config()


def test_the_mlp_of_two_one_hots_has_no_biases():
    config = make_config(task="prieto-modular")
    data = load_data(config)
    net = build_model(config, data)
    assert [tuple(p.shape) for p in net.parameters()] == [(200, 226), (200, 200), (113, 200)]
    assert len(data.x_train) == round(0.4 * 113**2)


def test_initial_weights_can_be_scaled():
    config = make_config(task="parity")
    data = load_data(config)
    plain = build_model(config, data)
    scaled = build_model(make_config(task="parity", init_scale=8.0), data)
    for one, two in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(8.0 * one, two)


@pytest.mark.parametrize("loss", ["cross_entropy", "stablemax", "mse"])
@pytest.mark.parametrize(("task", "model"), [("parity", "mlp"), ("modular", "decoder"), ("modular", "transformer")])
def test_double_precision_goes_from_data_to_gradients(task, model, loss):
    config = make_config(
        task=task, model=model, widths=(8, 8), precision="float64", loss=loss, class_weights="balanced",
        **({"modulus": 7} if task == "modular" else {}),
    )  # fmt: skip
    data = load_data(config)
    net = build_model(config, data)
    value = make_loss(config, data)(net(data.x_train[:5]), data.y_train[:5])
    value.backward()
    assert value.dtype == torch.float64
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float64}


def test_division_undoes_multiplication():
    data = modular("div", 11, 0.5, "tokens", 0)
    inputs = torch.cat([data.x_train, data.x_validation, data.x_test])
    answers = torch.cat([data.y_train, data.y_validation, data.y_test])
    x, y = inputs[:, 0], inputs[:, 2]
    assert torch.equal(answers * y % 11, x)
    assert len({(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)}) == 110
    assert int(y.min()) == 1
    with pytest.raises(ConfigError, match=r"needs a prime modulus, .* got 12"):
        modular("div", 12, 0.5, "tokens", 0)


# gradient transforms by option

PARITY = {"task": "parity", "policy": "none", "widths": (16,), "steps": 30, "evaluate_every": 10, "checkpoint_every": 7}
TRANSFORMS = {
    "ema": {"grokfast": "ema", "grokfast_alpha": 0.9, "grokfast_lamb": 1.0},
    "ma": {"grokfast": "ma", "grokfast_window": 5},
    "orthograd": {"orthograd": "rescaled"},
    "both": {"grokfast": "ema", "orthograd": "plain"},
}


def weights(folder, step):
    return torch.load(folder / "checkpoints" / f"step-{step}.pt", weights_only=True)["model"]


def test_options_make_the_transforms_that_they_name():
    found = make_transforms(make_config(**PARITY, **TRANSFORMS["both"]))
    assert [type(item).__name__ for item in found] == ["Grokfast", "OrthoGrad"]
    assert (found[0].alpha, found[0].lamb, found[1].rescale) == (0.98, 2.0, False)
    (window,) = make_transforms(make_config(**PARITY, **TRANSFORMS["ma"]))
    assert (window.window, window.lamb) == (5, 5.0)
    assert make_transforms(make_config(**PARITY)) == []


@pytest.mark.parametrize("policy", ["none", "acdc"])
@pytest.mark.parametrize("options", TRANSFORMS.values(), ids=TRANSFORMS)
def test_runs_with_transforms_resume_bitwise(options, policy, tmp_path):
    config = make_config(**{**PARITY, "policy": policy, "every": 5}, **options)
    train(config, tmp_path / "whole")
    halves = tmp_path / "halves"
    train(config, halves)
    # As if it had been killed after its third checkpoint.
    (halves / "checkpoints" / "step-30.pt").unlink()
    with RunStore(halves / "run.db", mode="a") as store:
        store.set("status", "running")
    train(None, halves, resume=True)
    one, two = weights(tmp_path / "whole", 30), weights(halves, 30)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_with_grokfast_is_the_loop_with_grokfast(tmp_path):
    config = make_config(**PARITY, **TRANSFORMS["ema"], batch_size=0, weight_decay=0.1, warmup=0)
    train(config, tmp_path / "run")
    data = load_data(config)
    net = build_model(config, data)
    optimizer = make_optimizer(config, net)
    surgecollapse.transform_gradients(optimizer, [surgecollapse.Grokfast(0.9, 1.0)])
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.x_train), data.y_train).backward()
        optimizer.step()
    saved = weights(tmp_path / "run", 30)
    assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"grokfast_alpha": 0.5}, "grokfast_alpha = 0.5 has no effect with grokfast = 'none': drop it"),
        ({"grokfast": "ma", "grokfast_alpha": 0.5}, "grokfast_alpha = 0.5 has no effect with grokfast = 'ma'"),
        ({"grokfast": "ema", "grokfast_window": 9}, "grokfast_window = 9 has no effect"),
        ({"grokfast": "emma"}, "unknown grokfast 'emma': expected one of none, ema, ma. Did you mean 'ema'?"),
        (
            {"model": "autoregressive", "bias": False},
            "bias = false has no effect with model = 'autoregressive'",
        ),
        ({"embedding_lr": 2.0}, "embedding_lr = 2.0: model 'mlp' has no embeddings; drop it"),
        (
            {"lr_hold_steps": 9, "schedule": "constant"},
            "lr_hold_steps = 9 has no effect with schedule = 'constant'",
        ),
        ({"position_lr": 2.0}, "position_lr = 2.0: model 'mlp' has no positions; drop it"),
        ({"muon_tokens": True}, "muon_tokens = true has no effect with optimizer = 'adamw': drop it"),
        ({"muon_beta1": 0.5}, "muon_beta1 = 0.5 has no effect with optimizer = 'adamw': drop it"),
        ({"bias": 0}, "bias = 0: expected true or false, got a int"),
        ({"stop_at_accuracy": 1.5}, "stop_at_accuracy = 1.5: input should be less than or equal to 1"),
    ],
)
def test_settings_without_effect_are_refused(values, words):
    with pytest.raises(ConfigError) as caught:
        make_config(task="parity", **values)
    assert words in str(caught.value)


# stopping


def test_a_run_stops_once_its_accuracy_is_sustained_and_says_when(tmp_path):
    config = make_config(
        task="parity", policy="none", noise_bits=2, widths=(64,), lr=1e-2, steps=2_000, evaluate_every=10,
        stop_at_accuracy=0.95,
    )  # fmt: skip
    result = train(config, tmp_path / "run")
    facts = result.summary
    assert result.status == "complete"
    assert facts["reached_goal"]
    assert not facts["stopped_early"]
    assert facts["steps"] < 2_000
    times = facts["grokking"]
    assert times["t_gen_sustained"] == facts["steps"] - 20, "three evaluations on end, the last of them the final step"
    assert times["outcome"] in ("grokked", "at once")
    assert 0 < times["seconds_to_t_gen"] <= facts["seconds"]


def test_every_new_key_is_a_flag():
    from surgecollapse.cli.app import app

    line = "run grokfast-modular --grokfast ma --grokfast-window 9 --no-bias --init-scale 2 --stop-at-accuracy 0.9"
    _, bound, _ = app.parse_args(line.split(), exit_on_error=False, print_error=False)
    flags = bound.arguments["flags"]
    assert (flags.grokfast, flags.grokfast_window, flags.bias, flags.init_scale) == ("ma", 9, False, 2.0)
    assert set(type(flags).model_fields) == set(KEYS) - {"task"}


# Muon


def test_orthogonalized_matrices_have_singular_values_near_one():
    for shape in ((8, 8), (5, 20), (20, 5)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        singular = torch.linalg.svdvals(orthogonalized(matrix))
        assert 0.6 < singular.min() <= singular.max() < 1.3
    assert torch.equal(orthogonalized(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_muon_is_torchs_with_the_rate_in_adams_units():
    matrix = nn.Parameter(torch.randn(6, 12, generator=torch.Generator().manual_seed(1)))
    other = nn.Parameter(matrix.detach().clone())
    ours = Muon([matrix], [], lr=0.01, weight_decay=0.5, momentum=0.9)
    torchs = torch.optim.Muon(
        [other], lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw", nesterov=True
    )
    for step in range(5):
        gradient = torch.randn(6, 12, generator=torch.Generator().manual_seed(step + 2))
        matrix.grad, other.grad = gradient.clone(), gradient.clone()
        ours.step()
        torchs.step()
    moved = (matrix.detach() - other.detach()).norm() / other.detach().norm()
    assert moved < 0.02, "torch's orthogonalizes in bfloat16, and its momentum is (1 − β) times ours"


def test_what_is_no_matrix_moves_as_adamw_does():
    one = nn.Parameter(torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    two = nn.Parameter(one.detach().clone())
    ours = Muon([], [one], lr=0.01, weight_decay=0.5, betas=(0.9, 0.95))
    torchs = torch.optim.AdamW([two], lr=0.01, weight_decay=0.5, betas=(0.9, 0.95))
    for step in range(10):
        one.grad = torch.randn(9, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        two.grad = one.grad.clone()
        ours.step()
        torchs.step()
    assert torch.allclose(one, two, rtol=1e-12)
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(9,\)"):
        Muon([one], [], lr=0.1, weight_decay=0.0)


def test_muon_takes_the_hidden_matrices_and_no_embedding_nor_output():
    config = make_config(task="grokfast-modular-muon", modulus=7, widths=(8, 16), embedding_lr=2.0, embedding_scale=0.1)
    data = load_data(config)
    net = build_model(config, data)
    optimizer = make_optimizer(config, net)
    names = {id(p): name for name, p in net.named_parameters()}
    by_muon, output, vectors, tables = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert len(by_muon) == 8
    assert all(name.startswith("blocks") and "weight" in name for name in by_muon)
    assert tables == ["tokens.weight", "positions.weight"]
    assert output == ["head.weight"]
    assert all("bias" in name or "norm" in name for name in vectors)
    assert [group["factor"] for group in optimizer.param_groups] == [1.0, 1.0, 1.0, 2.0]
    plain = build_model(make_config(task="grokfast-modular-muon", modulus=7, widths=(8, 16)), data)
    assert torch.equal(net.tokens.weight, 0.1 * plain.tokens.weight)
    assert torch.equal(net.head.weight, plain.head.weight)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_the_table_of_positions_can_have_a_scale_and_a_rate_of_its_own(optimizer):
    size = {"modulus": 7, "widths": (8, 16), "optimizer": optimizer}
    own = make_config(task="grokfast-modular", **size, embedding_scale=0.5, position_scale=0.1, position_lr=0.25)
    both = make_config(task="grokfast-modular", **size, embedding_scale=0.5)
    data = load_data(own)
    net, plain = build_model(own, data), build_model(both, data)
    assert torch.equal(net.positions.weight, 0.1 * plain.positions.weight)
    assert torch.equal(net.tokens.weight, plain.tokens.weight)
    groups = make_optimizer(own, net).param_groups
    factors = {id(p): group["factor"] for group in groups for p in group["params"]}
    assert sorted(factors) == sorted(id(p) for p in net.parameters())
    assert [p is net.positions.weight for p in net.parameters() if factors[id(p)] == 0.25] == [True]
    assert set(factors.values()) == {0.25, 1.0}


def test_muon_can_move_the_table_of_tokens_orthogonally_with_its_own_rate():
    config = make_config(
        task="grokfast-modular-muon", modulus=7, widths=(8, 16), embedding_lr=2.0, muon_tokens=True, muon_beta1=0.7,
        muon_lr=0.5, decay_vectors=False,
    )  # fmt: skip
    net = build_model(config, load_data(config))
    optimizer = make_optimizer(config, net)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.7, 0.95)}
    matrices, output, vectors, positions, tokens = optimizer.param_groups
    assert [group["factor"] for group in optimizer.param_groups] == [0.5, 1.0, 1.0, 2.0, 2.0]
    assert (vectors["weight_decay"], output["weight_decay"], matrices["weight_decay"]) == (0.0, 2.0, 2.0)
    assert [positions["kind"], tokens["kind"]] == ["adamw", "muon"]
    assert [p is net.tokens.weight for p in tokens["params"]] == [True]
    tokens["lr"], tokens["weight_decay"] = 0.25, 0.0
    before = net.tokens.weight.detach().clone()
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    optimizer.step()
    singular = torch.linalg.svdvals((net.tokens.weight - before) / (0.25 * 9**0.5))
    assert 0.6 < singular.min() < singular.max() < 1.3
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(8,\)"):
        Muon([], [{"params": [net.norm.weight], "kind": "muon"}], lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_embeddings_can_have_a_rate_of_their_own_and_resume_bitwise(optimizer, tmp_path):
    config = make_config(
        task="grokfast-modular", modulus=7, widths=(8, 16), optimizer=optimizer, embedding_lr=2.0, steps=12,
        evaluate_every=6, checkpoint_every=5, batch_size=8,
    )  # fmt: skip
    train(config, tmp_path / "whole")
    halves = tmp_path / "halves"
    train(config, halves)
    (halves / "checkpoints" / "step-12.pt").unlink()
    with RunStore(halves / "run.db", mode="a") as store:
        store.set("status", "running")
    train(None, halves, resume=True)
    one, two = weights(tmp_path / "whole", 12), weights(halves, 12)
    assert all(torch.equal(one[name], two[name]) for name in one)
    state = torch.load(halves / "checkpoints" / "step-12.pt", weights_only=True)["optimizer"]
    rates = sorted(group["lr"] for group in state["param_groups"])
    assert rates[-1] == pytest.approx(2 * rates[0])


def test_muon_behind_orthograd_learns_parity_in_a_few_steps_and_generalizes_while_it_fits(tmp_path):
    config = make_config(task="prieto-parity-record", evaluate_every=10, steps=60, stop_at_accuracy=None)
    grokking = train(config, tmp_path / "run").summary["grokking"]
    assert grokking["t_gen"] is not None  # 25 at most on ten seeds; ⊥AdamW needs 2,800
    assert grokking["t_gen"] <= 50
    assert grokking["outcome"] == "at once"
