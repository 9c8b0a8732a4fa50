"""Averaged weights: their closed form, what they leave alone, masks, checkpoints."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import surgecollapse


def net(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return made


def steps(model, optimizer, count: int, first: int = 0, after=lambda: None) -> None:
    for i in range(first, first + count):
        generator = torch.Generator().manual_seed(100 + i)
        x, y = torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        after()


def test_the_average_is_the_direct_sum_in_float64():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    averaged, history = surgecollapse.average_weights(model, optimizer, decay=0.8), []
    steps(model, optimizer, 40, after=lambda: history.append(model[3].weight.detach().double().clone()))
    weights = [0.8**39] + [0.2 * 0.8 ** (39 - i) for i in range(1, 40)]
    assert sum(weights) == pytest.approx(1)
    direct = sum(w * theta for w, theta in zip(weights, history, strict=True))
    torch.testing.assert_close(averaged.average["3.weight"].double(), direct, rtol=0, atol=1e-6)
    assert averaged.steps == 40


def test_training_is_bitwise_the_same_with_an_average_that_is_evaluated_in_between():
    plain, watched = net(), net()
    steps(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2), 30)
    optimizer = torch.optim.AdamW(watched.parameters(), lr=1e-2)
    averaged = surgecollapse.average_weights(watched, optimizer, decay=0.9)

    def look():
        with averaged.applied():
            watched.eval()(torch.ones(2, 6))
            watched.train()

    steps(watched, optimizer, 30, after=look)
    for name, x in plain.state_dict().items():
        assert torch.equal(x, watched.state_dict()[name]), name


def test_inside_the_block_the_model_has_the_average_and_after_an_error_its_own_weights():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = surgecollapse.average_weights(model, optimizer, decay=0.9)
    steps(model, optimizer, 10)
    before = copy.deepcopy(model.state_dict())
    with averaged.applied():
        for name, x in averaged.average.items():
            assert torch.equal(model.state_dict()[name], x), name
        assert not torch.equal(model[0].weight, before["0.weight"])
        assert not torch.equal(model[1].running_mean, before["1.running_mean"]), "buffers are averaged, too"
    with pytest.raises(RuntimeError, match="shape"), averaged.applied():
        model(torch.ones(2, 7))
    for name, x in before.items():
        assert torch.equal(model.state_dict()[name], x), name


def test_before_the_first_step_there_is_no_average_to_apply():
    model = net()
    averaged = surgecollapse.average_weights(model, torch.optim.SGD(model.parameters(), lr=0.1), decay=0.9)
    with averaged.applied():
        assert torch.equal(model[0].weight, net()[0].weight)


@pytest.mark.parametrize("policy", ["entropy_cycles", "acdc"])
def test_the_average_of_a_pruned_net_is_as_sparse_as_its_mask_at_every_step_and_at_the_end(policy):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=surgecollapse.Target(0.7, min_density=0.01),
        total_steps=80,
        policy=policy,
        readings=surgecollapse.Readings(every=5),
    )
    averaged, sparse = surgecollapse.average_weights(model, optimizer, decay=0.9, controller=controller), []

    def check():
        masks, average = controller.masks, averaged.average
        sparse.append(controller.sparsity)
        for name, mask in masks.items():
            assert not average[name][~mask].any(), name

    steps(model, optimizer, 80, after=check)
    assert max(sparse) >= 0.69
    assert min(sparse) == 0
    controller.finalize()
    averaged.apply()
    for name, mask in controller.masks.items():
        assert not dict(model.named_parameters())[name][~mask].any(), name
    closed = sum(int((~mask).sum()) for mask in controller.masks.values())
    total = sum(mask.numel() for mask in controller.masks.values())
    assert closed == total - round(0.3 * total)


def test_an_average_beside_masks_that_it_does_not_know_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000),
        pytest.raises(ValueError, match="pass controller="),
    ):
        surgecollapse.average_weights(model, optimizer, decay=0.9)


def test_a_resumed_average_is_bitwise_the_uninterrupted_one(tmp_path):
    whole = net()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    wanted = surgecollapse.average_weights(whole, optimizer, decay=0.9)
    steps(whole, optimizer, 30)

    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    averaged = surgecollapse.average_weights(model, optimizer, decay=0.9)
    steps(model, optimizer, 13)
    torch.save([model.state_dict(), optimizer.state_dict(), averaged.state_dict()], tmp_path / "state.pt")
    model = net(seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    averaged = surgecollapse.average_weights(model, optimizer, decay=0.9)
    for part, state in zip(
        (model, optimizer, averaged), torch.load(tmp_path / "state.pt", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    steps(model, optimizer, 17, first=13)
    assert averaged.steps == wanted.steps == 30
    for name, x in wanted.average.items():
        assert torch.equal(averaged.average[name], x), name


def test_a_saved_average_of_another_model_is_refused_by_name():
    model = net()
    averaged = surgecollapse.average_weights(model, torch.optim.SGD(model.parameters(), lr=0.1), decay=0.9)
    state = averaged.state_dict()
    del state["average"]["3.weight"]
    with pytest.raises(ValueError, match=r"another model.*'3\.weight'"):
        averaged.load_state_dict(state)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    model = net()
    with pytest.raises(ValueError, match="decay must be above 0 and below 1"):
        surgecollapse.average_weights(model, torch.optim.SGD(model.parameters(), lr=0.1), decay=decay)


def test_removed_it_averages_no_more():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgecollapse.average_weights(model, optimizer, decay=0.9) as averaged:
        steps(model, optimizer, 3)
    kept = averaged.average
    steps(model, optimizer, 3)
    assert averaged.steps == 3
    assert torch.equal(averaged.average["0.weight"], kept["0.weight"])


def test_a_step_that_overflowed_does_not_enter_the_average():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    averaged = surgecollapse.average_weights(model, optimizer, decay=0.9)
    steps(model, optimizer, 2)
    optimizer.found_inf = torch.tensor(1.0)  # what GradScaler leaves for a fused step that is to change nothing
    steps(model, optimizer, 1)
    assert averaged.steps == 2
