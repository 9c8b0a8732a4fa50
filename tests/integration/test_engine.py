"""The loop as a whole: null controls, bitwise resume, exact final sparsity, poison, the policies by name."""

from __future__ import annotations

import copy
import io
import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgecollapse
from surgecollapse import MemoryRecorder, Reading, Readings, Target, Updates

pytestmark = [pytest.mark.filterwarnings("ignore:sparsity 0 prunes nothing")]
X = torch.randn(256, 10, generator=torch.Generator().manual_seed(1))
Y = ((X[:, 0] > 0).long() + 2 * (X[:, 1] * X[:, 2] > 0).long()) % 3
TOTAL = 200


class Run:
    """A small training run whose whole state can be saved and restored."""

    def __init__(
        self, policy="entropy_cycles", *, seed=0, attach=True, set_to_none=True, dropout=0.1, bn=False, **options
    ):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            norm = [nn.BatchNorm1d(24)] if bn else []
            self.model = nn.Sequential(
                nn.Linear(10, 24), *norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
            )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.order = torch.Generator().manual_seed(seed)
        self.dropout = torch.Generator().manual_seed(seed).get_state()
        self.set_to_none = set_to_none
        self.recorder = MemoryRecorder()
        self.controller = None
        if attach:
            defaults = {
                "sparsity": 0.8,
                "total_steps": TOTAL,
                "readings": Readings(every=5),
                "recorders": [self.recorder],
            }
            self.controller = surgecollapse.attach(self.model, self.optimizer, policy=policy, **{**defaults, **options})

    def train(self, steps: int, poison: int | None = None) -> Run:
        with torch.random.fork_rng():
            torch.set_rng_state(self.dropout)
            for i in range(steps):
                rows = torch.randint(len(X), (32,), generator=self.order)
                self.optimizer.zero_grad(set_to_none=self.set_to_none)
                loss = nn.functional.cross_entropy(self.model(X[rows]), Y[rows])
                if i == poison:
                    loss = loss * math.nan
                loss.backward()
                if i == poison:
                    for p in self.model.parameters():
                        p.grad[p.grad != p.grad] = math.inf
                if self.controller is not None:
                    self.controller.note(loss=loss, targets=Y[rows])
                self.optimizer.step()
            self.dropout = torch.get_rng_state()
        return self

    def save(self) -> io.BytesIO:
        buffer = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "controller": self.controller.state_dict(),
                "order": self.order.get_state(),
                "dropout": self.dropout,
            },
            buffer,
        )
        buffer.seek(0)
        return buffer

    def load(self, buffer: io.BytesIO) -> Run:
        state = torch.load(buffer, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.load_state_dict(state["controller"])
        self.order.set_state(state["order"])
        self.dropout = state["dropout"]
        return self


@cache
def uninterrupted(policy: str, set_to_none: bool, regrow_init: str) -> Run:
    """A run to its end, trained once for all that is compared with it."""
    return Run(policy, set_to_none=set_to_none, updates=Updates(regrow_init=regrow_init)).train(TOTAL)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


POLICIES = [
    "fixed_interval",
    "entropy_thresholds",
    "acdc",
    "entropy_cycles",
    "no_op",
    "one_shot",
    "gmp",
    "granet",
    "static",
    "set",
    "rigl",
    "redo",
]


@pytest.mark.parametrize("bn", [False, True])
def test_a_policy_that_holds_is_bitwise_plain_training(bn):
    held = Run("no_op", bn=bn, updates=Updates(growth="ema_gradient")).train(60)
    plain = Run(attach=False, bn=bn).train(60)
    assert same(held.model, plain.model)
    assert held.controller.sparsity == 0.0
    assert len(held.recorder.of(Reading)) == 12


def test_a_recorder_and_notes_change_nothing():
    with_recorder = Run("entropy_cycles").train(TOTAL)
    without = Run("entropy_cycles", recorders=())
    without.controller.note = lambda **_: None
    without.train(TOTAL)
    assert same(with_recorder.model, without.model)
    assert with_recorder.recorder.events


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=6)
@given(at=st.integers(1, TOTAL - 1), set_to_none=st.booleans())
def test_resume_at_any_step_is_bitwise(policy, at, set_to_none):
    regrow_init = "last" if at % 2 else "noise"
    options = {"set_to_none": set_to_none, "updates": Updates(regrow_init=regrow_init)}
    whole = uninterrupted(policy, set_to_none, regrow_init)
    first = Run(policy, **options).train(at)
    second = Run(policy, **options, seed=5).load(first.save()).train(TOTAL - at)
    assert same(whole.model, second.model)
    assert whole.controller.events == second.controller.events
    a, b = whole.controller.state_dict(), second.controller.state_dict()
    assert repr(a["policy"]) == repr(b["policy"])
    assert a["noise_std"] == b["noise_std"]
    for role in a["random"]:
        for device, state in a["random"][role]["states"].items():
            assert torch.equal(state, b["random"][role]["states"][device])


@pytest.mark.parametrize("growth", ["random", "gradient", "ema_gradient", "momentum"])
@pytest.mark.parametrize("regrow_init", ["zero", "noise", "last"])
def test_resume_is_bitwise_for_every_growth_and_first_value(growth, regrow_init):
    options = {"updates": Updates(growth=growth, regrow_init=regrow_init)}
    whole = Run(**options).train(TOTAL)
    second = Run(**options, seed=5).load(Run(**options).train(83).save()).train(TOTAL - 83)
    assert same(whole.model, second.model)
    surges = [e for e in whole.controller.events if e.kind == "surge"]
    assert surges
    assert all((e.energy_injected > 0) == (regrow_init != "zero") for e in surges)
    if regrow_init == "noise":
        assert all(e.energy_injected <= 0.1 * e.energy_before * (1 + 1e-6) for e in surges)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_every_policy_ends_exactly_at_the_target(policy, sparsity):
    run = Run(policy, sparsity=sparsity).train(TOTAL)
    run.controller.finalize()
    run.controller.finalize()
    run.train(7)  # fine-tuning keeps the mask
    total = sum(mask.numel() for mask in run.controller.masks.values())
    assert total == 240 + 576
    closed = sum(int((~mask).sum()) for mask in run.controller.masks.values())
    assert total - closed == math.floor((1 - sparsity) * total + 0.5 + 1e-9)
    weights = dict(run.model.named_parameters())
    assert not any(weights[name][~mask].any() for name, mask in run.controller.masks.items())
    zeros = sum(int((weights[name] == 0).sum()) for name in run.controller.masks)
    assert zeros >= closed  # weights that were regrown at zero late count as zeros, too
    assert run.controller.sparsity == zeros / total
    assert run.controller.sparsity_total == zeros / (total + 24 + 24 + 75)


@pytest.mark.parametrize("policy", ["acdc", "entropy_cycles"])
def test_taylor_saliency_has_its_gradient_under_every_policy(policy):
    run = Run(policy, updates=Updates(saliency="taylor")).train(TOTAL)
    run.controller.finalize()
    assert run.controller.sparsity == pytest.approx(0.8, abs=1e-3)


def test_last_values_come_back_where_only_the_policy_asks_for_them():
    from surgecollapse import EntropyCycles

    run = Run(EntropyCycles(regrow_init="last")).train(TOTAL)
    surges = [event for event in run.controller.events if event.kind == "surge"]
    assert surges
    assert all(event.energy_injected > 0 for event in surges)


def test_a_reading_with_labels_is_still_one_host_sync(monkeypatch):
    run = Run("no_op").train(4)
    calls = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original):
            calls.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    observer = run.controller._components.observer
    original_read = observer.read

    def read(*args):
        calls.clear()
        reading = original_read(*args)
        assert calls == ["tolist"]
        return reading

    monkeypatch.setattr(observer, "read", read)
    run.train(1)
    assert run.controller.readings[-1].target_entropy is not None


def test_stopping_early_collapses_to_the_target_and_says_so():
    run = Run().train(70)
    run.controller.finalize()
    assert run.controller.events[-1].kind == "freeze"
    assert "finalize at step 70 of 200" in run.controller.events[-1].reason
    live, size = run.controller.open_weights()
    assert live / size == pytest.approx(0.2, abs=1e-3)


def test_finalize_in_a_phase_deeper_than_the_target_reopens_to_it_exactly():
    from surgecollapse import EntropyCycles

    run = Run(EntropyCycles(floor=0.0), sparsity=0.6)
    while run.controller.sparsity <= 0.6 + 1e-3:
        run.train(1)
    run.controller.finalize()
    live = sum(int(mask.sum()) for mask in run.controller.masks.values())
    assert live == round(0.4 * 816)


@pytest.mark.parametrize("policy", ["entropy_cycles", "entropy_thresholds"])
def test_a_non_finite_gradient_on_a_decision_step_skips_the_decision(policy):
    run = Run(policy).train(24)
    before = run.controller.state_dict()["policy"]
    saved = copy.deepcopy(run.model.state_dict())
    run.train(1, poison=0)  # step 25 is due
    event = run.controller.events[-1]
    assert (event.step, event.kind) == (25, "skip")
    assert "not finite" in event.reason
    assert run.controller.state_dict()["policy"] == before
    assert run.controller.readings[-1].finite is False
    run.model.load_state_dict(saved)
    run.optimizer.state.clear()
    run.train(TOTAL - 25)
    run.controller.finalize()
    assert run.controller.sparsity == pytest.approx(0.8, abs=1e-3)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_an_inf_gradient_at_a_closed_weight_does_not_outlive_the_reading():
    run = Run("acdc").train(24)
    name, mask = next((n, m) for n, m in run.controller.masks.items() if not m.all())
    weight = dict(run.model.named_parameters())[name]
    saved = copy.deepcopy(run.model.state_dict())
    run.train(1, poison=0)  # inf everywhere: inf · 0 is NaN
    assert torch.equal(weight[~mask], torch.zeros_like(weight[~mask]))
    moments = [v for v in run.optimizer.state[weight].values() if v.shape == weight.shape]
    assert moments
    assert all(not m[~mask].any() for m in moments)
    run.model.load_state_dict(saved)


def test_activations_that_are_not_finite_skip_the_decision():
    run = Run("entropy_thresholds").train(4)
    with torch.no_grad():
        run.model[0].bias[0] = math.inf
    run.train(1)
    reading = run.controller.readings[-1]
    assert not reading.finite
    assert run.controller.events[-1].kind == "skip"
    assert all(math.isfinite(layer.energy) for layer in reading.layers)


def test_events_say_when_what_and_why():
    run = Run().train(TOTAL)
    run.controller.finalize()
    kinds = [event.kind for event in run.controller.events]
    assert kinds[0] == "collapse"
    assert kinds[-1] == "freeze"
    assert "surge" in kinds
    assert all(len(event.reason) > 10 for event in run.controller.events)
    for event in run.controller.events:
        if event.kind == "collapse" and event.details.get("floor") is not None:
            assert event.details["least"] <= event.details["depth"] <= event.details["most"]
            assert event.details["tries"] <= 5
        if event.pruned or event.grown:
            sites = event.details["activation_energy"]
            assert set(sites) == {"0", "3"}
            assert all(len(pair) == 2 and min(pair) >= 0 for pair in sites.values())
            assert (event.kind == "surge") == all(before == after for before, after in sites.values())
        if event.layers:
            assert sum(layer.energy_after for layer in event.layers) == pytest.approx(event.energy_after)


def test_readings_see_the_activations_that_follow_each_prunable_layer():
    run = Run("no_op").train(5)
    (reading,) = run.controller.readings
    assert [layer.layer for layer in reading.layers] == ["0", "3"]
    assert [layer.units for layer in reading.layers] == [24, 24]
    assert all(0 < layer.entropy <= 1 and 0 < layer.on_off <= 1 for layer in reading.layers)
    assert reading.loss == pytest.approx(1.1, abs=0.5)
    assert 0.9 < reading.target_entropy <= 1.0


def made(change):
    """Options of attach, the groups built."""
    kinds = {"updates": Updates, "readings": Readings}
    options = {name: kinds[name](**value) if name in kinds else value for name, value in change.items()}
    target = options.pop("target", None)
    return options if target is None else {**options, "sparsity": Target(0.8, **target)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity must be in \[0, 1\)"),
        ({"policy": "entropi"}, r"unknown policy 'entropi'.*'entropy_cycles'"),
        ({"updates": {"optimizer_state": "drop"}}, "unknown optimizer_state 'drop'"),
        ({"updates": {"growth": "gradiant"}}, r"unknown growth 'gradiant'.*Did you mean 'gradient'"),
        ({"updates": {"regrow_init": "ones"}}, "unknown regrow_init 'ones'"),
        ({"readings": {"entropy": "shannon"}}, r"unknown entropy 'shannon'.*renyi2"),
        ({"target": {"allocation": "gloabl"}}, "id you mean 'global'"),
        ({"updates": {"saliency": "magnitud"}}, "Did you mean 'magnitude'"),
        ({"readings": {"every": 0}}, "every must be a whole number of steps, at least 1"),
        ({"total_steps": None}, "total_steps"),
        ({"target": {"include": "nothing.*"}}, r"include: 'nothing\.\*' matches no parameter"),
        ({"target": {"exclude": "*"}}, "nothing to prune"),
        ({"readings": {"sites": ["nowhere"]}}, "sites: 'nowhere' matches no module"),
        ({"target": {"min_density": 1.5}}, "min_density"),
        ({"updates": {"noise_energy_budget": -1.0}}, "noise_energy_budget"),
    ],
)
def test_bad_options_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        Run(**made(change))
    assert "\n" not in str(error.value)


def test_a_model_with_nothing_to_prune_is_refused():
    model = nn.Sequential(nn.Embedding(4, 8), nn.LayerNorm(8))
    with pytest.raises(ValueError, match="nothing to prune"):
        surgecollapse.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.5, total_steps=1_000)


def test_a_foreign_state_is_refused_with_the_difference():
    whole = Run().train(30)
    state = whole.controller.state_dict()
    with pytest.raises(ValueError, match="not the state of a surgecollapse controller"):
        Run().controller.load_state_dict({"weights": 1})
    with pytest.raises(ValueError, match=r"policy EntropyCycles, but ACDC"):
        Run("acdc").controller.load_state_dict(state)
    with pytest.raises(ValueError, match=r"sparsity=0\.8.*sparsity=0\.7"):
        Run(sparsity=0.7).controller.load_state_dict(state)
    with pytest.raises(ValueError, match="version"):
        Run().controller.load_state_dict({**state, "version": 99})
    with pytest.raises(ValueError, match="load the model's own state first"):
        Run().controller.load_state_dict(state)
    other = Run(sparsity=Target(0.8, exclude="3.weight"))
    other.model.load_state_dict(whole.model.state_dict())
    with pytest.raises(ValueError, match=r"another model.*3\.weight"):
        other.controller.load_state_dict(state)
