"""Patterns through the whole loop: what stays open, what reopens, bitwise resume, and what is refused."""

from __future__ import annotations

import io
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.functional import nm_mask, parse_pattern
from surgecollapse.functional.patterns import tile_counts, tile_sizes
from surgecollapse.policies import make_policy

pytestmark = pytest.mark.filterwarnings("ignore:pattern '1.4' reaches sparsity")  # rows of 10
TOTAL = 60
PATTERNS = [("2:4", 0.5), ("1:4", 0.75), ("block:3x4", 0.7), ("unit", 0.5)]
POLICIES = ["entropy_cycles", "gmp", "rigl", "entropy_thresholds", "fixed_interval"]
OPTIONS = {
    "rigl": {"interval": 10},
    "entropy_cycles": {"shortest": 0.05, "phase": 0.1, "longest": 0.2},
    "acdc": {"phase": 0.1},
}
X = torch.randn(128, 10, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] * X[:, 2] > 0).long()


class Run:
    """A small run whose whole state can be saved and restored."""

    def __init__(self, policy, *, seed=0, sparsity=0.5, pattern=None, allocation="global", probe=None, **updates):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.order = torch.Generator().manual_seed(3)
        self.controller = surgecollapse.attach(
            self.model,
            self.optimizer,
            surgecollapse.Target(sparsity, pattern=pattern, allocation=allocation),
            TOTAL,
            policy=make_policy(policy, **OPTIONS.get(policy, {})),
            updates=surgecollapse.Updates(**updates),
            readings=surgecollapse.Readings(every=4, probe=probe),
        )

    def train(self, steps, watch=lambda controller: None):
        for _ in range(steps):
            rows = torch.randint(len(X), (32,), generator=self.order)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(X[rows]), Y[rows]).backward()
            self.optimizer.step()
            watch(self.controller)
        return self

    def resumed(self, other):
        """Take up what ``other`` saved."""
        buffer = io.BytesIO()
        torch.save([other.model.state_dict(), other.optimizer.state_dict(), other.controller.state_dict()], buffer)
        buffer.seek(0)
        model, optimizer, controller = torch.load(buffer, weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.controller.load_state_dict(controller)
        self.order.set_state(other.order.get_state())
        return self


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
@pytest.mark.parametrize("policy", POLICIES)
def test_at_every_step_every_tile_is_collapsed_or_open(policy, pattern, sparsity):
    tiles = parse_pattern(pattern)

    def check(controller):
        for mask in controller.masks.values() if len(controller.events) else ():
            counts, sizes = tile_counts(mask, tiles), tile_sizes(mask.shape, tiles)
            if tiles.keep:
                sizes = torch.full_like(counts, tiles.columns)
            assert ((counts == tiles.keep) | (counts == sizes)).all()

    run = Run(policy, pattern=pattern, sparsity=sparsity).train(TOTAL, check)
    run.controller.finalize()
    check(run.controller)
    final = run.controller.masks
    for name, p in run.model.named_parameters():
        assert name not in final or not p[~final[name]].any()
    live, size = sum(int(m.sum()) for m in final.values()), sum(m.numel() for m in final.values())
    if tiles.keep:
        assert live == sum(tiles.least(m.shape) for m in final.values())
        assert final["2.weight"].float().mean() == 1 - sparsity  # rows of 24: whole tiles
        assert final["0.weight"][:, 8:].all()  # rows of 10: the last two are in none
    else:
        largest = max(tiles.tile_size(m.shape) for m in final.values())
        assert abs(live - (1 - sparsity) * size) <= largest  # global: half a tile; a layer of its own each: one
        assert all(m.any() for m in final.values())


@pytest.mark.parametrize(
    ("policy", "pattern", "sparsity"),
    [
        ("entropy_cycles", "2:4", 0.5),
        ("entropy_cycles", "unit", 0.5),
        ("acdc", "block:3x4", 0.7),
        ("rigl", "1:4", 0.75),
        ("rigl", "block:3x4", 0.7),
    ],
)
def test_resume_under_a_pattern_is_bitwise(policy, pattern, sparsity):
    at = 31
    options = {"pattern": pattern, "sparsity": sparsity, "regrow_init": "noise"}
    whole = Run(policy, **options).train(TOTAL)
    second = Run(policy, **options, seed=9).resumed(Run(policy, **options).train(at)).train(TOTAL - at)
    states = zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert whole.controller.events == second.controller.events


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_tiles_of_one_weight_are_no_pattern_at_all(allocation):
    """The whole run: collapses, surges and the final mask choose the same weights, so that all stays bitwise."""
    plain = Run("acdc", allocation=allocation, sparsity=0.8).train(TOTAL)
    tiled = Run("acdc", allocation=allocation, sparsity=0.8, pattern="block:1x1").train(TOTAL)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), tiled.model.parameters(), strict=True))
    assert plain.controller.events == tiled.controller.events


def test_the_final_two_of_four_are_the_largest_of_each_four():
    run = Run("one_shot", pattern="2:4").train(TOTAL // 2 - 1)
    weights = {}
    run.controller.optimizers[0].register_step_post_hook(
        lambda *_: weights.update({n: p.detach().clone() for n, p in run.model.named_parameters()})
    )
    run.train(1)
    collapse = next(event for event in run.controller.events if event.kind == "collapse")
    assert collapse.step == TOTAL // 2
    for name, mask in run.controller.masks.items():
        # Of what is left, the open ones are the largest: the closed are zero now, so that the order is that of before.
        assert torch.equal(mask, nm_mask(weights[name], 2, 4))


def test_a_cycle_reopens_every_tile_and_thins_it_again():
    run = Run("acdc", pattern="2:4").train(TOTAL)
    kinds = [(event.kind, event.sparsity_after) for event in run.controller.events if event.kind != "freeze"]
    # Two weights of each row of the first layer lie in no tile: 48 of 720 stay dense.
    thin = 1 - (720 - (720 - 48) / 2) / 720
    assert {kind for kind, _ in kinds} == {"collapse", "surge"}
    for kind, after in kinds:
        assert after == pytest.approx(thin if kind == "collapse" else 0.0)


def test_gradual_pruning_thins_a_growing_share_of_the_tiles():
    run = Run("gmp", pattern="2:4").train(TOTAL)
    depths = [event.sparsity_after for event in run.controller.events if event.kind == "collapse"]
    assert depths == sorted(depths)
    assert len(set(depths)) > 4
    assert 0.1 < depths[1] < 0.4
    assert depths[-1] == pytest.approx((720 - 48) / 2 / 720)
    assert all(event.grown == 0 for event in run.controller.events)


def test_deeper_than_n_of_m_there_is_nothing():
    """Entropy cycles may go to half the target's density; under 2:4 they stop at a half."""
    run = Run("entropy_cycles", pattern="2:4").train(TOTAL)
    collapses = [event for event in run.controller.events if event.kind == "collapse"]
    assert collapses
    assert all(event.details["depth"] <= 0.5 for event in collapses)


def test_an_exchange_under_a_pattern_moves_tiles_and_keeps_the_density():
    run = Run("rigl", pattern="block:4x2", sparsity=0.8).train(TOTAL)
    exchanges = [event for event in run.controller.events if event.kind == "exchange"]
    assert exchanges
    assert all(event.grown == event.pruned and event.grown % 8 == 0 for event in exchanges)
    assert sum(event.grown for event in exchanges) > 0


@pytest.mark.filterwarnings("ignore:pattern 'unit' at sparsity")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "2:4", "sparsity": 0.9}, "'2:4' keeps 2 of every 4 .* sparsity 0.5, got sparsity=0.9"),
        ({"pattern": "1:8", "sparsity": 0.5}, "give sparsity=0.875"),
        ({"pattern": "4x4"}, "Did you mean 'block:4x4'"),
        ({"pattern": "unit", "sparsity": 0.96, "probe": X[:8]}, "in tiles of 'unit'.*smaller tiles"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_asked_for(options, words):
    with pytest.raises(ValueError, match=words):
        Run("acdc", **options)


@pytest.mark.parametrize(
    ("sparsity", "allocation", "words"),
    [
        (0.9, "global", r"10% of the units and 1\.0% .*single unit.*allocation='layer' and"),
        (0.6, "global", r"40% of the units and 16\.0%.*at most 0\.7"),
        (0.8, "layer", r"20% of the units.*Take a sparsity of at most 0\.7"),
        (0.5, "global", None),
        (0.7, "layer", None),
    ],
)
def test_closing_most_units_is_warned_of(sparsity, allocation, words):
    target = surgecollapse.Target(sparsity, pattern="unit", allocation=allocation)
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = pytest.warns(UserWarning, match=words) if words else nullcontext()
    with expected:
        surgecollapse.attach(model, optimizer, target, total_steps=1000, policy="gmp")


def test_units_of_a_convolution_close_as_channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgecollapse.attach(
        model, optimizer, sparsity=surgecollapse.Target(0.5, pattern="unit"), total_steps=20, policy="one_shot"
    ) as controller:
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.randn(16, 1, 8, 8)).square().mean().backward()
            optimizer.step()
        for mask in controller.masks.values():
            assert (mask.flatten(1).all(1) | ~mask.flatten(1).any(1)).all()
            assert mask.any()
        # 8 rows of 9 and 8 of 72: the nearest to 324 of 648 is 324 ± 36.
        assert abs(sum(int(m.sum()) for m in controller.masks.values()) - 324) <= 36


@pytest.mark.parametrize("pattern", ["2:4", "block:3x4"])
@pytest.mark.parametrize(
    "options",
    [
        {"growth": "momentum"},
        {"growth": "random", "allocation": "layer"},
        {"growth": lambda weight, signal: weight.abs(), "regrow_init": "last"},
        {"saliency": "taylor", "allocation": "erk"},
        {"saliency": "random", "optimizer_state": "warmup"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_every_criterion_works_in_tiles(pattern, options):
    run = Run("entropy_cycles", pattern=pattern, **options).train(TOTAL)
    kinds = {event.kind for event in run.controller.events}
    assert {"collapse", "surge", "freeze"} <= kinds
    size = sum(mask.numel() for mask in run.controller.masks.values())
    live = sum(int(mask.sum()) for mask in run.controller.masks.values())
    tiles = parse_pattern(pattern)
    assert abs(live - 0.5 * size) <= (24 if tiles.keep else 12)  # an open weight may be zero too: the masks count
    for mask in run.controller.masks.values():
        counts = tile_counts(mask, tiles)
        whole = torch.full_like(counts, 2) if tiles.keep else tile_sizes(mask.shape, tiles)
        assert ((counts == whole) | (counts == 0)).all()
