"""How training is hooked: one test for each plain row of the attachment table (docs/decisions/0002)."""

from __future__ import annotations

import copy
import gc
import io
import warnings
import weakref

import pytest
import torch
import torch.optim.optimizer as optim_module
from torch import nn
from torch.optim import Optimizer

import surgecollapse
from surgecollapse.events import Decision, Prune
from surgecollapse.torch_utils.step_hooks import StepHooks


class Once:
    """Collapse once at ``at``, then hold: the smallest policy that makes masks."""

    growth = "random"

    def __init__(self, at: int = 3, depth: float = 0.5) -> None:
        self.at, self.depth, self.done = at, depth, False

    def start(self, plan):
        self.every = plan.every

    def due(self, step):
        return step == self.at

    def decide(self, reading):
        if reading.step >= self.at and not self.done:
            self.done = True
            return Decision(phase="sparse", reason="test", actions=(Prune(self.depth),))
        return Decision(phase="sparse", reason="test")

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


def make_model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


pytestmark = [pytest.mark.filterwarnings("ignore:no attached optimizer steps")]
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(2))


def backward(model: nn.Module, optimizer: Optimizer, *, set_to_none: bool = True) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=set_to_none)
    loss = nn.functional.cross_entropy(model(X), Y)
    loss.backward()
    return loss


def assert_masked(controller: surgecollapse.Controller, model: nn.Module, share: float = 0.5) -> None:
    named = dict(model.named_parameters())
    closed = total = 0
    for name, mask in controller.masks.items():
        assert torch.equal(named[name], named[name] * mask), name
        closed += int((~mask).sum())
        total += mask.numel()
    assert closed == round(share * total)
    assert total == 6 * 16 + 16 * 16


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zeros_hold_under_every_optimizer(name, set_to_none):
    model = make_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    for _ in range(3):
        backward(model, optimizer, set_to_none=set_to_none)
        optimizer.step()
    for _ in range(7):
        assert_masked(controller, model)
        backward(model, optimizer, set_to_none=set_to_none)
        optimizer.step()
    assert_masked(controller, model)


def test_masked_gradients_reach_the_optimizer():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(at=1))
    for _ in range(2):
        backward(model, optimizer)
        optimizer.step()
    for name, mask in controller.masks.items():
        grad = dict(model.named_parameters())[name].grad
        assert not grad[~mask].any()
        assert grad[mask].any()


def test_transforms_see_the_clipped_dense_gradient():
    seen = []

    class Spy:
        stage = "filter"

        def __call__(self, params, grads):
            seen.append((len(params), torch.stack([g.norm() for g in grads]).norm().item()))

        def state_dict(self, params):
            return {}

        def load_state_dict(self, state, params):
            pass

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(at=1), transforms=[Spy()])
    for _ in range(3):
        backward(model, optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    assert [n for n, _ in seen] == [6, 6, 6]
    assert all(norm == pytest.approx(0.01, rel=1e-3) for _, norm in seen)  # dense: nothing was masked before


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_give_the_unscaled_step(fused):
    """A fused SGD under GradScaler divides itself: a second or missing division would show at once."""

    def run(scaled: bool) -> tuple[torch.Tensor, surgecollapse.Controller]:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        controller = surgecollapse.attach(
            model, optimizer, sparsity=0.5, policy=Once(at=2), readings=surgecollapse.Readings(every=1)
        )
        for _ in range(5):
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(X), Y)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert_masked(controller, model)
        return torch.cat([p.flatten() for p in model.parameters()]), controller

    (plain, a), (scaled, b) = run(False), run(True)
    assert torch.allclose(plain, scaled, atol=1e-6)
    norms = [[r.grad_norm for r in c.readings] for c in (a, b)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_under_grad_scaler_is_no_step(fused):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=0.5,
        policy=Once(at=2),
        readings=surgecollapse.Readings(every=1),
        updates=surgecollapse.Updates(growth="ema_gradient"),
    )
    for i in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        scaler.scale(loss * (float("inf") if i in (1, 3) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert controller.step == 3
    assert [event.kind for event in controller.events] == ["collapse"]
    assert all(torch.isfinite(v).all() for v in controller.state_dict()["engine"]["signal"]["values"].values())
    assert_masked(controller, model)


@pytest.mark.parametrize("by_keyword", [False, True])
def test_closures_are_masked_after_their_backward(by_keyword):
    model, plain = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    reference = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    twin = surgecollapse.attach(plain, reference, sparsity=0.5, policy=Once())
    for _ in range(6):
        closure = lambda: backward(model, optimizer)  # noqa: E731
        loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
        assert loss == backward(plain, reference)
        reference.step()
    assert_masked(controller, model)
    for name, mask in twin.masks.items():
        assert torch.equal(mask, controller.masks[name])
        assert torch.equal(dict(model.named_parameters())[name], dict(plain.named_parameters())[name])


def test_lbfgs_is_refused_with_the_way_out():
    model = make_model()
    with pytest.raises(ValueError, match=r"LBFGS.*first-order"):
        surgecollapse.attach(model, torch.optim.LBFGS(model.parameters()), sparsity=0.5, policy=Once())


def test_something_that_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        surgecollapse.attach(make_model(), object(), sparsity=0.5, policy=Once())


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_masked():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(6):
        backward(model, optimizer)
        step()
    assert_masked(controller, model)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_read_through_an_eager_probe():
    model = make_model()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(
        compiled, optimizer, sparsity=0.5, policy=Once(), readings=surgecollapse.Readings(every=2)
    )
    for _ in range(6):
        backward(compiled, optimizer)
        optimizer.step()
    assert_masked(controller, model)
    assert {r.source for r in controller.readings} <= {"batch", "probe"}
    assert all(len(r.layers) == 2 and r.entropy is not None for r in controller.readings)
    assert list(controller.masks) == ["0.weight", "2.weight"]


@pytest.mark.filterwarnings("ignore")
def test_a_model_compiled_in_place_is_read_on_the_probe():
    model = make_model()
    model.compile(backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.5, policy=Once(), readings=surgecollapse.Readings(every=2)
    )
    for _ in range(6):
        backward(model, optimizer)
        optimizer.step()
    assert_masked(controller, model)
    assert all(r.source == "probe" and len(r.layers) == 2 for r in controller.readings)


class Lookahead(Optimizer):
    """A wrapper optimizer that writes the weights after its inner step."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.optimizer = inner
        self.param_groups = inner.param_groups
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        for slow, p in zip(self.slow, [p for g in self.param_groups for p in g["params"]], strict=True):
            slow.lerp_(p, 0.5)
            p.copy_(slow)


class Accelerated(Optimizer):
    """A wrapper that never runs Optimizer.__init__, as Accelerate's."""

    def __init__(self, inner: Optimizer) -> None:
        self.optimizer = inner

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        self.optimizer.step()


class Wrapping:
    """Lookahead as it is often written: it never runs ``Optimizer.__init__``, and takes no hooks."""

    def __init__(self, inner: Optimizer, name: str = "optimizer") -> None:
        self.__dict__[name] = inner
        self.name = name
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none=True):
        vars(self)[self.name].zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        vars(self)[self.name].step(closure)
        for slow, p in zip(self.slow, [p for g in self.param_groups for p in g["params"]], strict=True):
            slow.lerp_(p, 0.5)
            p.copy_(slow)


class Uninitialized(Wrapping, Optimizer):
    """The same as an optimizer."""


WRAPPERS = {
    "with hooks": Lookahead,
    "that writes nothing": Accelerated,
    "without hooks": Uninitialized,
    "of another class": Wrapping,
    "with another name inside": lambda inner: Uninitialized(inner, "fast"),
    "around one without hooks": lambda inner: Lookahead(Uninitialized(inner)),
    "without hooks twice": lambda inner: Uninitialized(Uninitialized(inner)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=list(WRAPPERS))
@pytest.mark.parametrize("closure", [False, True])
def test_every_step_of_a_wrapper_ends_masked(wrapper, closure):
    model = make_model()
    optimizer = wrapper(torch.optim.AdamW(model.parameters(), lr=0.01))
    controller = surgecollapse.attach(model, optimizer, 0.5, 40, policy="gmp", readings=surgecollapse.Readings(every=2))
    for _ in range(40):
        backward(model, optimizer)
        optimizer.step(*[lambda: nn.functional.cross_entropy(model(X), Y)] * closure)
        named = dict(model.named_parameters())
        assert not any(named[name].detach()[~mask].any() for name, mask in controller.masks.items())
    assert controller.step == 40
    assert_masked(controller, model)
    assert not [event for event in controller.events if event.kind == "zeros"]


def test_a_wrapper_without_hooks_may_step_the_optimizer_inside_often_or_not_at_all():
    class Several(Wrapping):
        times = 3

        def step(self, closure=None):
            for _ in range(self.times):
                self.optimizer.step()

    model = make_model()
    optimizer = Several(torch.optim.SGD(model.parameters(), lr=0.1))
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    for times in (3, 1, 0, 3, 0, 0):
        optimizer.times = times
        backward(model, optimizer)
        optimizer.step()
    assert controller.step == 7
    assert_masked(controller, model)


@pytest.mark.parametrize("scheduled", ["before", "after", "never"])
def test_a_wrapped_step_works_with_schedulers_and_is_given_back(scheduled):
    model = make_model()
    optimizer = Uninitialized(torch.optim.SGD(model.parameters(), lr=0.1))
    own = vars(optimizer).get("step")
    if scheduled == "before":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        own = vars(optimizer)["step"]
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    if scheduled == "after":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for step in range(6):
        backward(model, optimizer)
        optimizer.step()
        if scheduled != "never":
            scheduler.step()
            assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5 ** (step + 1)
    assert controller.step == 6
    assert_masked(controller, model)
    controller.detach()
    if scheduled != "after":
        assert vars(optimizer).get("step") is own
    backward(model, optimizer)
    optimizer.step()
    assert controller.step == 6


def test_an_optimizer_that_can_take_no_hooks_is_refused_with_the_fix():
    model = make_model()

    class Bare(Optimizer):
        def __init__(self, params):
            self.param_groups, self.state, self.defaults = [{"params": list(params)}], {}, {}

    with pytest.raises(TypeError, match=r"Bare takes no step hooks.*call super\(\).__init__"):
        surgecollapse.attach(model, Bare(model.parameters()), 0.5, policy="no_op")


@pytest.mark.parametrize("wrapper", [Lookahead, Accelerated])
def test_wrapper_optimizers_keep_the_masks(wrapper):
    model = make_model()
    optimizer = wrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    for _ in range(8):
        backward(model, optimizer)
        optimizer.step()
    assert controller.step == 8
    assert_masked(controller, model)


@pytest.mark.parametrize("wrapper", [Lookahead, Accelerated, Uninitialized, lambda inner: inner])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_soft_threshold_holds_under_every_optimizer_and_wrapper(name, wrapper):
    model = make_model()
    optimizer = wrapper(OPTIMIZERS[name](model.parameters()))
    readings = surgecollapse.Readings(every=5)
    controller = surgecollapse.attach(model, optimizer, 0.5, 40, policy="soft_threshold", readings=readings)
    for _ in range(29):
        backward(model, optimizer)
        optimizer.step()
        named = dict(model.named_parameters())
        assert not any(named[n][~mask].any() for n, mask in controller.masks.items())
    assert controller._components.actor.shadow.active
    assert_masked(controller, model)
    for _ in range(11):
        backward(model, optimizer)
        optimizer.step()
    assert controller.frozen
    assert_masked(controller, model)


@pytest.mark.filterwarnings("ignore")
def test_the_soft_threshold_under_a_compiled_model_and_a_compiled_step():
    weights = []
    for compiled in (False, True):
        model = make_model()
        called = torch.compile(model, backend="eager") if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        readings = surgecollapse.Readings(every=5)
        controller = surgecollapse.attach(called, optimizer, 0.5, 40, policy="soft_threshold", readings=readings)
        step = (
            torch.compile(lambda optimizer=optimizer: optimizer.step(), backend="eager") if compiled else optimizer.step
        )
        for _ in range(40):
            backward(called, optimizer)
            step()
        assert_masked(controller, model)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


def test_a_copied_optimizer_that_steps_instead_is_noticed():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())

    def train() -> None:
        for _ in range(5):
            backward(model, other)
            other.step()

    with pytest.raises(RuntimeError, match=r"never steps.*attach"):
        train()


def test_explicit_calls_equal_hooks_bitwise():
    results = []
    for hooks in (True, False):
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(), hooks=hooks)
        for _ in range(6):
            backward(model, optimizer)
            if not hooks:
                controller.before_step()
            optimizer.step()
            if not hooks:
                controller.after_step()
        assert_masked(controller, model)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_several_optimizers_mask_their_own_weights():
    model = make_model()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    second = torch.optim.AdamW([*model[2].parameters(), *model[4].parameters()], lr=1e-2)
    controller = surgecollapse.attach(model, [first, second], sparsity=0.5, policy=Once())
    for _ in range(8):
        second.zero_grad()
        backward(model, first)
        first.step()
        second.step()
    assert controller.step == 8
    assert_masked(controller, model)


@pytest.mark.parametrize("policy", ["cyclic_pruning", "soft_threshold"])
@pytest.mark.parametrize(
    ("every", "warns"),
    [((1, 0), True), ((1, 15), False), ((1, 1), False), ((2, 1), False), ((0, 1), False)],
    ids=["last never", "last rarely", "both", "first every second time", "first never"],
)
def test_a_last_optimizer_that_does_not_step_is_said_once(every, warns, policy):
    model = make_model()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD([*model[2].parameters(), *model[4].parameters()], lr=0.1)
    controller = surgecollapse.attach(
        model, [first, second], 0.5, 40, policy=policy, readings=surgecollapse.Readings(every=1)
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(40):
            second.zero_grad()
            backward(model, first)
            for optimizer, rate in zip((first, second), every, strict=True):
                if rate and i % rate == 0:
                    optimizer.step()
            named = dict(model.named_parameters())
            assert not any(named[name].detach()[~mask].any() for name, mask in controller.masks.items())
    assert ["total_steps and readings count the steps of the last one" in str(one.message) for one in said] == [
        True
    ] * warns
    controller.finalize()
    assert_masked(controller, model)


def test_gradient_accumulation_reads_the_last_micro_batch():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.5, policy=Once(at=100), readings=surgecollapse.Readings(every=1, rows=16)
    )
    for _ in range(2):
        optimizer.zero_grad()
        for batch in (X, X[:8]):
            nn.functional.cross_entropy(model(batch), Y[: len(batch)]).backward()
        optimizer.step()
    assert controller.step == 2
    assert controller.readings[-1].source == "batch"
    assert {layer.rows for layer in controller.readings[-1].layers} == {8}


def test_a_second_attach_is_refused_until_the_first_detaches():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    with pytest.raises(ValueError, match=r"already have a controller.*detach"):
        surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    first.detach()
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once()).detach()


def test_detach_leaves_no_hook_behind():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.5, policy=Once(), readings=surgecollapse.Readings(every=1)
    )
    for _ in range(4):
        backward(model, optimizer)
        optimizer.step()
    controller.detach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_ordinary_steps_carry_no_forward_hook():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(at=3), readings=surgecollapse.Readings(every=5))
    hooked = []
    for _ in range(10):
        optimizer.zero_grad()
        hooked.append(any(m._forward_hooks for m in model.modules()))
        backward(model, optimizer)
        optimizer.step()
    assert [i + 1 for i, on in enumerate(hooked) if on] == [3, 5, 10]


def test_copies_of_an_attached_model_are_plain_models():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once(), readings=surgecollapse.Readings(every=1))
    backward(model, optimizer)
    optimizer.step()
    assert any(m._forward_hooks for m in model.modules())  # armed: the copy is taken at the worst moment
    clone = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert buffer.tell() < 30_000  # neither the controller nor the optimizer traveled along
    buffer.seek(0)
    for other in (clone, torch.load(buffer, weights_only=False)):
        assert torch.equal(other(X), model(X))
        assert list(other.state_dict()) == list(make_model().state_dict())


def test_state_dict_keys_and_parameter_identity_stay():
    model = make_model()
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    for _ in range(4):
        backward(model, optimizer)
        optimizer.step()
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)


def test_a_copied_or_saved_controller_goes_on_bitwise():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, policy=Once())
    for _ in range(4):
        backward(model, optimizer)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(controller, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(controller), torch.load(buffer, weights_only=False)):
        assert not twin.attached
        twin.reattach()
        for _ in range(3):
            backward(twin.model, twin.optimizers[0])
            twin.optimizers[0].step()
        assert_masked(twin, twin.model)
        assert twin.step == 7
    for _ in range(3):
        backward(model, optimizer)
        optimizer.step()
    for p, q in zip(model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_parameters_that_join_later_are_taken_in_at_the_next_event():
    model = make_model()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    optimizer.add_param_group({"params": list(model[4].parameters())})
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.5, policy=Once(at=8), readings=surgecollapse.Readings(every=2)
    )
    for i in range(10):
        if i == 3:
            optimizer.add_param_group({"params": list(model[2].parameters())})
        backward(model, optimizer)
        optimizer.step()
    assert [e.kind for e in controller.events] == ["join", "collapse"]
    assert "2.weight" in controller.events[0].reason
    assert controller.events[0].step == 4
    assert_masked(controller, model)


def test_a_controller_goes_with_its_model_and_leaves_no_hook_on_other_optimizers():
    def begin():
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        controller = surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000, monitors="default")
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(4, 8)).sum().backward()
            optimizer.step()
        return weakref.ref(controller)

    begin()
    hooks = optim_module._global_optimizer_post_hooks
    before = len(hooks)
    found = [begin() for _ in range(3)]
    gc.collect()
    assert [ref() for ref in found] == [None] * 3
    assert len(hooks) == before


@pytest.mark.parametrize("leave", ["collect", "detach"])
def test_a_controller_may_go_while_the_hooks_of_any_optimizer_run(leave):
    def begin():
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=1_000)

    held = [begin() for _ in range(3)]
    other = nn.Linear(2, 2)
    plain = torch.optim.SGD(other.parameters(), lr=0.1)

    def let_go(*_):
        if leave == "detach":
            for _, _, controller in held:
                controller.detach()
        held.clear()
        gc.collect()

    handles = [optim_module.register_optimizer_step_post_hook(let_go), plain.register_step_post_hook(let_go)]
    other(torch.ones(1, 2)).sum().backward()
    plain.step()
    for handle in handles:
        handle.remove()
    assert not held


@pytest.mark.parametrize("during", ["before", "after"])
def test_hooks_may_be_removed_by_what_they_call(during):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []

    def call(name):
        calls.append(name)
        if name == during:
            hooks.remove()

    hooks = StepHooks(optimizer, lambda: call("before"), lambda: call("after"))
    for _ in range(3):
        backward(model, optimizer)
        optimizer.step()
    assert calls == (["before"] if during == "before" else ["before", "after"])


def test_a_recorder_may_detach_the_controller_within_a_step():
    class Leave:
        def record(self, event):
            if event.step == 4:
                controller.detach()

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = surgecollapse.attach(
        model, optimizer, 0.5, 100, recorders=[Leave()], readings=surgecollapse.Readings(every=2)
    )
    for _ in range(8):
        backward(model, optimizer)
        optimizer.step()
    assert controller.step == 4
    assert not controller.attached
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    controller.reattach()
    backward(model, optimizer)
    optimizer.step()
    assert controller.step == 5
