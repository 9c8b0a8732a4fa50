"""What optimizers remember of weights that were pruned or reopened: by shape, in every layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from surgecollapse.act.optimizer_state import (
    forget,
    moment_tensors,
    momentum_of,
)


class Lion(Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675), with its state under other names."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            slow, fast = group["betas"][1], group["betas"][0]
            for p in group["params"]:
                momentum = self.state[p].setdefault("running", torch.zeros_like(p))
                p.sub_(group["lr"] * momentum.lerp(p.grad, 1 - fast).sign())
                momentum.lerp_(p.grad, 1 - slow)
                self.state[p]["count"] = self.state[p].get("count", 0) + 1


class Factored(Optimizer):
    """Row and column sums instead of second moments, as Adafactor."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row_var"] = p.grad.square().mean(1, keepdim=True)
                self.state[p]["col_var"] = p.grad.square().mean(0, keepdim=True)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd without momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "rmsprop centered": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "lion": lambda p: Lion(p, lr=0.1),
}
SECOND = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf"}
PRUNED, REOPENED, STAYED, CLOSED = (0, 0), (0, 1), ((0, 2), (0, 3), (1, 0)), (1, 1)


def trained(name, steps=4):
    """A (2, 4) weight after some steps, of which (0, 0) was pruned just now and (0, 1) reopened."""
    p = nn.Parameter(torch.arange(8.0).reshape(2, 4))
    optimizer = OPTIMIZERS[name]([nn.Parameter(torch.ones(1)), p])
    for step in range(steps):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
        p.grad = torch.arange(1.0, 9.0).reshape(2, 4) * (1 + step)
        optimizer.step()
    flipped, live = torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    flipped[PRUNED] = flipped[REOPENED] = True
    live[PRUNED] = live[CLOSED] = False
    before = {key: tensor.clone() for key, tensor in moment_tensors(optimizer, p).items()}
    return optimizer, p, flipped, live, before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keep_touches_nothing(name):
    optimizer, p, flipped, live, before = trained(name)
    forget(optimizer, p, flipped, live, "keep")
    assert all(torch.equal(tensor, before[key]) for key, tensor in moment_tensors(optimizer, p).items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reset_zeroes_exactly_what_flipped(name):
    optimizer, p, flipped, live, before = trained(name)
    assert before or name == "sgd without momentum"
    forget(optimizer, p, flipped, live, "reset")
    for key, tensor in moment_tensors(optimizer, p).items():
        assert torch.equal(tensor[~flipped], before[key][~flipped]), key
        expected = 0.1 if key == "step_size" else 0.0  # a zero step size would hold the weight for ever
        assert tensor[flipped].tolist() == pytest.approx([expected, expected]), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_warmup_gives_reopened_weights_the_mean_second_moment_of_those_that_stayed(name):
    optimizer, p, flipped, live, before = trained(name)
    forget(optimizer, p, flipped, live, "warmup")
    for key, tensor in moment_tensors(optimizer, p).items():
        stayed = live & ~flipped
        mean = before[key][stayed].mean()
        assert torch.equal(tensor[~flipped], before[key][~flipped]), key
        if key in SECOND:
            assert tensor[PRUNED] == 0.0
            assert tensor[REOPENED].item() == pytest.approx(mean.item(), rel=1e-5)
        elif key != "step_size":
            assert tensor[PRUNED] == tensor[REOPENED] == 0.0


def test_step_counts_and_scalars_are_passed_over():
    optimizer, p, *_ = trained("adam")
    assert sorted(moment_tensors(optimizer, p)) == ["exp_avg", "exp_avg_sq"]
    assert sorted(moment_tensors(*trained("lion")[:2])) == ["running"]
    assert optimizer.state[p]["step"].item() == 4


def test_a_parameter_that_never_stepped_has_nothing_to_forget():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.Adam([p])
    forget(optimizer, p, torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool), "warmup")
    assert p not in optimizer.state


def test_a_layout_that_fits_no_weight_is_refused_with_the_way_out():
    p = nn.Parameter(torch.ones(3, 4))
    optimizer = Factored([p])
    p.grad = torch.ones(3, 4)
    optimizer.step()
    yes = torch.ones(3, 4, dtype=torch.bool)
    for mode in ("reset", "warmup"):
        with pytest.raises(
            ValueError, match=r"Factored keeps 'row_var' of shape \(3, 1\).*\(3, 4\).*optimizer_state='keep'"
        ):
            forget(optimizer, p, yes, yes, mode)
    forget(optimizer, p, yes, yes, "keep")
    optimizer.state[p].clear()
    optimizer.state[p]["factors"] = [torch.ones(3, 3), torch.ones(4, 4)]  # as Shampoo
    with pytest.raises(ValueError, match="'factors' of type list"):
        forget(optimizer, p, yes, yes)


def first_step(mode: str, beta2: float = 0.999) -> float:
    """Learning rates that Adam moves a reopened weight by in its first step, long after the run's start."""
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = torch.optim.Adam([p], lr=1.0, betas=(0.9, beta2), eps=1e-12)
    p.grad = torch.ones(2, 2, dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[p]  # of gradients of 1 ever since
    state["step"].fill_(1e6)
    state["exp_avg"].fill_(1.0)
    state["exp_avg_sq"].fill_(1.0)
    flipped = torch.zeros(2, 2, dtype=torch.bool)
    flipped[0, 0] = True
    forget(optimizer, p, flipped, torch.ones(2, 2, dtype=torch.bool), mode)
    before = p.detach().clone()
    p.grad = torch.ones(2, 2, dtype=torch.float64)
    optimizer.step()
    moved = before - p.detach()
    assert moved[1, 1].item() == pytest.approx(1.0, rel=1e-3)  # its neighbors step as ever
    return moved[0, 0].item()


def test_adams_first_step_after_reset_is_the_kick_that_the_formula_says_and_warmup_has_none():
    assert first_step("reset") == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-3)  # (1 − β₁)/√(1 − β₂) = 3.16
    assert first_step("warmup") == pytest.approx(0.1, rel=1e-3)  # (1 − β₁)·g/√v with v = g²
    assert first_step("keep") == pytest.approx(1.0, rel=1e-3)


def test_momentum_is_read_from_the_group_that_owns_the_parameter():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([{"params": [a], "momentum": 0.5}, {"params": [b]}], lr=0.1)
    assert (momentum_of(sgd, a), momentum_of(sgd, b)) == (0.5, 0.9)
    assert momentum_of(torch.optim.AdamW([a], betas=(0.8, 0.99)), a) == 0.8
    with pytest.raises(KeyError, match="does not own"):
        momentum_of(sgd, nn.Parameter(torch.ones(2)))
