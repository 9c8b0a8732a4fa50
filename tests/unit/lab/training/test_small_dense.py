"""Widths of a dense network that has as many weights as a sparse one."""

from __future__ import annotations

import pytest
import torch

import surgecollapse as sc
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.small_dense import open_parameters, parameters_of, with_small_widths

NETS = [
    {"task": "digits", "widths": (64, 48)},
    {"task": "digits", "model": "cnn", "widths": (16, 32)},
    {"task": "modular", "model": "transformer", "widths": (64, 128)},
    {"task": "modular", "model": "decoder", "widths": (64,)},
]


def sections(settings, sparsity):
    config = make_config(**settings, policy="none", shrink_to_sparsity=sparsity)
    return config.model, config.model.model_copy(update={"shrink_to_sparsity": 0.0}), load_data(config), config


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("settings", NETS, ids=lambda net: net.get("model", "mlp"))
def test_it_has_as_many_weights_as_the_sparse_one_has_open(settings, sparsity):
    section, plain, data, config = sections(settings, sparsity)
    small = with_small_widths(section, data)
    model = build_model(make_config(**settings), data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    controller = sc.attach(model, optimizer, sparsity, policy="no_op")
    model(data.x_train[:4]).sum().backward()
    optimizer.step()
    prunable = sum(mask.numel() for mask in controller.masks.values())
    budget = sum(p.numel() for p in model.parameters()) - prunable + sc.functional.kept(prunable, sparsity)
    assert open_parameters(plain, data, sparsity) == budget
    found = sum(p.numel() for p in build_model(config, data).parameters())
    assert found == parameters_of(small, data) <= budget
    assert small.widths[0] % small.width_multiple == 0
    for place in range(len(small.widths)):
        step = small.width_multiple if place == 0 else 1
        wider = tuple(width + step * (place == other) for other, width in enumerate(small.widths))
        too_large = parameters_of(small.model_copy(update={"widths": wider}), data) > budget
        assert too_large or wider[place] > plain.widths[place]


def test_counting_leaves_the_random_state_and_the_first_weights_alone():
    section, _, data, config = sections(NETS[0], 0.9)
    before = torch.get_rng_state()
    with_small_widths(section, data)
    assert torch.equal(before, torch.get_rng_state())
    first, second = build_model(config, data), build_model(config, data)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_cannot_be_that_small_is_said():
    section, _, data, _ = sections({"task": "digits", "widths": (1, 1)}, 0.9)
    with pytest.raises(ConfigError, match=r"no mlp with 2 widths is as small as the sparse one at 0\.9"):
        with_small_widths(section, data)


def test_costs_are_relative_to_the_network_before(tmp_path):
    settings = {"task": "digits", "widths": (64, 64), "steps": 2, "policy": "none"}
    result = train(make_config(**settings, shrink_to_sparsity=0.9), tmp_path / "run")
    plain, small = 64 * 64 + 64 * 64, result.summary["parameters"]
    h1, h2 = 17, 17
    assert small == 64 * h1 + h1 + h1 * h2 + h2 + 10 * h2 + 10
    weights = 64 * h1 + h1 * h2
    assert result.summary["mean_density"] == pytest.approx(weights / plain)
    share = (weights + 10 * h2) / (plain + 10 * 64)
    assert result.summary["flops_training"] == pytest.approx(share)
    assert result.summary["flops_inference"] == pytest.approx(share)
