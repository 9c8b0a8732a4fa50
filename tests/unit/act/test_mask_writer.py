"""Collapse and surge: exact counts, which weights, first values, the energy ledger, and whose memory it is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rounding import any_order
from surgecollapse.act.actor import Actor
from surgecollapse.act.collapse import zero_lowest
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.ledger import energies
from surgecollapse.act.mask_planner import MaskPlanner
from surgecollapse.act.mask_writer import MaskWriter
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.randomness import Generators
from surgecollapse.act.recycle import Recycler
from surgecollapse.events import Decision, Freeze, Prune, Regrow, SetNoise
from surgecollapse.functional import energy_lost_gaussian, kept


def writer_of(params, *, seed=0, min_density=0.0, optimizer=None, **options):
    """A writer of bare tensors, stepped by one SGD with momentum."""
    params = {n: p if isinstance(p, nn.Parameter) else nn.Parameter(p) for n, p in params.items()}
    optimizer = optimizer or torch.optim.SGD(params.values(), lr=0.1, momentum=0.9)
    defaults = {
        "saliency": "magnitude", "growth": "random", "regrow_init": "zero", "noise_energy_budget": 0.1,
        "allocation": "global", "optimizer_state": "reset",
    }  # fmt: skip
    chosen, generators = {"min_density": min_density, **defaults, **options}, Generators(seed)
    names = ("saliency", "allocation", "min_density", "pattern", "layouts")
    plan = {name: chosen.pop(name) for name in names if name in chosen}
    return MaskWriter(
        MaskPlanner(MaskedWeights(params), generators, **plan), lambda name: optimizer, generators, **chosen
    )


def collapse(writer, sparsity, **options):
    return writer.collapse(writer.planner.plan(sparsity, {}, None), **options)


def closed_of(writer):
    return {n: ~writer.weights.mask(n) for n in writer.weights.params}


def two(seed=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(20, 10, generator=g).to(dtype), "b": torch.randn(3, 10, generator=g).to(dtype)}


# ---- collapse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_collapse_keeps_exactly_as_many_of_the_largest(dtype, sparsity):
    values = two(dtype=dtype)
    writer = writer_of({n: v.clone() for n, v in values.items()})
    ledger, closed = collapse(writer, sparsity)
    live = kept(230, sparsity)
    assert writer.weights.live == live
    assert ledger.pruned == sum(int(c.sum()) for c in closed.values()) == 230 - live
    everything = torch.cat([v.flatten() for v in values.values()]).abs()
    open_ = torch.cat([writer.weights.mask(n).flatten() for n in values])
    if 0 < live < 230:
        assert everything[open_].min() >= everything[~open_].max()
    for n, p in writer.weights.params.items():
        assert torch.equal(p, values[n] * writer.weights.mask(n))


def test_ties_are_closed_from_the_lowest_position():
    writer = writer_of({"a": torch.ones(4), "b": torch.ones(4)})
    collapse(writer, 0.75)
    assert [writer.weights.mask(n).int().tolist() for n in "ab"] == [[0, 0, 0, 0], [0, 0, 1, 1]]


def test_a_layer_keeps_its_minimum_of_its_own_best():
    writer = writer_of({"small": torch.arange(1.0, 101) * 1e-6, "large": torch.ones(100)}, min_density=0.05)
    collapse(writer, 0.9)
    assert (writer.weights.live_in("small"), writer.weights.live_in("large")) == (5, 15)
    assert writer.weights.mask("small").nonzero().flatten().tolist() == [95, 96, 97, 98, 99]
    with pytest.raises(ValueError, match="small"):
        writer.planner.plan(0.97, {}, None)


@pytest.mark.parametrize("saliency", ["magnitude", lambda weight, signal: weight.abs()])
def test_open_zeros_are_closed_before_any_closed_weight_is_revived(saliency):
    """Also where the open zeros are in a parameter that has no mask: all zeros tie, but only some are open."""
    writer = writer_of({"open": torch.tensor([0.0, 0, 0, 5, 6, 7]), "masked": torch.arange(1.0, 7)}, saliency=saliency)
    shut = torch.tensor([False] * 3 + [True] * 3)
    writer.weights.set({"masked": shut}, {"masked": 3})
    for sparsity, live in ((4 / 12, 8), (5 / 12, 7), (0.5, 6)):
        masks = writer.planner.plan(sparsity, {}, None)
        assert sum(int(m.sum()) for m in masks.values()) == live
        assert not (masks["masked"] & ~shut).any(), "a closed weight was revived"
        assert masks["masked"].sum() == 3
        assert masks["open"][3:].all()


@settings(max_examples=100)
@given(data=st.data())
def test_a_deeper_collapse_never_revives(data):
    """Whatever the values (zeros and ties among them) and the distribution that made the first masks."""
    values = st.sampled_from([0.0, 0.0, -0.0, 1e-30, 0.5, -0.5, 2.0])
    params = {n: torch.tensor(data.draw(st.lists(values, min_size=8, max_size=8))) for n in "abc"}
    writer = writer_of(params, optimizer_state="keep")
    collapse(writer, data.draw(st.floats(0, 0.95)))
    if data.draw(st.booleans()):  # some are reopened at zero, in one parameter perhaps all of them
        name = data.draw(st.sampled_from("abc"))
        where = {n: c & (n == name) for n, c in closed_of(writer).items()}
        writer.surge(where, int(where[name].sum()), signals={})
    before = {n: writer.weights.mask(n) for n in params}
    deeper = 1 - data.draw(st.integers(1, writer.weights.live)) / 24
    collapse(writer, deeper)
    assert writer.weights.live == kept(24, deeper)
    assert not any((writer.weights.mask(n) & ~before[n]).any() for n in params)


def test_half_precision_weights_below_the_normal_range_keep_their_order():
    smallest = 2.0**-24  # float16's own; its normal range ends at 6.1e-5
    writer = writer_of({"p": (torch.tensor([0.0, 8, 2, 4, 6, 1]) * smallest).half()})
    writer.weights.set({"p": torch.tensor([False, True, True, True, True, True])}, {"p": 5})
    collapse(writer, 0.5)
    assert writer.weights.mask("p").nonzero().flatten().tolist() == [1, 3, 4]


def test_an_unheld_collapse_writes_zeros_tensor_by_tensor_and_counts_them():
    params = {"a": nn.Parameter(torch.tensor([3.0, -1, 0, 2])), "b": nn.Parameter(torch.tensor([0.1, 0.2, 9]))}
    ledger = zero_lowest(params, 0.5)
    assert params["a"].tolist() == [3.0, 0.0, 0.0, 2.0]
    assert params["b"].tolist() == pytest.approx([0.0, 0.2, 9.0])  # floor(1.5 + .5) = 2 stay
    assert ledger.pruned == 2  # the zero was one already
    assert ledger.before["a"] == pytest.approx(14.0)
    assert ledger.after["a"] == pytest.approx(13.0)


# ---- surge --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["global", "layer"])
@pytest.mark.parametrize("growth", ["random", "gradient", "ema_gradient", "momentum"])
@pytest.mark.parametrize("signals", [True, False])
@pytest.mark.parametrize("count", [0, 1, 50, 115])
def test_a_surge_reopens_exactly_as_many_of_the_closed(distribution, growth, signals, count):
    writer = writer_of(two(), growth=growth, allocation=distribution)
    collapse(writer, 0.5)
    closed = closed_of(writer)
    signal = {n: torch.randn_like(p) for n, p in writer.weights.params.items()} if signals else {}
    before = {n: p.detach().clone() for n, p in writer.weights.params.items()}
    ledger = writer.surge(closed, count, signals=signal)
    assert ledger.grown == count
    assert writer.weights.live == 115 + count
    opened = {n: writer.weights.mask(n) & closed[n] for n in closed}
    assert sum(int(o.sum()) for o in opened.values()) == count
    assert all(torch.equal(p, before[n]) for n, p in writer.weights.params.items())  # zero-initialized


def test_the_highest_signal_is_reopened_first():
    writer = writer_of({"a": torch.ones(6), "b": torch.ones(6)}, growth="gradient")
    collapse(writer, 0.75)  # all of a, half of b
    signals = {"a": torch.tensor([0.0, -9, 1, 2, 8, 3]), "b": torch.full((6,), 99.0)}
    closed = closed_of(writer)
    writer.surge({"a": closed["a"], "b": torch.zeros_like(closed["b"])}, 2, signals=signals)
    assert writer.weights.mask("a").nonzero().flatten().tolist() == [1, 4]
    writer.surge(closed_of(writer), 3, signals=signals)
    assert writer.weights.mask("b").all()  # its closed half has by far the higher signal


def test_momentum_shares_by_the_mean_signal_of_the_open_weights():
    writer = writer_of({"a": torch.ones(40), "b": torch.ones(40)}, growth="momentum")
    mask = torch.arange(40) < 20
    writer.weights.set({"a": mask, "b": mask}, {"a": 20, "b": 20})
    signals = {"a": torch.where(mask, 3.0, 0.1), "b": torch.where(mask, -1.0, 100.0)}
    writer.surge(closed_of(writer), 8, signals=signals)
    assert (writer.weights.live_in("a"), writer.weights.live_in("b")) == (26, 22)  # 8 · 3/4 and 8 · 1/4


def test_random_growth_is_its_seeds_and_nothing_elses():
    def chosen(seed):
        writer = writer_of(two(), seed=seed)
        collapse(writer, 0.5)
        writer.surge(closed_of(writer), 40, signals={})
        return torch.cat([writer.weights.mask(n).flatten() for n in "ab"])

    state = torch.get_rng_state()
    first = chosen(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(chosen(3), first)
    assert not torch.equal(chosen(4), first)


@settings(max_examples=80)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32),
    rho=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 7.0]),
    count=st.integers(0, 115),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_noise_never_exceeds_its_share_of_the_live_energy(dtype, seed, rho, count, scale):
    """Measured on the weights as written, rounding included, in float64."""
    writer = writer_of(
        {n: v * scale for n, v in two(dtype=dtype).items()}, seed=seed, regrow_init="noise", noise_energy_budget=rho
    )
    collapse(writer, 0.5)
    closed, params = closed_of(writer), writer.weights.params
    live = sum(float(p.detach().double().square().sum()) for p in params.values())
    ledger = writer.surge(closed, count, signals={})
    injected = sum(float((p.detach().double() * closed[n]).square().sum()) for n, p in params.items())
    assert injected <= rho * live * (1 + 1e-6)
    assert sum(ledger.injected.values()) == pytest.approx(injected, rel=1e-5, abs=1e-30)
    if count > 40 and rho >= 0.1 and scale >= 1 and dtype != torch.float16:
        assert injected > 0.3 * rho * live  # and is no token amount


def test_last_restores_the_values_bitwise_however_often_they_were_closed():
    values = two()
    writer = writer_of({n: v.clone() for n, v in values.items()}, regrow_init="last")
    collapse(writer, 0.5, remember=True)
    collapse(writer, 0.9, remember=True)
    closed = closed_of(writer)
    live = sum(ledger_energy(values, writer))
    ledger = writer.surge(closed, sum(int(c.sum()) for c in closed.values()), signals={})
    assert all(torch.equal(p, values[n]) for n, p in writer.weights.params.items())
    total = sum(float(v.double().square().sum()) for v in values.values())
    assert sum(ledger.injected.values()) == pytest.approx(total - live, rel=1e-5)


def ledger_energy(values, writer):
    return [float((v.double() * writer.weights.mask(n)).square().sum()) for n, v in values.items()]


def test_remembered_values_survive_a_checkpoint():
    values = two()
    first = writer_of({n: v.clone() for n, v in values.items()}, regrow_init="last")
    collapse(first, 0.5, remember=True)
    second = writer_of({n: p.detach().clone() for n, p in first.weights.params.items()}, regrow_init="last")
    second.weights.load_state_dict(first.weights.state_dict())
    second.load_state_dict(first.state_dict())
    second.surge(closed_of(second), 115, signals={})
    assert all(torch.equal(p, values[n]) for n, p in second.weights.params.items())


def test_an_explicit_sigma_is_not_bounded():
    writer = writer_of({"p": torch.ones(10_000)}, regrow_init="noise", noise_energy_budget=0.0)
    collapse(writer, 0.5)
    writer.surge(closed_of(writer), 5000, signals={}, noise_std=3.0)
    assert writer.weights.params["p"][:5000].std().item() == pytest.approx(3.0, rel=0.05)
    assert (writer.weights.params["p"][5000:] == 1).all()


def test_a_criterion_of_ones_own_decides_and_its_inputs_stay_untouched():
    seen = []

    def most_negative(weight, signal):
        seen.append((weight, weight.clone()))
        return weight.neg().exp() if signal is None else signal

    writer = writer_of({"p": torch.arange(-4.0, 4)}, saliency=most_negative, growth=most_negative)
    collapse(writer, 0.5)
    assert writer.weights.mask("p").nonzero().flatten().tolist() == [0, 1, 2, 3]
    writer.surge(closed_of(writer), 1, signals={"p": torch.tensor([9.0, 9, 9, 9, 0, 0, 5, 0])})
    assert writer.weights.mask("p").nonzero().flatten().tolist() == [0, 1, 2, 3, 6]
    assert all(torch.equal(now, before) or i == 0 for i, (now, before) in enumerate(seen))


# ---- trial, moments, ledger, actor ----------------------------------------------------------------------------------


def test_a_trial_wears_the_masks_and_gives_every_bit_back():
    values = two()
    values["a"][0, 0] = -0.0
    writer = writer_of({n: v.clone() for n, v in values.items()})
    masks = writer.planner.plan(0.8, {}, None)

    def fail():
        with writer.trial(masks):
            assert all(torch.equal(p, values[n] * masks[n]) for n, p in writer.weights.params.items())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for n, p in writer.weights.params.items():
        assert torch.equal(p.detach().view(torch.int32), values[n].view(torch.int32))
    assert writer.weights.dense


@pytest.mark.parametrize("moments", ["reset", "keep"])
def test_moments_are_forgotten_exactly_where_the_mask_flipped(moments):
    p = nn.Parameter(torch.arange(1.0, 9))
    optimizer = torch.optim.SGD([p], lr=0.0, momentum=0.9)
    p.grad = torch.full((8,), 2.0)
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    writer = writer_of({"p": p}, optimizer=optimizer, optimizer_state=moments)
    collapse(writer, 0.5)
    zero = 0.0 if moments == "reset" else 2.0
    assert buffer.tolist() == [zero] * 4 + [2.0] * 4
    buffer.fill_(5.0)
    writer.surge({"p": torch.arange(8) < 2}, 2, signals={})
    zero = 0.0 if moments == "reset" else 5.0
    assert buffer.tolist() == [zero] * 2 + [5.0] * 6


def test_a_collapse_to_another_distribution_says_what_it_had_to_open():
    """All zeros in one layer, then the same number spread evenly: half of them must be opened again, at zero."""
    writer = writer_of({"a": torch.arange(1.0, 9), "b": torch.arange(10.0, 18)}, optimizer_state="keep")
    collapse(writer, 0.5)
    assert not writer.weights.mask("a").any()
    ledger, closed = writer.collapse(writer.planner.plan(0.5, {}, "layer"))
    assert (ledger.pruned, ledger.grown) == (4, 4)
    assert [writer.weights.live_in(n) for n in "ab"] == [4, 4]
    assert [int(closed[n].sum()) for n in "ab"] == [0, 4]
    assert not writer.weights.params["a"].any()
    assert writer.weights.params["b"].tolist() == [0.0, 0, 0, 0, 14, 15, 16, 17]


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_the_energy_that_a_collapse_of_gaussian_weights_takes_is_the_closed_form(q):
    writer = writer_of({"p": torch.randn(2000, 500, generator=torch.Generator().manual_seed(2)) * 0.02})
    ledger, _ = collapse(writer, q)
    lost = 1 - ledger.after["p"] / ledger.before["p"]
    assert lost == pytest.approx(energy_lost_gaussian(q), abs=0.002)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_energies_are_squared_norms_in_every_precision(dtype):
    params = {"a": torch.full((4, 5), 2.0, dtype=dtype), "empty": torch.zeros(0, 3, dtype=dtype)}
    assert energies(params) == {"a": 80.0, "empty": 0.0}
    assert energies({}) == {}


def test_energies_of_millions_of_weights_do_not_drift():
    # torch.sum adds in four cascades of about n^(1/4) terms; one after the other they would be off by 2e-3.
    bound = any_order(4 * round(20_000_000**0.25), torch.float32)
    exact = 20_000_000 * torch.tensor(0.1).double().item() ** 2
    assert energies({"p": torch.full((20_000_000,), 0.1)})["p"] == pytest.approx(exact, rel=bound)


class Still:
    """A net that measures the same whatever is done to it."""

    def measure(self, name):
        return 1.0

    def activation_energy(self):
        return {}

    def unit_connections(self, weights):
        return [], {}


def actor(values, **overrides):
    model = nn.ParameterDict({n: nn.Parameter(v) for n, v in values.items()})
    writer = writer_of(dict(model.named_parameters()))
    none = {"growth": None, "regrow_init": None, "noise_energy_budget": None}
    recycler = Recycler(writer.weights, lambda p: None, Generators(0), "reset")
    noise = InputNoise(model, Generators(0))
    return Actor(model, writer, recycler, noise, Still(), {**none, **overrides}), writer


@pytest.mark.parametrize("reopen", ["pruned", "collapsed"])
def test_what_may_be_reopened_is_what_the_decision_says(reopen):
    act, writer = actor(two())
    act.carry_out(Decision(phase="sparse", reason="first", actions=(Prune(0.5),)), 1, {})
    early = closed_of(writer)
    actions = (Prune(0.8), Regrow(0.5, source=reopen))
    events = act.carry_out(Decision(phase="sparse", reason="x", actions=actions), 2, {})
    assert [(e.kind, e.pruned, e.grown) for e in events] == [
        ("collapse", 69, 0),
        ("surge", 0, 35 if reopen == "collapsed" else 92),  # half of the 69 closed just now, or of all 184
    ]
    revived = sum(int((writer.weights.mask(n) & early[n]).sum()) for n in early)
    assert (revived == 0) == (reopen == "collapsed")


def test_the_ledger_adds_up_parameter_by_parameter_and_event_by_event():
    act, writer = actor(two(), regrow_init="noise")
    script = [(Prune(0.5),), (Regrow(0.5),), (Prune(0.9), Regrow(0.1), SetNoise(0.2), Freeze())]
    events = [
        event
        for step, actions in enumerate(script, 1)
        for event in act.carry_out(Decision(phase="sparse", reason="x", actions=actions), step, {})
    ]
    assert [e.kind for e in events] == ["collapse", "surge", "collapse", "surge", "pump", "freeze"]
    for e in events[:4]:
        assert sum(layer.energy_before for layer in e.layers) == pytest.approx(e.energy_before)
        assert sum(layer.energy_after for layer in e.layers) == pytest.approx(e.energy_after)
        assert sum(layer.energy_injected for layer in e.layers) == pytest.approx(e.energy_injected)
        assert [(layer.name, layer.size) for layer in e.layers] == [("a", 200), ("b", 30)]
        if e.kind == "surge":  # what was reopened was zero, so that energy is injected and nothing else changes
            assert e.energy_after == pytest.approx(e.energy_before + e.energy_injected, rel=1e-6)
            assert e.details["energy_fraction"] == pytest.approx(e.energy_injected / e.energy_before)
            assert 0 < e.details["energy_fraction"] <= 0.1
        else:
            assert e.energy_after < e.energy_before
    for earlier, later in pairwise(events[:4]):
        assert later.energy_before == pytest.approx(earlier.energy_after, rel=1e-6)
        assert later.sparsity_before == earlier.sparsity_after
    assert sum(layer.live for layer in events[3].layers) == writer.weights.live
    assert (act.frozen, act.noise.std) == (True, 0.2)


def test_a_depth_above_the_present_one_reopens_exactly_what_is_missing():
    act, writer = actor(two())
    act.carry_out(Decision(phase="sparse", reason="deep", actions=(Prune(0.9),)), 1, {})
    (event,) = act.carry_out(Decision(phase="sparse", reason="target", actions=(Prune(0.5),)), 2, {})
    assert (event.kind, event.grown, writer.weights.live) == ("surge", 115 - 23, 115)


@pytest.mark.parametrize("depth", [1.0, -0.1, (0.5, 0.2), (0.5, 1.0), math.nan])
def test_an_impossible_depth_is_refused(depth):
    with pytest.raises(ValueError, match=r"Prune takes a sparsity in \[0, 1\)"):
        Prune(depth)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("noise_energy_budget", -0.1, "noise_energy_budget must be finite and at least 0"),
        ("noise_energy_budget", math.inf, "noise_energy_budget must be finite"),
        ("noise_energy_budget", math.nan, "noise_energy_budget must be finite"),
        ("min_density", 1.0, r"min_density must be in \[0, 1\)"),
        ("regrow_init", "lst", "unknown regrow_init 'lst': expected one of zero, noise, last. Did you mean 'last'"),
        ("optimizer_state", "rest", "unknown optimizer_state 'rest'"),
    ],
)
def test_options_out_of_range_are_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        writer_of(two(), **{option: value})


def test_a_refill_of_zeros_leaves_those_that_a_mask_holds():
    act, writer = actor(two())
    act.carry_out(Decision(phase="sparse", reason="held", actions=(Prune(0.5),)), 1, {})
    with torch.no_grad():
        writer.weights.params["b"].zero_()  # exact zeros, of which some are open
    refill = Regrow(1.0, source="zeros", noise_std=0.1)
    act.carry_out(Decision(phase="open", reason="refill", actions=(refill,)), 2, {})
    assert writer.weights.live == 115
    for n, p in writer.weights.params.items():
        assert torch.equal(p != 0, writer.weights.mask(n)), n


# ---- exchange -----------------------------------------------------------------------------------------------------


def test_an_exchange_closes_the_weakest_and_opens_the_largest_gradients_in_each_parameter():
    # By hand: of the four open weights of a, half (two) go: .1 and .2; the largest gradients behind closed ones open.
    a = torch.tensor([4.0, 0.1, 3.0, 0.2, 9.0, 9.0, 9.0, 9.0])
    b = torch.tensor([1.0, 2.0, 0.0, 0.0])
    writer = writer_of({"a": a, "b": b})
    masks = {"a": torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).bool(), "b": torch.tensor([1, 1, 0, 0]).bool()}
    writer.collapse(masks)
    signals = {
        "a": torch.tensor([7.0, 0.0, 7.0, 0.0, 0.1, -3.0, 0.2, 2.0]),
        "b": torch.tensor([0.0, 0.0, 0.5, 0.4]),
    }
    ledger = writer.exchange(0.5, signals=signals, growth="gradient", regrow_init="zero")
    assert writer.weights.mask("a").int().tolist() == [1, 0, 1, 0, 0, 1, 0, 1]
    assert writer.weights.mask("b").int().tolist() == [0, 1, 1, 0]
    assert writer.weights.params["a"].tolist() == [4.0, 0, 3.0, 0, 0, 0, 0, 0]
    assert (ledger.pruned, ledger.grown) == (3, 3)
    assert ledger.before["a"] - ledger.after["a"] == pytest.approx(0.1**2 + 0.2**2, rel=1e-4)


def test_a_weight_that_is_dropped_and_grown_at_once_stays_with_its_value_and_moments():
    p = nn.Parameter(torch.tensor([4.0, 0.1, 3.0, 0.0]))
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    writer = writer_of({"a": p}, optimizer=optimizer)
    writer.collapse({"a": torch.tensor([1, 1, 1, 0]).bool()})
    optimizer.state[p]["momentum_buffer"] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    signals = {"a": torch.tensor([0.0, 9.0, 0.0, 0.1])}
    ledger = writer.exchange(1 / 3, signals=signals, growth="gradient")
    assert writer.weights.mask("a").tolist() == [True, True, True, False]
    assert torch.equal(p.detach(), torch.tensor([4.0, 0.1, 3.0, 0.0]))
    assert optimizer.state[p]["momentum_buffer"].tolist() == [1.0, 2.0, 3.0, 0.0]
    assert (ledger.pruned, ledger.grown) == (0, 0)


@pytest.mark.parametrize("growth", ["random", "gradient", "momentum"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_exchange_keeps_the_density_of_every_parameter(growth, share):
    writer = writer_of(two())
    collapse(writer, 0.8)
    before = {n: writer.weights.live_in(n) for n in "ab"}
    signals = {n: torch.randn_like(p) for n, p in writer.weights.params.items()} if growth != "random" else {}
    writer.exchange(share, signals=signals, growth=growth)
    assert {n: int(writer.weights.mask(n).sum()) for n in "ab"} == before


def test_random_saliency_closes_a_different_half_for_each_seed_and_the_same_for_one():
    def chosen(seed):
        writer = writer_of({"a": torch.ones(400)}, seed=seed)
        return writer.planner.plan(0.5, {}, None, "random")["a"]

    assert torch.equal(chosen(0), chosen(0))
    assert int(chosen(0).sum()) == 200
    assert 60 < int((chosen(0) & chosen(1)).sum()) < 140  # 100 expected; 8 standard deviations
