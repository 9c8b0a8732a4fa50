"""Steps of every kind work, or are refused at once; memories that cannot be masked are found after the first step."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import surgecollapse as sc
from sharpness_aware import TwoCalls
from surgecollapse.torch_utils import step_hooks

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


BASES = [torch.optim.SGD, torch.optim.AdamW]


def backward(model):
    model.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()


@pytest.mark.conformance("heads right", place="sharpness-aware steps")
@pytest.mark.conformance("masks held", place="sharpness-aware steps")
@pytest.mark.conformance("target reached", place="sharpness-aware steps")
@pytest.mark.conformance("entropy read", place="sharpness-aware steps")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("base", BASES)
def test_sharpness_aware_steps_in_one_call_and_in_two(base, calls, policy):
    model = net()
    optimizer = TwoCalls(model.parameters(), base, lr=1e-2)
    controller = sc.attach(model, optimizer, 0.8, 60, policy=policy, readings=sc.Readings(every=5))
    for _ in range(60):
        backward(model)
        if calls == 1:
            optimizer.step(lambda: backward(model))
        else:
            optimizer.first_step()
            backward(model)
            optimizer.second_step()
        params = dict(model.named_parameters())
        assert not any(params[name][~mask].any() for name, mask in controller.masks.items())
    assert controller.step == 60
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert set(controller.masks) == {"0.weight", "2.weight"}
    assert all(reading.entropy is not None for reading in controller.readings)


def two_calls(base, calls):
    """SAM with a base optimizer, and how it steps; its users save both optimizers, as the moments lie in the inner."""

    def made(model):
        optimizer = TwoCalls(model.parameters(), base, lr=1e-2)

        def step():
            if calls == 1:
                optimizer.step(lambda: backward(model))
                return
            optimizer.first_step()
            backward(model)
            optimizer.second_step()

        return optimizer, step, [optimizer, optimizer.base_optimizer]

    return made


def one_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sc.single_step_sam(model, optimizer, rho=0.1)
    return optimizer, optimizer.step, [optimizer]


SHARPNESS = {
    **{f"{base.__name__}, {calls} calls": two_calls(base, calls) for base in BASES for calls in (1, 2)},
    "single_step_sam": one_step,
}


def resumed(made, policy, **options):
    """The weights and masks of a run, and of one that goes on from its states of model and optimizers."""

    def begun():
        model = net()
        optimizer, step, saved = made(model)
        controller = sc.attach(model, optimizer, 0.8, 60, policy=policy, readings=sc.Readings(every=5), **options)
        return model, controller, step, saved

    def go_on(model, controller, step, _, first, last):
        for at in range(first, last):
            torch.manual_seed(at)
            backward(model)
            step()
        return [[*model.parameters()], controller.masks, [(e.step, e.kind) for e in controller.events]]

    whole = begun()
    go_on(*whole, 0, 29)  # the reading of step 30 is armed
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in (whole[0], *whole[3])], saved)
    saved.seek(0)
    again = begun()
    for part, state in zip((again[0], *again[3]), torch.load(saved, weights_only=False), strict=True):
        part.load_state_dict(state)
    assert again[1].step == 29
    return go_on(*whole, 29, 60), go_on(*again, 29, 60)


def same(one, other):
    return (
        all(map(torch.equal, one[0], other[0]))
        and all(torch.equal(mask, other[1][name]) for name, mask in one[1].items())
        and one[2] == other[2] != []
    )


@pytest.mark.conformance("resume bitwise", place="sharpness-aware steps")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold", "rigl"])
@pytest.mark.parametrize("kind", SHARPNESS)
def test_sharpness_aware_steps_resume_bitwise(kind, policy):
    assert same(*resumed(SHARPNESS[kind], policy))


@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.parametrize("write", ["data", "no_grad"])
def test_a_loop_that_writes_weights_by_itself_is_refused_at_the_third_batch(write, hooks):
    model = net()
    sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.8, 60, readings=sc.Readings(every=5), hooks=hooks)
    for _ in range(2):
        backward(model)
        for p in model.parameters():
            if write == "data":
                p.data -= 0.1 * p.grad
            else:
                with torch.no_grad():
                    p.sub_(p.grad, alpha=0.1)
    with pytest.raises(RuntimeError, match="the attached optimizer never steps"):
        backward(model)


def test_a_before_without_an_after_is_refused_and_the_other_way_round():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5), hooks=False)
    with pytest.raises(RuntimeError, match="after_step\\(\\) was called without before_step"):
        controller.after_step()
    backward(model)
    controller.before_step()
    with pytest.raises(RuntimeError, match="before_step\\(\\) was called twice without after_step"):
        controller.before_step()


class NoHooks(torch.optim.SGD):
    """A step that runs hooks before it, and never those after it."""

    def step(self, closure=None):
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (self,), {})

    step.hooked = True


def test_a_step_that_never_ends_is_refused():
    model = net()
    optimizer = NoHooks(model.parameters(), lr=0.1)
    sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    for _ in range(2):
        backward(model)
        optimizer.step()
    with pytest.raises(RuntimeError, match="began and none ended"):
        optimizer.step()


def test_a_step_that_failed_can_be_tried_again():
    class Failing(torch.optim.SGD):
        fails = 1

        def step(self, closure=None):
            if self.fails:
                self.fails -= 1
                raise MemoryError
            return super().step(closure)

    model = net()
    torch.optim.SGD(model.parameters(), lr=0.1)  # torch wraps the step of a class when the first of it is made
    optimizer = Failing(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    with pytest.raises(MemoryError):
        optimizer.step()
    optimizer.step()
    assert controller.step == 1
    optimizer.step()
    assert controller.step == 2


class Based(torch.optim.Optimizer):
    """A base class with a step of its own, as Adam is of AdamW."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad, alpha=0.01)


class Derived(Based):
    """Inherits it."""


@pytest.mark.parametrize("kind", [torch.optim.AdamW, Derived])
def test_ordinary_optimizers_walk_no_frames(monkeypatch, kind):
    model = net()
    optimizer = kind(model.parameters(), lr=1e-3)
    (torch.optim.Adam if kind is torch.optim.AdamW else Based)(model.parameters(), lr=1e-3)  # wraps the step once more
    controller = sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    monkeypatch.setattr(step_hooks.inspect, "currentframe", lambda: pytest.fail("frames were walked"))
    optimizer.step()
    assert controller.step == 1


class Keeps(torch.optim.SGD):
    """SGD with an additional memory of some layout."""

    def __init__(self, params, memory):
        super().__init__(params, lr=0.05)
        self.memory = memory

    def step(self, closure=None):
        super().step(closure)  # runs the step hooks once more, where an SGD was made before
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("memory", self.memory(p))


class Coded(torch.Tensor):
    """A tensor subclass, as packed 8-bit states are."""


MEMORIES = {
    "Adafactor": lambda p: torch.zeros(p.shape[0], 1, 1),
    "Shampoo": lambda p: [torch.eye(n) for n in p.shape],
    "SOAP": lambda p: {"GG": torch.eye(p.shape[0])},
    "8-bit codes": lambda p: torch.zeros(p.shape, dtype=torch.uint8),
    "8-bit map": lambda p: torch.zeros(256),
    "packed subclass": lambda p: torch.zeros(p.shape).as_subclass(Coded),
}


@pytest.mark.conformance("refused", place="factored and 8-bit optimizers, by default")
@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_that_cannot_be_masked_is_found_after_the_first_step(name):
    model = net()
    optimizer = Keeps(model.parameters(), MEMORIES[name])
    controller = sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    with pytest.raises(ValueError, match=r"Keeps keeps 'memory'.*optimizer_state='keep'"):
        optimizer.step()
    assert controller.step == 1


@pytest.mark.conformance("heads right", place="factored and 8-bit optimizers, optimizer_state=keep")
@pytest.mark.conformance("masks held", place="factored and 8-bit optimizers, optimizer_state=keep")
@pytest.mark.conformance("target reached", place="factored and 8-bit optimizers, optimizer_state=keep")
@pytest.mark.conformance("entropy read", place="factored and 8-bit optimizers, optimizer_state=keep")
@pytest.mark.parametrize("name", MEMORIES)
def test_with_keep_such_an_optimizer_trains_and_its_weights_stay_masked(name):
    model = net()
    optimizer = Keeps(model.parameters(), MEMORIES[name])
    controller = sc.attach(
        model, optimizer, 0.8, 60, readings=sc.Readings(every=5), updates=sc.Updates(optimizer_state="keep")
    )
    for _ in range(60):
        backward(model)
        optimizer.step()
        params = dict(model.named_parameters())
        assert not any(params[n][~mask].any() for n, mask in controller.masks.items())
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert set(controller.masks) == {"0.weight", "2.weight"}
    assert all(reading.entropy is not None for reading in controller.readings)


@pytest.mark.conformance("resume bitwise", place="factored and 8-bit optimizers, optimizer_state=keep")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold"])
@pytest.mark.parametrize("name", [*MEMORIES, "Adafactor of torch"])
def test_with_keep_such_an_optimizer_resumes_bitwise(name, policy):
    def made(model):
        keeps = torch.optim.Adafactor(model.parameters()) if name not in MEMORIES else None
        optimizer = keeps or Keeps(model.parameters(), MEMORIES[name])
        return optimizer, optimizer.step, [optimizer]

    assert same(*resumed(made, policy, updates=sc.Updates(optimizer_state="keep")))


@pytest.mark.conformance("refused", place="factored and 8-bit optimizers, by default")
def test_adafactor_of_torch_is_found_too():
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters())
    sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    with pytest.raises(ValueError, match=r"Adafactor keeps .*optimizer_state='keep'"):
        optimizer.step()


# ---- memories elsewhere than in the state --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reset", "keep"])
@pytest.mark.parametrize("deep", [1, 2], ids=["one inside", "one inside of that"])
def test_moments_of_an_optimizer_inside_of_the_attached_one_are_reset(deep, mode):
    def base(groups, **options):
        return torch.optim.AdamW(groups, **options) if deep == 1 else TwoCalls(groups, torch.optim.AdamW, **options)

    model = net()
    optimizer = TwoCalls(model.parameters(), base, lr=1e-2)
    moments = optimizer.base_optimizer.state if deep == 1 else optimizer.base_optimizer.base_optimizer.state
    if deep == 2:
        optimizer.base_optimizer.step = optimizer.base_optimizer.base_optimizer.step
    controller = sc.attach(
        model, optimizer, 0.8, 60, policy="one_shot", readings=sc.Readings(every=5),
        updates=sc.Updates(optimizer_state=mode),
    )  # fmt: skip
    params = dict(model.named_parameters())
    while controller.sparsity < 0.5:
        backward(model)
        optimizer.step(lambda: backward(model))
    closed = [moments[params[name]]["exp_avg"][~mask] for name, mask in controller.masks.items()]
    assert sum(map(len, closed)) > 1000
    assert any(values.any() for values in closed) == (mode == "keep")


class Own(torch.optim.Optimizer):
    """Keeps its moments as its author liked, and steps with momentum."""

    def __init__(self, params, keep):
        super().__init__(params, {"lr": 0.05})
        self.keep = keep
        keep(self, self.param_groups[0]["params"])

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.05)


OUTSIDE = {
    "a list": lambda self, params: setattr(self, "m", [torch.zeros_like(p) for p in params]),
    "by parameter": lambda self, params: setattr(self, "m", {p: torch.zeros_like(p) for p in params}),
    "nested": lambda self, params: setattr(
        self, "m", {"m": {i: (torch.zeros_like(p), 0) for i, p in enumerate(params)}}
    ),
    "one weight alone": lambda self, params: setattr(self, "m", torch.zeros_like(params[2])),
    "of an optimizer inside": lambda self, params: setattr(self, "inner", Own(params, OUTSIDE["a list"])),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_moments_outside_of_the_state_are_said_once(name):
    model = net()
    optimizer = Own(model.parameters(), OUTSIDE[name])
    sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    with pytest.warns(UserWarning, match=r"Own keeps tensors of the weights' shapes outside of its state \(m\)"):
        optimizer.step()
    backward(model)
    optimizer.step()  # warnings are errors


@pytest.mark.parametrize(
    "keep",
    [
        lambda self, params: setattr(self, "ours", list(params)),
        lambda self, params: setattr(self, "norms", {p: torch.zeros(()) for p in params}),
        lambda self, params: setattr(self, "names", ["a", "b"]),
        lambda self, params: setattr(self, "lengths", torch.zeros(7)),
        lambda self, params: setattr(self, "shared", torch.optim.Adam(params)),
    ],
    ids=["the weights", "one number each", "words", "another shape", "an optimizer without moments yet"],
)
def test_what_an_optimizer_keeps_otherwise_is_no_concern(keep):
    model = net()
    optimizer = Own(model.parameters(), keep)
    sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5))
    backward(model)
    optimizer.step()


def test_with_keep_moments_outside_of_the_state_are_left_as_they_are_in_silence():
    model = net()
    optimizer = Own(model.parameters(), OUTSIDE["a list"])
    options = {"readings": sc.Readings(every=5), "updates": sc.Updates(optimizer_state="keep")}
    sc.attach(model, optimizer, 0.8, 60, **options)
    backward(model)
    optimizer.step()


# ---- what cannot be attached to ------------------------------------------------------------------------------------


def test_float32_master_copies_are_named():
    model = net().half()
    masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    with pytest.raises(ValueError, match="steps none of the model's parameters"):
        sc.attach(model, torch.optim.SGD(masters, lr=0.1), 0.8, 60)


def test_lazy_layers_are_named():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias have no shape yet .*pass one batch"):
        sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.8, 60)


@pytest.mark.parametrize("kind", [nn.ModuleDict, nn.ModuleList])
def test_a_container_that_is_trained_through_its_parts_is_named(kind):
    parts = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 2)}
    model = kind(parts) if kind is nn.ModuleDict else kind(parts.values())
    with pytest.raises(ValueError, match="has no forward pass of its own"):
        sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.8, 60)


# ---- arguments -----------------------------------------------------------------------------------------------------


def test_a_percentage_is_recognized():
    model = net()
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 90\. Did you mean 0\.9\?"):
        sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 90, 60)


@pytest.mark.filterwarnings("ignore:sparsity 0 prunes nothing")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "entropy_cycles", "entropy_thresholds", "acdc", "gmp", "granet",
                                    "rigl", "set", "static", "one_shot", "no_op"])  # fmt: skip
def test_sparsity_zero_does_nothing_to_the_net(policy):
    plain = net()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    for _ in range(60):
        backward(plain)
        optimizer.step()
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, 0.0, 60, policy=policy, readings=sc.Readings(every=5))
    for _ in range(60):
        backward(model)
        optimizer.step()
    controller.finalize()
    assert all(map(torch.equal, plain.parameters(), model.parameters()))
    assert all(mask.all() for mask in controller.masks.values())


@pytest.mark.parametrize("policy", ["acdc", "gmp", sc.EntropyCycles(), sc.CyclicPruning(cycles=2)])
def test_a_policy_that_is_given_runs(policy):
    model = net()
    controller = sc.attach(
        model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5, 200, policy=policy, readings=sc.Readings(every=5)
    )
    expected = policy if isinstance(policy, str) else None
    assert controller.policy is policy or type(controller.policy) is type(sc.make_policy(expected))


# ---- advice --------------------------------------------------------------------------------------------------------


def test_attach_warns_of_a_run_too_short_for_its_policy():
    model = net()
    with pytest.warns(UserWarning, match=r"60 steps with a reading every 50 give CyclicPruning 1 reading,.*every=1"):
        sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.8, 60)


def test_attach_warns_of_sparsity_zero():
    model = net()
    with pytest.warns(UserWarning, match="sparsity 0 prunes nothing"):
        sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.0, 600)


def test_attach_warns_of_layers_that_no_optimizer_steps():
    model = net()
    with pytest.warns(UserWarning, match=r"no attached optimizer steps 2\.weight, so these stay dense"):
        sc.attach(
            model, torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1), 0.8, 60,
            readings=sc.Readings(every=5, probe=X),
        )  # fmt: skip


def test_a_block_that_is_left_before_the_end_warns():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.8, 60, readings=sc.Readings(every=5)).__enter__()
    backward(model)
    optimizer.step()
    with pytest.warns(UserWarning, match=r"ended before finalize\(\).*80\.0% were asked for"):
        controller.__exit__(None, None, None)


def test_a_controller_prints_and_draws_itself():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = sc.attach(model, optimizer, 0.9, 40, policy="gmp", readings=sc.Readings(every=4))
    for _ in range(40):
        backward(model)
        optimizer.step()
    assert str(controller) == f"step 40/40, frozen, 90.0% of 1,536 weights zero, {len(controller.events)} interventions"
    pytest.importorskip("matplotlib")
    above, below = controller.plot().axes
    assert above.get_ylabel() == "sparsity"
    assert below.lines


# ---- schedule-free and orthogonalized steps ---------------------------------------------------------------------


class ScheduleFree(torch.optim.Optimizer):
    """SGD on z, with gradients at y = (1 − β)z + βx and the average x of all z (Defazio et al., arXiv 2405.15682)."""

    def __init__(self, params, lr=0.5, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                state = self.state[p]
                z, x = state.setdefault("z", p.clone()), state.setdefault("x", p.clone())
                z.sub_(p.grad, alpha=group["lr"])
                x.lerp_(z, 1 / group["k"])
                p.copy_(z.lerp(x, group["beta"]))


HIDDEN = {"Muon": lambda model: [torch.optim.Muon([model[0].weight, model[2].weight], lr=0.02),
                                 torch.optim.AdamW([model[0].bias, model[2].bias, *model[4].parameters()], lr=1e-2)],
          "schedule-free": lambda model: [ScheduleFree(model.parameters())]}  # fmt: skip


@pytest.mark.conformance("heads right", place="Muon, schedule-free steps")
@pytest.mark.conformance("masks held", place="Muon, schedule-free steps")
@pytest.mark.conformance("target reached", place="Muon, schedule-free steps")
@pytest.mark.conformance("entropy read", place="Muon, schedule-free steps")
@pytest.mark.conformance("resume bitwise", place="Muon, schedule-free steps")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold", "rigl"])
@pytest.mark.parametrize("name", HIDDEN)
def test_muon_and_schedule_free_steps_hold_masks_and_resume(name, policy):
    def run(first, last, state=None):
        model = net()
        optimizers = HIDDEN[name](model)
        controller = sc.attach(model, optimizers, 0.8, 60, policy=policy, readings=sc.Readings(every=5))
        if state is not None:
            model.load_state_dict(state[0])
            for optimizer, own in zip(optimizers, state[1], strict=True):
                optimizer.load_state_dict(own)
        saved = None
        for step in range(first, last):
            if step == 31:
                saved = copy.deepcopy((model.state_dict(), [optimizer.state_dict() for optimizer in optimizers]))
            backward(model)
            for optimizer in optimizers:
                optimizer.step()
            params = dict(model.named_parameters())
            assert not any(params[n].detach()[~mask].any() for n, mask in controller.masks.items()), step
        return model, controller, saved

    model, controller, saved = run(0, 60)
    assert controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert set(controller.masks) == {"0.weight", "2.weight"}
    assert all(reading.entropy is not None for reading in controller.readings)
    again, resumed, _ = run(31, 60, saved)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert all(torch.equal(mask, resumed.masks[n]) for n, mask in controller.masks.items())
