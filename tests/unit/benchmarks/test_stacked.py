"""Stacked runs: each is the run that it would be alone, to float rounding."""

from __future__ import annotations

import pytest
import torch
from grokking_bank import stacked
from grokking_bank.stacked import train_stacked

from surgecollapse.lab.config import ConfigError, as_mapping, layered, make_config
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

SMALL = {"modulus": 7, "widths": (24, 24), "steps": 60, "evaluate_every": 20, "precision": "float64"}
BITS = {"noise_bits": 5, "widths": (16, 16), "steps": 60, "evaluate_every": 20, "precision": "float64"}
SETTINGS = {
    "pairs": {"task": "prieto-modular", **SMALL},
    "pairs with biases": {"task": "prieto-modular", "bias": True, **SMALL},
    "product": {"task": "prieto-modular", "operation": "mul", **SMALL},
    "orthosgd": {"task": "prieto-modular-orthosgd", **SMALL, "lr": 1.0},
    "parity": {"task": "prieto-parity-stablemax", **BITS},
    "parity, ⊥AdamW": {"task": "prieto-parity-orthograd", **BITS},
    "batches, EMA": {"task": "parity", "policy": "none", "batch_size": 300, "grokfast": "ema", **BITS},
    "squared, MA": {"task": "parity", "policy": "none", "loss": "mse", "grokfast": "ma", "grokfast_window": 5, **BITS},
    "embeddings": {"task": "nanda-modular", **SMALL, "widths": (16, 32), "embedding_lr": 2.0, "embedding_scale": 0.5},
}


def runs_of(values, seeds=(0, 3, 4)):
    return [make_config(**values, seed=seed) for seed in seeds]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_run_of_a_stack_is_the_run_that_it_would_be_alone(name, tmp_path):
    configs = runs_of(SETTINGS[name])
    for run, config in zip(train_stacked(configs), configs, strict=True):
        alone = train(config, tmp_path / str(config.run.seed))
        with RunStore(tmp_path / str(config.run.seed) / "run.db") as store:
            for series, found in (
                ("accuracy/train", run.accuracy_train),
                ("accuracy/validation", run.accuracy_validation),
                ("loss/validation", run.loss_validation),
            ):
                measured = store.measurements(series)
                assert run.steps == measured.steps.tolist()
                assert found == pytest.approx(measured.values.tolist(), rel=1e-6, abs=1e-9), series
        assert run.loss == pytest.approx(alone.summary["loss"], rel=1e-6)
        assert run.accuracy == pytest.approx(alone.summary["accuracy"])
        assert len(set(run.loss_validation)) == len(run.steps), "nothing moved"


def test_a_run_that_reaches_its_goal_leaves_and_the_others_go_on_as_if_it_stood_beside_them(monkeypatch):
    values = {**SETTINGS["batches, EMA"], "orthograd": "rescaled", "noise_bits": 1, "lr": 1e-2, "stop_at_accuracy": 0.8}
    values |= {"evaluate_every": 2}
    configs = runs_of(values)
    sizes = []
    step = stacked._Stack.train_step

    def counted(stack):
        sizes.append(len(stack.runs))
        step(stack)

    monkeypatch.setattr(stacked._Stack, "train_step", counted)
    together = train_stacked(configs)
    assert sizes[0] == 3
    assert sizes[-1] < 3, "no run was over before the others"
    for run, config in zip(together, configs, strict=True):
        (alone,) = train_stacked([config])
        assert (run.steps, run.reached_goal) == (alone.steps, alone.reached_goal)
        assert run.loss_validation == pytest.approx(alone.loss_validation, rel=1e-6)


def test_a_run_that_diverges_leaves_the_others_alone(monkeypatch):
    configs = runs_of({**SETTINGS["parity, ⊥AdamW"], "grokfast": "ema"})
    build = stacked.build_model

    def spoiled(config, data):
        net = build(config, data)
        if config.run.seed == 3:
            torch.nn.init.constant_(net.head.weight, float("inf"))
        return net

    expected = train_stacked([configs[0], configs[2]])
    monkeypatch.setattr(stacked, "build_model", spoiled)
    first, lost, last = train_stacked(configs)
    assert lost.loss_validation[-1] != lost.loss_validation[-1]
    assert first.loss_validation == pytest.approx(expected[0].loss_validation)
    assert last.loss_validation == pytest.approx(expected[1].loss_validation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.1}, "dropout = 0.1 cannot be stacked: expected 0.0"),
        ({"clip": 1.0}, "clip"),
        ({"policy": "acdc"}, "policy"),
        ({"optimizer": "muon"}, "muon"),
        ({"class_weights": "balanced"}, "class_weights"),
        ({"ema_decay": 0.5}, "ema_decay"),
        ({"max_row_norm": 1.0}, "max_row_norm"),
        ({"sam_rho": 0.05}, "sam_rho"),
        ({"equalize_spectrum": True}, "equalize_spectrum"),
    ],
)
def test_what_cannot_be_stacked_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        train_stacked(runs_of({**SETTINGS["parity"], **change}))


def test_runs_that_differ_in_more_than_their_seed_are_refused():
    one = make_config(**SETTINGS["parity"])
    with pytest.raises(ConfigError, match="seed alone"):
        train_stacked([one, layered(as_mapping(one), {"lr": 1.0})])
    with pytest.raises(ConfigError, match="no runs"):
        train_stacked([])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    train_stacked(runs_of({**SETTINGS["parity"], "steps": 2}))
    assert torch.equal(torch.get_rng_state(), before)
