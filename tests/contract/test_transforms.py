"""Gradient transforms on any optimizer: declared order, scaling, closures, accumulation, together with masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.events import Decision, Prune
from surgecollapse.gradients.chain import TransformChain


class Times:
    """Multiplies every gradient and counts its calls: the smallest stateful transform."""

    def __init__(self, factor: float = 2.0, stage: str = "filter") -> None:
        self.factor, self.stage, self.calls, self.seen = factor, stage, 0, []

    def __call__(self, params, grads):
        self.calls += 1
        self.seen.append([g.clone() for g in grads])
        torch._foreach_mul_(grads, self.factor)

    def state_dict(self, params):
        return {"calls": self.calls}

    def load_state_dict(self, state, params):
        self.calls = state["calls"]


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 2


def loss_of(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(X), Y)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(transforms, *, steps=5, closure=False, lr=0.1):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    handle = surgecollapse.transform_gradients(optimizer, transforms)
    for _ in range(steps):

        def compute():
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        if closure:
            optimizer.step(compute)
        else:
            compute()
            optimizer.step()
    return model, handle


def test_a_factor_on_the_gradient_is_a_factor_on_the_learning_rate():
    assert torch.allclose(weights(trained([Times(2.0)])[0]), weights(trained([], lr=0.2)[0]), atol=1e-6)


def test_no_transform_is_bitwise_the_untouched_optimizer():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert torch.equal(weights(model), weights(trained([])[0]))


def test_closures_are_transformed_once_after_their_backward():
    transform = Times()
    by_closure, _ = trained([transform], closure=True)
    assert transform.calls == 5
    assert torch.equal(weights(by_closure), weights(trained([Times()])[0]))


def test_removing_the_handle_gives_the_optimizer_back():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    surgecollapse.transform_gradients(optimizer, [Times()]).remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_are_seen_unscaled_and_overflows_not_at_all(fused):
    model, transform = net(), Times(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    surgecollapse.transform_gradients(optimizer, [transform])
    for i in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model) * (float("inf") if i == 2 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    loss_of(model).backward()
    assert transform.calls == 3
    for seen in transform.seen:
        for grad, p in zip(seen, model.parameters(), strict=True):
            assert torch.allclose(grad, p.grad, atol=1e-6)


def test_accumulated_micro_batches_are_transformed_once():
    model, transform = net(), Times()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.transform_gradients(optimizer, [transform])
    for _ in range(3):
        loss_of(model).backward()
    optimizer.step()
    assert transform.calls == 1


def test_the_declared_order_is_enforced():
    TransformChain([Times(stage="filter"), Times(stage="project"), Times(stage="clip")])
    with pytest.raises(ValueError, match=r"filter → project → clip.*Times \(project\), Times \(filter\)"):
        TransformChain([Times(stage="project"), Times(stage="filter")])
    with pytest.raises(ValueError, match="has the stage 'last'"):
        TransformChain([Times(stage="last")])
    with pytest.raises(TypeError, match="a gradient transform needs stage"):
        TransformChain([lambda params, grads: None])


def test_the_declared_order_holds_over_several_calls():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = surgecollapse.transform_gradients(optimizer, [Times(stage="project")])
    refused = r"Times \(filter\) would act after Times \(project\).*in one call"
    with pytest.raises(ValueError, match=refused):
        surgecollapse.transform_gradients(optimizer, [Times(stage="filter")])
    with pytest.raises(ValueError, match=refused):
        surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=100, transforms=[Times(stage="filter")])
    surgecollapse.transform_gradients(optimizer, [Times(stage="project"), Times(stage="clip")]).remove()
    first.remove()
    surgecollapse.transform_gradients(optimizer, [Times(stage="filter")])
    loss_of(model).backward()
    optimizer.step()


class Shard(torch.Tensor):
    """What a distributed tensor shows of itself."""

    def to_local(self):
        return self


def test_sharded_gradients_are_refused_where_a_transform_needs_the_whole_matrix():
    with pytest.raises(TypeError, match="whole gradients"):
        surgecollapse.EqualizeSpectrum()([torch.zeros(3, 2)], [torch.ones(3, 2).as_subclass(Shard)])


def test_transforms_after_masking_are_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000)
    with pytest.raises(ValueError, match=r"attach\(\.\.\., transforms="):
        surgecollapse.transform_gradients(optimizer, [Times()])
    controller.detach()
    surgecollapse.transform_gradients(optimizer, [Times()]).remove()


def test_before_attach_and_inside_attach_are_the_same_training():
    class Once:
        growth = "random"
        done = False

        def start(self, plan): ...
        def due(self, step):
            return step == 2

        def decide(self, reading):
            first, self.done = not self.done, True
            return Decision(phase="sparse", reason="test", actions=(Prune(0.5),) if first else ())

        def state_dict(self):
            return {}

        def load_state_dict(self, state): ...

    results = []
    for inside in (True, False):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if not inside:
            surgecollapse.transform_gradients(optimizer, [Times()])
        transforms = [Times()] if inside else []
        controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(), transforms=transforms)
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        assert controller.sparsity == 0.5
        results.append(weights(model))
    assert torch.equal(*results)


def test_state_goes_through_a_checkpoint_and_a_wrong_number_is_refused(tmp_path):
    _, handle = trained([Times(), Times()])
    torch.save(handle.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    _, other = trained([Times(), Times()], steps=0)
    other.load_state_dict(state)
    assert other.state_dict() == {"version": 1, "transforms": [{"calls": 5}, {"calls": 5}], "step": 5}
    _, single = trained([Times()], steps=0)
    with pytest.raises(ValueError, match="2 gradient transforms, here there are 1"):
        single.load_state_dict(state)
