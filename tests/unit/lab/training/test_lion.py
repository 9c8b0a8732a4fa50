"""Lion and the keys of Clip to Grok and of egalitarian gradient descent in a configuration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rounding import unit
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.attachments import attached_to
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.lion import Lion
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import bounded_rows, equalized, make_optimizer, make_transforms

TINY = {"task": "modular", "model": "decoder", "modulus": 7, "widths": (8, 16), "policy": "none"}


def gradients(step: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_algorithm_2_step_by_step(decay):
    weight = nn.Parameter(gradients(100))
    optimizer = Lion([weight], lr=0.01, betas=(0.9, 0.99), weight_decay=decay)
    w, m = weight.detach().double(), torch.zeros(4, 3, dtype=torch.float64)
    for step in range(20):
        g = gradients(step)
        weight.grad = g.clone()
        optimizer.step()
        assert torch.equal(weight.grad, g)
        g = g.double()
        w = w - 0.01 * ((0.9 * m + 0.1 * g).sign() + decay * w)
        m = 0.99 * m + 0.01 * g
    # Three roundings a step, of numbers below 4.
    torch.testing.assert_close(weight.detach().double(), w, rtol=0, atol=20 * 3 * 4 * unit(torch.float32))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_it_goes_on_bitwise_from_its_state(set_to_none):
    def trained(weight, optimizer, steps):
        for step in steps:
            optimizer.zero_grad(set_to_none=set_to_none)
            (weight * gradients(step)).sum().backward()
            optimizer.step()

    whole = nn.Parameter(gradients(100))
    trained(whole, Lion([whole], lr=0.01), range(8))
    first = nn.Parameter(gradients(100))
    before = Lion([first], lr=0.01)
    trained(first, before, range(4))
    state = copy.deepcopy(before.state_dict())
    trained(first, before, range(4, 6))  # what the first does later does not reach the state that was taken
    second = nn.Parameter(gradients(100))
    trained(second, Lion([second], lr=0.01), range(4))
    after = Lion([second], lr=0.01)
    after.load_state_dict(state)
    trained(second, after, range(4, 8))
    assert torch.equal(whole, second)


def test_a_closure_is_called_once_and_its_loss_returned():
    weight, calls = nn.Parameter(torch.ones(2)), []

    def closure():
        calls.append(1)
        weight.grad = torch.ones(2)
        return 3.0

    assert Lion([weight], lr=0.5).step(closure) == 3.0
    assert (calls, weight.tolist()) == ([1], [0.5, 0.5])


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": 0.1, "betas": (0.9, 1.0)}, {"lr": 0.1, "weight_decay": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\)"):
        Lion([nn.Parameter(torch.ones(1))], **wrong)


def test_a_configuration_makes_it_with_its_betas():
    config = make_config(**TINY, optimizer="lion", momentum=0.9, beta2=0.97, lr=1e-3, weight_decay=0.5)
    optimizer = make_optimizer(config, build_model(config, load_data(config)))
    assert isinstance(optimizer, Lion)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.97), 0.5)


def test_its_preset_has_the_authors_betas_and_a_smaller_rate():
    config = make_config(**TINY, optimizer="lion")
    assert (config.optimizer.momentum, config.optimizer.beta2) == (0.9, 0.99)
    assert config.optimizer.lr < make_config(**TINY, optimizer="adamw").optimizer.lr


def test_rows_of_the_first_weights_have_the_norm_and_biases_stay_zero():
    config = make_config(**TINY, init_row_norm=1.5)
    for name, weight in build_model(config, load_data(config)).named_parameters():
        norms = weight.detach().norm(dim=-1)
        wanted = torch.where(norms > 0, 1.5, 0.0)
        torch.testing.assert_close(norms, wanted, rtol=1e-5, atol=0, msg=name)


def test_row_norms_are_bounded_but_for_tokens_and_head():
    config = make_config(**TINY, max_row_norm=0.25, optimizer="lion")
    data = load_data(config)
    model = build_model(config, data)
    optimizer = make_optimizer(config, model)
    attached = attached_to(
        model, optimizer, config, total_steps=5, criterion=nn.functional.cross_entropy, recorder=_Nothing()
    )
    nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
    optimizer.step()
    attached.remove()
    bounded = bounded_rows(model)
    assert max(p.detach().norm(dim=-1).max().item() for p in bounded) <= 0.25 * (1 + 1e-5)
    free = [model.tokens.weight, model.head.weight]
    assert len(bounded) == len(list(model.parameters())) - len(free)
    assert all(p.detach().norm(dim=-1).max().item() > 0.3 for p in free)


def test_the_spectrum_is_equalized_after_the_other_transforms():
    config = make_config(**TINY, grokfast="ema", orthograd="plain", equalize_spectrum=True)
    names = [type(transform).__name__ for transform in make_transforms(config)]
    assert names == ["Grokfast", "OrthoGrad", "EqualizeSpectrum"]


def test_the_spectrum_is_equalized_in_the_mlps_of_a_transformer_and_in_all_matrices_of_an_mlp():
    config = make_config(**TINY, equalize_spectrum=True)
    data = load_data(config)
    model = build_model(config, data)
    names = {name for name, p in model.named_parameters() if any(p is chosen for chosen in equalized(model))}
    assert names == {f"blocks.{i}.mlp.{j}.weight" for i in (0, 1) for j in (0, 2)}
    nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    (transform,) = make_transforms(config, model)
    transform(list(model.parameters()), [p.grad for p in model.parameters()])
    assert {name for name, p in model.named_parameters() if not torch.equal(p.grad, before[name])} == names
    perceptron = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [tuple(p.shape) for p in equalized(perceptron)] == [(4, 3), (2, 4)]


@pytest.mark.parametrize("key", ["max_row_norm", "init_row_norm", "temperature"])
def test_norms_must_be_positive(key):
    with pytest.raises(ConfigError, match=key):
        make_config(**TINY, **{key: 0.0})


class _Nothing:
    def record(self, event):
        pass
