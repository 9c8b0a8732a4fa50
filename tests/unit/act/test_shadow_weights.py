"""Shadow weights: what the model has, what the optimizer steps, and that nothing else sees the difference."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.act import thresholded_values
from surgecollapse.commands import Collapse
from surgecollapse.events import Decision, Regrow, Threshold
from surgecollapse.functional import collapse_masks, kept, lamp, magnitude_restoring_scale, soft_threshold
from surgecollapse.policies import SoftThreshold
from surgecollapse.torch_utils import compiled

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
STEPS, EVERY = 80, 5


class Held:
    """Holds one threshold from the first step on."""

    growth, from_start = "random", True

    def __init__(self, **options):
        self.action = Threshold(options.pop("sparsity", 0.8), **options)

    def start(self, plan):
        pass

    def due(self, step):
        return False

    def decide(self, reading):
        return Decision(
            phase="sparse", reason="one threshold, held", actions=(self.action,) if reading.step == 0 else ()
        )

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def net(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
        return nn.Sequential(*layers).to(dtype)


def backward(model, times=1.0):
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(X.to(next(model.parameters()).dtype)), Y) * times
    loss.backward()
    return loss


def attach(model, optimizer, policy=None, sparsity=0.8, **options):
    return sc.attach(
        model,
        optimizer,
        sparsity,
        STEPS,
        policy=policy or SoftThreshold(),
        readings=sc.Readings(every=EVERY, probe=X.to(next(model.parameters()).dtype)),
        **options,
    )


def train(model, optimizer, steps):
    for _ in range(steps):
        backward(model)
        optimizer.step()


def shadow(controller):
    return controller._components.actor.shadow


def obeys(controller, model):
    params = dict(model.named_parameters())
    return not any(params[name][~mask].any() for name, mask in controller.masks.items())


# ---- what the model has --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0, 1, 3])
@pytest.mark.parametrize("rescale", [True, False])
def test_the_model_has_the_thresholded_shadows_rescaled(p, rescale):
    model = net()
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Held(p=p, rescale=rescale))
    train(model, controller.optimizers[0], 7)
    params, values = dict(model.named_parameters()), shadow(controller).values
    assert set(values) == set(controller.masks)
    threshold = max(values[name][~mask].abs().max() for name, mask in controller.masks.items())
    for name, w in values.items():
        mask = controller.masks[name]
        v = soft_threshold(w, threshold, p)
        assert torch.equal(v != 0, mask), "one threshold over all: what it closes is what the mask closes"
        scale = magnitude_restoring_scale(w, v) if rescale and p else 1.0
        assert torch.allclose(params[name], v * scale, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("allocation", ["layer", "erk"])
def test_a_threshold_for_each_layer_where_zeros_are_shared_out(allocation):
    model = net()
    target = sc.Target(0.8, allocation=allocation)
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Held(), sparsity=target)
    train(model, controller.optimizers[0], 7)
    found = shadow(controller)._values.threshold
    for name, mask in controller.masks.items():
        assert found[name] == float(shadow(controller).values[name][~mask].abs().max())
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ties", [False, True])
def test_exactly_so_many_weights_are_open_whatever_the_ties(dtype, ties):
    model = net(dtype)
    if ties:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(((p * 16).floor() + 0.5) / 16)
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.0), Held())
    weights = controller._components.weights if controller.resolved else None
    train(model, controller.optimizers[0], 1)
    size = sum(mask.numel() for mask in controller.masks.values())
    assert weights is not None
    assert sum(int(mask.sum()) for mask in controller.masks.values()) == kept(size, 0.8)
    assert round((1 - controller.sparsity) * size) == kept(size, 0.8)


def test_a_layer_at_its_minimum_density_has_a_threshold_of_its_own():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    target = sc.Target(0.8, min_density=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which names the layer
        controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.0), Held(), sparsity=target)
        train(model, controller.optimizers[0], 1)
    values = shadow(controller).values
    greatest = max(values[name][~mask].abs().max() for name, mask in controller.masks.items())
    least = values["0.weight"][controller.masks["0.weight"]].abs().min()
    assert least < greatest, "the layer keeps weights that are under the threshold of the others"
    wanted = {"0.weight": float(torch.nextafter(least, torch.zeros(()))), "2.weight": float(greatest)}
    assert int(controller.masks["0.weight"].sum()) == 52
    assert shadow(controller)._values.threshold == wanted
    assert int((model[0].weight != 0).sum()) == 52


@pytest.mark.parametrize("p", [0, 1, 3])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_what_few_open_weights_are_written_one_by_one_is_what_a_pass_over_all_writes(p, sparsity, monkeypatch):
    found = []
    for limit in (0.0, 1.0):
        monkeypatch.setattr(thresholded_values, "SPARSE", limit)
        monkeypatch.setattr(thresholded_values, "SPARSE_POWER", limit)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        controller = attach(model, optimizer, Held(sparsity=sparsity, p=p, every=3))
        train(model, optimizer, 8)
        assert bool(shadow(controller)._values.positions) == (limit == 1.0)
        found.append([w.detach().clone() for w in model.parameters()])
    near = {} if p != 3 else {"rtol": 1e-4, "atol": 1e-5}  # a root in a vector and alone may round differently
    assert all(torch.allclose(a, b, **(near or {"rtol": 0, "atol": 0})) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("pattern", ["2:4", "unit", "block:4x1"])
def test_patterns_close_whole_tiles_and_end_ordinary(pattern):
    model = net()
    target = sc.Target(0.5, pattern=pattern)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer, sparsity=target)
    train(model, optimizer, STEPS)
    controller.finalize()
    assert controller.frozen
    assert not shadow(controller).active
    assert controller.sparsity == pytest.approx(0.5, abs=0.02)
    if pattern == "2:4":
        for name in controller.masks:
            tiles = (dict(model.named_parameters())[name] != 0).view(-1, 4).sum(1)
            assert int(tiles.max()) <= 2


def test_lamp_ranks_the_shadows():
    model = net()
    options = {"updates": sc.Updates(saliency="lamp")}
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), Held(), **options)
    train(model, controller.optimizers[0], 3)
    scores = {name: lamp(w) for name, w in shadow(controller).values.items()}
    size = sum(w.numel() for w in scores.values())
    wanted = collapse_masks(scores, kept(size, 0.8))
    assert all(torch.equal(controller.masks[name], mask) for name, mask in wanted.items())


@pytest.mark.parametrize("saliency", ["taylor", "random"])
def test_criteria_that_need_no_weight_are_refused(saliency):
    model = net()
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), updates=sc.Updates(saliency=saliency))
    backward(model)
    with pytest.raises(ValueError, match="saliency must be magnitude or lamp"):
        controller.optimizers[0].step()


# ---- what the optimizer steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_optimizer_steps_the_shadow_by_the_gradient_at_the_sparse_net(kind, theta):
    """Against the same by hand: a second net holds v, its gradients go to leaves that hold w."""
    options = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    model, reference = net(), net()
    optimizer = kind(model.parameters(), **options)
    controller = attach(model, optimizer, Held(p=1, theta=theta))
    leaves = [nn.Parameter(p.detach().clone()) for p in reference.parameters()]
    by_hand = kind(leaves, **options)
    names = [name for name, _ in reference.named_parameters()]
    # The first gradient is that of the dense net, from which the first threshold is taken before the first step.
    scores = {name: reference.get_parameter(name).detach().abs() for name in controller.masks}
    masks = collapse_masks(scores, kept(sum(score.numel() for score in scores.values()), 0.8))
    for step in range(12):
        backward(model)
        optimizer.step()
        backward(reference)
        for name, leaf, p in zip(names, leaves, reference.parameters(), strict=True):
            leaf.grad = torch.where(masks[name], p.grad, theta * p.grad) if name in masks else p.grad
        by_hand.step()
        for name, leaf in zip(names, leaves, strict=True):
            w = shadow(controller).values.get(name, model.get_parameter(name))
            assert torch.allclose(w, leaf, rtol=1e-4, atol=1e-6), f"{name} at step {step}"
        reference.load_state_dict(model.state_dict())
        masks = controller.masks


def test_a_closed_weight_that_the_gradient_wants_comes_back():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.01, 1.0, 0.5, 0.4]]))
    target = sc.Target(0.5, include="0.weight")
    controller = sc.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.75),
        target,
        STEPS,
        policy=Held(sparsity=0.5),
        readings=sc.Readings(every=EVERY, probe=torch.ones(2, 4)),
    )
    for _ in range(4):
        model.zero_grad()
        (-model(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))).sum().backward()
        controller.optimizers[0].step()
    assert controller.masks["0.weight"].tolist() == [[True, True, False, False]]
    assert shadow(controller).values["0.weight"].flatten().tolist() == pytest.approx([3.01, 1.0, 0.5, 0.4])


def test_transforms_and_decay_see_the_shadow():
    class Seen:
        stage = "project"

        def __call__(self, params, grads):
            self.params = [p.detach().clone() for p in params]

        def state_dict(self, params):
            return {}

        def load_state_dict(self, state, params):
            pass

    model, seen = net(), Seen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, Held(), transforms=[seen])
    train(model, optimizer, 3)
    before = shadow(controller).values["0.weight"].clone()
    train(model, optimizer, 1)
    assert any(torch.equal(p, before) for p in seen.params)


def test_parameters_keep_their_identity_and_their_storage_between_steps():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    places = {name: (p, p.data_ptr()) for name, p in model.named_parameters()}
    train(model, optimizer, 20)
    assert shadow(controller).active
    for name, p in model.named_parameters():
        assert places[name] == (p, p.data_ptr())


# ---- the course of a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold_every", [1, 4])
@pytest.mark.parametrize("p", [0, 1, 3])
def test_it_rises_by_the_cubic_ends_exactly_and_freezes(p, threshold_every):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer, SoftThreshold(p=p, threshold_every=threshold_every))
    size = 16 * 32 + 32 * 32
    for step in range(1, STEPS + 1):
        backward(model)
        optimizer.step()
        assert obeys(controller, model)
        if step % EVERY == 0 and step < 60:
            wanted = 0.8 * (1 - (1 - min(1, step / 40)) ** 3)
            assert controller.open_weights()[0] == kept(size, round(wanted, 12)), f"at step {step}"
        assert shadow(controller).active == (step < 60)
    controller.finalize()
    assert controller.open_weights() == (kept(size, 0.8), size)
    assert controller.sparsity == 1 - kept(size, 0.8) / size
    kinds = [event.kind for event in controller.events]
    assert kinds.count("freeze") == 1
    assert len(kinds) <= STEPS // EVERY + 3, "one event a reading at most"
    assert {"collapse", "exchange"} <= set(kinds)


def test_optimizer_state_of_closed_weights_is_forgotten_at_the_end():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    train(model, optimizer, 61)
    for name, mask in controller.masks.items():
        state = optimizer.state[dict(model.named_parameters())[name]]
        assert not state["exp_avg"][~mask].any()
        assert not state["exp_avg_sq"][~mask].any()


@pytest.mark.parametrize("at", [3, 33, 47, 60, 70])
@pytest.mark.parametrize("how", ["controller", "optimizer", "optimizer before the model", "pickled"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(at, how):
    def fresh():
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, attach(model, optimizer, SoftThreshold(p=1, threshold_every=4))

    model, optimizer, controller = fresh()
    train(model, optimizer, at)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "controller": controller.state_dict()}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    if how == "pickled":
        model, optimizer, other = copy.deepcopy((model, optimizer, controller))
        other.reattach()
        again, stepper = model, optimizer
        model, optimizer = controller.model, controller.optimizers[0]
    else:
        again, stepper, other = fresh()
        if how == "optimizer before the model":
            stepper.load_state_dict(saved["optimizer"])
            again.load_state_dict(saved["model"])
        else:
            again.load_state_dict(saved["model"])
            if how == "controller":
                saved["optimizer"].pop("surgecollapse.controller")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    stepper.load_state_dict(saved["optimizer"])
                other.load_state_dict(saved["controller"])
            else:
                stepper.load_state_dict(saved["optimizer"])
    train(model, optimizer, STEPS - at)
    train(again, stepper, STEPS - at)
    assert other.step == controller.step == STEPS
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in controller.masks.items())


# ---- what others do to the weights ---------------------------------------------------------------------------------


def test_copies_and_state_dicts_are_the_sparse_net():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    train(model, optimizer, 33)
    for other in (copy.deepcopy(model), net()):
        other.load_state_dict(model.state_dict())
        assert obeys(controller, other)
        assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("p", [0, 1, 3])
@pytest.mark.parametrize("write", ["load", "data"])
def test_older_weights_that_are_loaded_go_to_the_shadow_and_are_named(p, write):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    controller = attach(model, optimizer, SoftThreshold(p=p))
    train(model, optimizer, 21)
    older = {name: 0.5 * torch.randn_like(value) for name, value in model.state_dict().items()}
    if write == "load":
        model.load_state_dict(older)
    else:
        for name, param in model.named_parameters():
            param.data.copy_(older[name])
    backward(model)
    if write == "data":  # looked for at readings
        optimizer.step()
        train(model, optimizer, 2)
        for name, param in model.named_parameters():
            param.data.copy_(older[name])
    with pytest.warns(UserWarning, match="something else than its optimizer wrote"):
        train(model, optimizer, 1)
    assert obeys(controller, model)
    train(model, optimizer, 1)
    params = dict(model.named_parameters())
    for name, mask in controller.masks.items():
        big = older[name].abs() > 1.0  # far above any threshold here: they stay open, as what was loaded
        assert bool(mask[big].all())
        assert torch.equal(params[name][big].sign(), older[name][big].sign())
    train(model, optimizer, 3)
    assert any(event.kind == "zeros" for event in controller.events)


def test_a_write_that_restores_the_values_is_none(recwarn):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer)
    for _ in range(30):
        train(model, optimizer, 1)
        with torch.no_grad():
            for p in model.parameters():
                saved = p.clone()
                p.mul_(2)
                p.copy_(saved)
    assert not [w for w in recwarn if "something else" in str(w.message)]
    assert controller.step == 30


def test_finalize_in_the_middle_prunes_by_the_shadows():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    train(model, optimizer, 12)
    values = {name: w.clone() for name, w in shadow(controller).values.items()}
    controller.finalize()
    size = sum(w.numel() for w in values.values())
    wanted = collapse_masks({name: w.abs() for name, w in values.items()}, kept(size, 0.8))
    assert all(torch.equal(controller.masks[name], mask) for name, mask in wanted.items())
    assert controller.frozen
    assert not shadow(controller).active
    assert obeys(controller, model)


def test_another_action_makes_the_mask_an_ordinary_one():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer, Held())
    train(model, optimizer, 12)
    done = controller.carry_out(Decision(phase="open", reason="by hand", actions=(Regrow(0.5),)))
    assert [event.kind for event in done] == ["release", "surge"]
    assert not shadow(controller).active
    train(model, optimizer, 5)
    assert obeys(controller, model)


def test_a_person_may_collapse_and_the_policy_goes_on():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    train(model, optimizer, 12)
    controller.request(Collapse(fraction=0.5))
    train(model, optimizer, 1)
    assert not shadow(controller).active
    train(model, optimizer, STEPS - 13)
    controller.finalize()
    assert controller.open_weights()[0] == kept(16 * 32 + 32 * 32, 0.8)


def test_detached_it_is_the_sparse_net_and_can_be_attached_again():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer)
    train(model, optimizer, 33)
    controller.detach()
    assert obeys(controller, model)
    controller.reattach()
    train(model, optimizer, STEPS - 33)
    controller.finalize()
    assert controller.open_weights()[0] == kept(16 * 32 + 32 * 32, 0.8)


def test_zeros_that_are_kept_stay_closed():
    model = net()
    with torch.no_grad():
        model[0].weight[:8] = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = attach(model, optimizer, masks="zeros")
    for _ in range(STEPS):
        train(model, optimizer, 1)
        assert not model[0].weight[:8].any()
    controller.finalize()
    assert controller.open_weights()[0] == kept(16 * 32 + 32 * 32, 0.8)


def test_overflow_under_grad_scaler_leaves_shadows_and_weights_alone():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    controller = attach(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(30):
        model.zero_grad()
        before = {name: w.clone() for name, w in shadow(controller).values.items()}
        weights = [p.detach().clone() for p in model.parameters()]
        loss = nn.functional.cross_entropy(model(X), Y)
        scaler.scale(loss * (torch.inf if step == 20 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if step == 20:
            assert all(torch.equal(w, before[name]) for name, w in shadow(controller).values.items())
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
    assert controller.step == 29
    assert obeys(controller, model)


def test_micro_batches_add_up_to_the_step_of_the_whole_batch():
    whole, parts = net(torch.float64), net(torch.float64)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (whole, parts)]
    for model, optimizer in zip((whole, parts), steppers, strict=True):
        attach(model, optimizer, Held())
    for _ in range(10):
        backward(whole)
        steppers[0].step()
        parts.zero_grad()
        for rows in (slice(0, 32), slice(32, 64)):
            (nn.functional.cross_entropy(parts(X[rows].double()), Y[rows]) / 2).backward()
        steppers[1].step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_two_optimizers_step_the_shadows_of_their_own():
    model = net()
    pair = [torch.optim.SGD(model[:1].parameters(), lr=0.1), torch.optim.AdamW(model[2:].parameters(), lr=1e-2)]
    controller = sc.attach(model, pair, 0.8, STEPS, policy=SoftThreshold(), readings=sc.Readings(every=EVERY, probe=X))
    for _ in range(STEPS):
        backward(model)
        for optimizer in pair:
            optimizer.step()
        assert obeys(controller, model)
    controller.finalize()
    assert controller.open_weights()[0] == kept(16 * 32 + 32 * 32, 0.8)


def test_a_model_that_is_cast_goes_on():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, Held())
    train(model, optimizer, 5)
    model.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cast wrote to every weight
        train(model, optimizer, 5)
    assert obeys(controller, model)
    assert all(w.dtype is torch.float64 for w in shadow(controller).values.values())


@pytest.mark.parametrize("sparsity", [0.5, 0.95])
def test_a_model_that_takes_another_memory_format_goes_on(sparsity):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    readings = sc.Readings(every=EVERY, probe=x)
    controller = sc.attach(
        model, optimizer, sparsity, STEPS, policy=Held(sparsity=sparsity, every=4), readings=readings
    )
    for step in range(20):
        if step == 9:
            model.to(memory_format=torch.channels_last)
        model.zero_grad()
        nn.functional.cross_entropy(model(x), Y[:8]).backward()
        optimizer.step()
        assert obeys(controller, model)
    params = dict(model.named_parameters())
    assert all(w.stride() == params[name].stride() for name, w in shadow(controller).values.items())


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("p", [1, 3])
def test_compiled_passes_give_the_same_weights(p, compiler, monkeypatch):
    """The pass itself, as plain operations; and what happens without a compiler."""

    def missing(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    used, found = [], []
    for name in ("_refused", "_proven"):
        monkeypatch.setattr(compiled, name, set())
    monkeypatch.setattr(compiled, "_compiled", (lambda f: used.append(f) or f) if compiler else missing)
    for compile in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 520), nn.ReLU(), nn.Linear(520, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        controller = attach(model, optimizer, Held(p=p, every=4), compile=compile)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # once, without a compiler
            train(model, optimizer, 6)
        assert obeys(controller, model)
        found.append(([w.detach().clone() for w in model.parameters()], controller.masks))
    assert bool(used) == (compiler and p == 1)
    assert all(torch.equal(mask, found[1][1][name]) for name, mask in found[0][1].items())
    for plain, other in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(plain, other, rtol=1e-4, atol=1e-6)
