"""Self-normalized resets, against the geometric law and units whose firings are set by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.lab.continual.snr import SelfNormalizedResets, silence_probability


def gate(units=3):
    """Unit i passes input i on: what fires is what the inputs say."""
    model = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(units))
        model[0].bias.zero_()
    return model


def resets(model, **options):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    draws = torch.Generator().manual_seed(7)
    return SelfNormalizedResets(model, optimizer, generator=draws, **{"decay": 1.0, "eta": 1e-30, **options})


def show(model, remedy, fired):
    """Batches of samples × units, 1 where a unit fires."""
    x = 2.0 * torch.tensor(fired, dtype=torch.float32) - 1
    remedy.optimizer.zero_grad()
    model(x).square().sum().backward()
    remedy.optimizer.step()
    remedy()


def test_the_probability_of_a_silence_is_that_of_independent_firings():
    # Firings with probability p: the share of runs of more than a samples without one.
    draws = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < 0.3
    times = draws.nonzero().flatten()
    gaps = times.diff()
    for silent in (1, 3, 6):
        share = float((gaps > silent).double().mean())
        found = silence_probability(torch.tensor([float(silent)]), gaps.sum()[None], torch.tensor([len(gaps)]))
        # Six deviations of a share of so many gaps, and of the rate of firings that it is compared with.
        assert float(found) == pytest.approx(share, abs=6 * 2 * (0.25 / len(gaps)) ** 0.5)
        assert float(found) == pytest.approx(0.7**silent, rel=0.05)


def test_gaps_are_counted_through_batches():
    model = gate()
    remedy = resets(model, prior=10.0)
    show(model, remedy, [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    show(model, remedy, [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    units = remedy.units[0]
    # Unit 0 fires at 1, 3, 6 of eight samples: three gaps of six in all, silent since two.
    assert units.firings.tolist() == [4.0, 2.0, 2.0]  # one more than seen: the prior
    assert units.gaps.tolist() == [16.0, 14.0, 12.0]
    assert units.silent.tolist() == [2.0, 4.0, 6.0]
    assert remedy.replaced == 0


def test_a_record_is_forgotten_at_its_rate():
    model = gate()
    remedy = resets(model, prior=8.0, decay=0.5)
    show(model, remedy, [[0, 1, 1], [1, 1, 0]])
    units = remedy.units[0]
    assert units.gaps.tolist() == [4.0 + 2, 4.0 + 2, 4.0 + 1]
    assert units.firings.tolist() == [0.5 + 1, 0.5 + 2, 0.5 + 1]


def test_a_unit_is_reset_when_its_own_silence_becomes_unlikely():
    model = gate()
    # After two batches, all of whose first four samples fire: p = 9/(8 + 2) for units 0 and 2, 3/(8 + 2) for unit 1.
    remedy = resets(model, prior=2.0, eta=1e-3)
    for _ in range(2):
        show(model, remedy, [[1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]])
    before = model[0].weight.detach().clone()
    # (1 − 0.9)³ ≤ 10⁻³ is reached with three silent samples by unit 0; 0.7³ = 0.34 is not unlikely; unit 2 goes on.
    show(model, remedy, [[0, 0, 1], [0, 0, 1]])
    assert remedy.replaced == 0
    show(model, remedy, [[0, 0, 1], [0, 0, 1]])
    assert remedy.replaced == 1
    assert (model[0].weight != before).any(1).tolist() == [True, False, False]
    assert model[2].weight[:, 0].tolist() == [0.0, 0.0]
    assert bool(model[2].weight[:, 1:].any())
    moments = remedy.optimizer.state[model[2].weight]["exp_avg_sq"]
    assert not bool(moments[:, 0].any())
    assert bool(moments[:, 2].any())
    units = remedy.units[0]
    assert (units.silent[0], units.gaps[0], units.firings[0]) == (0.0, 2.0, 1.0)


def test_a_unit_that_never_fired_is_judged_by_the_prior():
    model = gate(2)
    remedy = resets(model, prior=2.0, eta=0.5**4)
    show(model, remedy, [[1, 0], [1, 0], [1, 0]])
    assert remedy.replaced == 0  # 0.5³ is above η
    show(model, remedy, [[1, 0]])
    assert remedy.replaced == 1
    assert not bool(model[2].weight[:, 1].any())


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"eta": 1.0}, {"prior": 1.0}, {"decay": 0.0}, {"decay": 1.1}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        resets(gate(), **wrong)
