"""Dormant units: their score by hand, the way their output takes, and recycling that changes nothing but the future."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse
from surgecollapse import events
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.prunable import named_weights
from surgecollapse.act.randomness import Generators
from surgecollapse.act.recycle import Recycler
from surgecollapse.events import Plan, Reading
from surgecollapse.functional import dormancy
from surgecollapse.observe.unit_tracing import follow_units
from surgecollapse.policies import NoOp, Recycle, make_policy

# ---- the score ------------------------------------------------------------------------------------------------------


def test_dormancy_by_hand():
    # Mean magnitudes 2, 0, 1, 5; their mean is 2.
    h = torch.tensor([[1.0, 0.0, 1.0, -4.0], [-3.0, 0.0, 1.0, 6.0]])
    assert dormancy(h).tolist() == [1.0, 0.0, 0.5, 2.5]
    assert dormancy(1e-6 * h).tolist() == pytest.approx([1.0, 0.0, 0.5, 2.5])


def test_in_a_silent_layer_every_unit_is_dormant():
    assert dormancy(torch.zeros(4, 3)).tolist() == [0.0, 0.0, 0.0]


def test_a_layer_that_is_not_finite_has_no_dormant_units():
    assert not (dormancy(torch.tensor([[0.0, float("nan")], [0.0, 1.0]])) <= 0.1).any()
    assert not (dormancy(torch.tensor([[0.0, float("inf")], [0.0, 1.0]])) <= 0.1)[1]


def test_dormancy_wants_rows_and_units():
    with pytest.raises(ValueError, match=r"must be \(rows, units\)"):
        dormancy(torch.ones(2, 3, 4))


# ---- the way of the units -------------------------------------------------------------------------------------------


def follow(model, x, weights=None):
    names = {id(p): name for name, p in model.named_parameters()}
    weights = weights or [name for name, p in model.named_parameters() if p.ndim >= 2]
    with torch.no_grad():
        found, left = follow_units(names, weights, lambda: model.eval()(x))
    assert {passage.incoming for passage in found}.isdisjoint(left)
    return {passage.incoming: passage for passage in found}, left


def test_units_are_followed_through_modules_and_functions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 2)
            self.act, self.norm = nn.ReLU(inplace=True), nn.BatchNorm1d(6)

        def forward(self, x):
            x = F.dropout(self.act(self.a(x)), 0.5, self.training)
            x = torch.relu(self.norm(self.b(x)))
            assert x.shape[1] == 6  # asking for a shape is no use
            return self.d(F.gelu(self.c(x)).clone())

    found, left = follow(Net(), torch.randn(8, 4))
    assert {n: (p.bias, p.outgoing, p.columns) for n, p in found.items()} == {
        "a.weight": ("a.bias", "b.weight", 1),
        "b.weight": ("b.bias", "c.weight", 1),
        "c.weight": ("c.bias", "d.weight", 1),
    }
    assert left == {"d.weight": "has units that are an output of the model"}


def test_scores_are_those_of_the_activation_that_the_next_layer_sees():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(32, 4)
    found, _ = follow(model, x)
    assert torch.equal(found["0.weight"].scores, dormancy(torch.relu(model[0](x))))


def test_channels_are_followed_through_pooling_and_flattening():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    x = torch.randn(5, 1, 8, 8)
    found, _ = follow(model, x)
    assert found["0.weight"].outgoing == "3.weight"
    last = found["3.weight"]
    assert (last.outgoing, last.columns) == ("6.weight", 4)
    h = model[:5](x).detach()  # (5, 4, 2, 2): positions are rows
    assert torch.allclose(last.scores, dormancy(h.permute(0, 2, 3, 1).reshape(-1, 4)))


def test_sequences_keep_their_units_on_the_last_axis():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4), nn.Flatten(0, 1), nn.Linear(4, 2))
    found, _ = follow(model, torch.randn(3, 7, 4))
    assert {n: p.outgoing for n, p in found.items()} == {"0.weight": "2.weight", "2.weight": "4.weight"}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(h + self.c(torch.relu(self.b(h))))


def test_where_the_way_forks_or_mixes_the_layer_is_left():
    found, left = follow(Residual(), torch.randn(8, 4))
    # b lies inside the block and has one way out; a also goes round it, and c is added to something else.
    assert list(found) == ["b.weight"]
    assert left["a.weight"] == "has units that go through add"
    assert left["c.weight"] == "has units that go through add"


class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h), self.c(h)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.b(torch.relu(self.b(torch.relu(self.a(x))))))


class Assigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.a(x)
        h[:, 0] = 1.0
        return self.head(h)


@pytest.mark.parametrize(
    ("model", "weight", "why"),
    [
        (Assigning(), "a.weight", "go through __setitem__"),
        (Fork(), "a.weight", "has units that go to more than one layer"),
        (Shared(), "b.weight", "is used more than once in a pass"),
        (Shared(), "a.weight", "has units that go to b.weight, which is used more than once"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "0.weight", "go through layer_norm"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2)), "0.weight", "go through softmax"),
    ],
)
def test_the_reason_is_given(model, weight, why):
    found, left = follow(model, torch.randn(8, 4))
    assert weight not in found
    assert why in left[weight]


def test_grouped_and_attended_units_are_left():
    torch.manual_seed(0)
    grouped = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2))
    _, left = follow(grouped, torch.randn(2, 1, 8))
    assert "other than column by column" in left["0.weight"]

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.attention, self.head = nn.Linear(4, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            h = self.a(x)
            return self.head(self.attention(h, h, h)[0])

    _, left = follow(Attending(), torch.randn(3, 5, 4))
    assert "multi_head_attention" in left["a.weight"]
    assert left["attention.in_proj_weight"] == "is not applied as a linear layer or a convolution"


# ---- recycling ------------------------------------------------------------------------------------------------------


def two_layers():
    """Three inputs, three units, two outputs; unit 1 is silent for inputs that are not negative."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, -2.0, -1.0], [0, 0, 2.0]]))
        model[0].bias.copy_(torch.tensor([0.5, -0.25, 0.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    return model


X = torch.tensor([[1.0, 2.0, 0.5], [0.5, 0.0, 2.0], [0.0, 1.0, 1.0]])


def recycled(model, optimizer, tau, masks=None, moments="reset"):
    params = named_weights(model)
    weights = MaskedWeights({"0.weight": params["0.weight"]})
    recycler = Recycler(weights, lambda p: optimizer, Generators(0), moments)
    if masks is not None:
        weights.set(masks, {name: int(mask.sum()) for name, mask in masks.items()})
    found, _ = follow(model, X, ["0.weight"])
    return recycler.recycle(params, list(found.values()), tau)


def test_two_layers_by_hand():
    model = two_layers()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(3.0), "exp_avg": p.detach() + 9, "exp_avg_sq": p.detach() + 9}
    before, said = copy.deepcopy(model.state_dict()), model(X).detach()
    ledger, details = recycled(model, optimizer, tau=0.0)
    assert details == {"units": {"0.weight": 1}, "left": {}}
    after = model.state_dict()
    draw = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))[0]
    scale = (before["0.weight"].square().mean()).sqrt()
    assert torch.allclose(after["0.weight"][1], draw * scale)
    assert after["0.bias"].tolist() == [0.5, 0.0, 0.0]
    assert after["2.weight"].tolist() == [[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]]
    assert torch.equal(after["0.weight"][[0, 2]], before["0.weight"][[0, 2]])
    assert torch.equal(after["2.bias"], before["2.bias"])
    # The unit was silent, and is not heard now.
    assert torch.equal(model(X), said)
    moments = {n: optimizer.state[p]["exp_avg"] == 0 for n, p in model.named_parameters()}
    assert moments["0.weight"].tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert moments["0.bias"].tolist() == [False, True, False]
    assert moments["2.weight"].tolist() == [[False, True, False]] * 2
    assert not moments["2.bias"].any()
    # The ledger: 4 of 25 outgoing energies, and the drawn row.
    assert ledger.before["2.weight"] - ledger.after["2.weight"] == pytest.approx(2.0**2 + 5.0**2)
    assert ledger.injected["0.weight"] == pytest.approx(float(after["0.weight"][1].square().sum()))
    assert ledger.after["0.weight"] == pytest.approx(float(after["0.weight"].square().sum()))
    assert ledger.recycled == 1
    assert (ledger.pruned, ledger.grown) == (0, 0)


def test_tau_is_the_greatest_dormancy_that_is_recycled():
    # Mean activations: 1, 0 and 7/3; dormancies .9, 0, 2.1.
    assert recycled(two_layers(), torch.optim.SGD([nn.Parameter(X)], lr=1), 0.89)[1]["units"] == {"0.weight": 1}
    assert recycled(two_layers(), torch.optim.SGD([nn.Parameter(X)], lr=1), 0.91)[1]["units"] == {"0.weight": 2}


def test_new_weights_respect_the_mask():
    model = two_layers()
    mask = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]]).bool()
    recycled(model, torch.optim.SGD(model.parameters(), lr=1), 0.0, {"0.weight": mask})
    assert model[0].weight[1, 0] == 0
    assert (model[0].weight[1, 1:] != 0).all()


def test_a_unit_without_open_weights_is_left_as_it_is():
    model = two_layers()
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]]).bool()
    said = model(X).detach()
    _, details = recycled(model, torch.optim.SGD(model.parameters(), lr=1), 0.0, {"0.weight": mask})
    assert details["units"] == {"0.weight": 0}
    assert torch.equal(model(X), said)
    assert model[2].weight[0, 1] == 2.0


def test_zeros_are_written_after_all_draws():
    """Layer 2 is the way out of a silent unit and has one of its own, whose new weights must not hear it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(9.0)[1] = -100.0
    said = model(X).detach()
    params = named_weights(model)
    weights = MaskedWeights({name: params[name] for name in ("0.weight", "2.weight")})
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    found, _ = follow(model, X, list(weights.params))
    Recycler(weights, lambda p: optimizer, Generators(0), "reset").recycle(params, list(found.values()), 0.0)
    assert model[2].weight[1, 1] == 0
    assert (model[2].weight[1, [0, 2, 3]] != 0).all()
    assert torch.equal(model(X), said)


def test_flattened_channels_lose_all_their_columns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].bias[2] = -100.0
    x = torch.randn(4, 1, 4, 4)
    said = model(x).detach()
    params = named_weights(model)
    weights, optimizer = MaskedWeights({"0.weight": params["0.weight"]}), torch.optim.SGD(model.parameters(), lr=1)
    found, _ = follow(model, x, ["0.weight"])
    Recycler(weights, lambda p: optimizer, Generators(0), "reset").recycle(params, list(found.values()), 0.0)
    assert (model[3].weight == 0).tolist() == [[False] * 8 + [True] * 4] * 2
    assert torch.allclose(model(x), said, atol=1e-7)


def test_what_is_not_trained_is_not_touched():
    model = two_layers()
    model[2].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    _, details = recycled(model, torch.optim.SGD(model[0].parameters(), lr=1), 0.0)
    assert details["left"] == {"0.weight": "has units of 2.weight, which is not trained"}
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


# ---- the policy and the loop ----------------------------------------------------------------------------------------


def test_recycling_joins_the_decisions_of_another_policy():
    plan = Plan(sparsity=0.8, total_steps=100, every=10)
    alone, joined = make_policy("gmp"), Recycle(tau=0.1, interval=25, over="gmp")
    for policy in (alone, joined):
        policy.start(plan)
    for step in range(10, 101, 5):
        wanted, found = alone.decide(Reading(step=step)), joined.decide(Reading(step=step))
        recycled = [action for action in found.actions if isinstance(action, events.Recycle)]
        assert [action for action in found.actions if action not in recycled] == list(wanted.actions)
        assert found.phase == wanted.phase
        assert recycled == ([events.Recycle(0.1)] if step in (25, 50, 75) else [])
        assert wanted.reason in found.reason or not wanted.acts
    assert joined.growth == "random"
    assert Recycle(over=make_policy("entropy_cycles")).growth == "ema_gradient"
    assert Recycle(over="rigl").from_start


def test_recycling_is_made_up_for_after_a_step_that_was_not_finite():
    policy = Recycle(interval=20)
    policy.start(Plan(sparsity=0.0, total_steps=None, every=10))
    recycled = (events.Recycle(0.025),)
    assert policy.decide(Reading(step=20, finite=False)).actions == ()
    assert policy.decide(Reading(step=30)).actions == recycled
    assert policy.decide(Reading(step=40)).actions == recycled
    assert policy.decide(Reading(step=50)).actions == ()


@pytest.mark.parametrize("options", [{"tau": -0.1}, {"tau": float("nan")}, {"interval": 0}, {"over": "redu"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"must be|unknown policy"):
        Recycle(**options)


def train(policy, *, sparsity=0.0, steps=60, dead=True, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # GELU is hardly ever exactly zero: a unit behind it is dormant, but not silent.
        first = nn.ReLU() if dead else nn.GELU()
        model = nn.Sequential(nn.Linear(6, 12), first, nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 2))
        x = torch.randn(64, 6)
    if dead:
        with torch.no_grad():
            model[0].bias[:3] = -100.0
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=sparsity,
        total_steps=60,
        policy=policy,
        readings=surgecollapse.Readings(every=10),
        **options,
    )
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer, controller


def test_dead_units_live_again_without_pruning():
    model, _, controller = train(Recycle(tau=0.0, interval=20))
    events = [event for event in controller.events if event.kind == "recycle"]
    assert [event.step for event in events] == [20, 40]  # not at the very last step
    first = events[0]
    assert first.details["units"]["0.weight"] == 3
    assert first.details["dormancy"] == 0.0
    assert first.energy_injected > 0
    assert {layer.name for layer in first.layers} >= {"0.weight", "0.bias", "2.weight"}
    # Silent units said nothing before and are not heard after: deeper sites have the energy they had.
    assert first.details["activation_energy"]["2"][0] == pytest.approx(first.details["activation_energy"]["2"][1])
    assert events[1].details["units"]["0.weight"] < 3
    assert controller.sparsity == 0.0
    assert (model[0].bias[:3].abs() < 1).all()


def test_recycling_that_finds_nothing_changes_nothing():
    plain, *_ = train(NoOp(), dead=False)
    kept, _, controller = train(Recycle(tau=0.0, interval=20), dead=False)
    counts = [sum(e.details["units"].values()) for e in controller.events if e.kind == "recycle"]
    assert counts == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), kept.parameters(), strict=True))


@pytest.mark.parametrize("over", ["no_op", "gmp", "acdc", "rigl"])
def test_resume_is_bitwise_and_masks_hold(over):
    def policy():
        return Recycle(tau=0.3, interval=10, over=over)

    sparsity = 0.0 if over == "no_op" else 0.5
    whole, _, through = train(policy(), sparsity=sparsity)
    model, optimizer, first = train(policy(), sparsity=sparsity, steps=25)
    state = copy.deepcopy([model.state_dict(), optimizer.state_dict(), first.state_dict()])
    again, other, second = train(policy(), sparsity=sparsity, steps=3)
    again.load_state_dict(state[0])
    other.load_state_dict(state[1])
    second.load_state_dict(state[2])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 2))  # as in train: then the same rows
        x = torch.randn(64, 6)
    for _ in range(35):
        other.zero_grad()
        F.cross_entropy(again(x), (x[:, 0] > 0).long()).backward()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert through.events == second.events
    assert any(sum(e.details["units"].values()) for e in through.events if e.kind == "recycle")
    params = dict(whole.named_parameters())
    assert all(not params[name][~mask].any() for name, mask in through.masks.items())


def test_what_is_left_is_named_in_the_intervention():
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(16, 4)
    with surgecollapse.attach(
        model,
        optimizer,
        sparsity=0.0,
        total_steps=None,
        policy=Recycle(interval=5),
        readings=surgecollapse.Readings(every=5),
    ) as controller:
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    (event,) = controller.events
    assert event.details["units"].keys() == {"b.weight"}
    assert event.details["left"] == {
        "a.weight": "has units that go through add",
        "c.weight": "has units that go through add",
    }
