"""Readings of several ranks are those of their rows together."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.functional import activation_energy, dead_units, on_off_entropy
from surgecollapse.functional.entropy import pair_overlap, sign_covariance_entropy, unit_energy_entropy
from surgecollapse.observe.pooling import Pool
from surgecollapse.torch_utils.distributed import Ranks


class Recorded(Ranks):
    """Ranks whose parts are known beforehand: the first pass notes them, the second gets their sums."""

    def __init__(self, others):
        super().__init__()
        self.others, self.noted = others, []

    def totals(self, values):
        self.noted.append([value.double() for value in values])
        return [sum((other[i] for other in self.others), value.double()) for i, value in enumerate(values)]

    def highest(self, values):
        return torch.tensor([6, 5, 4])


SITES = ("a", "b", "never run")


def pooled(parts, entropy=sign_covariance_entropy, values=None):
    """What one rank reads, of the parts of all."""
    values = values or [{} for _ in parts]
    notes = []
    for part, more in zip(parts[1:], values[1:], strict=True):
        ranks = Recorded([])
        Pool(ranks, SITES, entropy).read(part, more)
        notes.append(ranks.noted[0])
    return Pool(Recorded(notes), SITES, entropy).read(parts[0], values[0])


def rows(n, units, seed):
    x = torch.randn(n, units, generator=torch.Generator().manual_seed(seed)).relu()
    x[:, 0] = 0.0
    return x


@pytest.mark.parametrize("sizes", [(32, 32), (40, 8), (16, 16, 64)])
def test_statistics_of_the_ranks_are_those_of_their_rows_together(sizes):
    parts = [{"a": rows(n, 6, i), "b": rows(n, 5, 10 + i)} for i, n in enumerate(sizes)]
    found = pooled(parts)
    assert [layer.layer for layer in found.layers] == ["a", "b"]
    for layer in found.layers:
        together = torch.cat([part[layer.layer] for part in parts]).double()
        assert layer.rows == len(together)
        assert layer.units == together.shape[1]
        assert layer.on_off == pytest.approx(on_off_entropy(together).item(), abs=1e-12)
        assert layer.energy == pytest.approx(activation_energy(together).item(), abs=1e-12)
        assert layer.dead == dead_units(together).item()
        overlaps = [pair_overlap(part[layer.layer].double()) for part in parts]
        mean = sum(m * pairs for m, pairs in overlaps) / sum(pairs for _, pairs in overlaps)
        units = torch.tensor(float(layer.units), dtype=torch.float64)
        assert layer.entropy == pytest.approx((-mean.log() / units.log()).clamp(0, 1).item(), abs=1e-12)


def test_a_site_that_one_rank_did_not_run_is_read_from_the_others():
    found = pooled([{"a": rows(16, 6, 0)}, {"a": rows(16, 6, 1), "b": rows(16, 5, 2)}])
    assert {layer.layer: layer.rows for layer in found.layers} == {"a": 32, "b": 16}


def test_one_rank_that_is_not_finite_makes_the_reading_so():
    broken = rows(16, 6, 1)
    broken[3, 2] = float("nan")
    found = pooled([{"a": rows(16, 6, 0)}, {"a": broken}])
    assert not found.finite
    assert not found.layers


def test_other_entropies_are_averaged_by_rows():
    parts = [{"a": rows(8, 6, 0)}, {"a": rows(24, 6, 1)}]
    found = pooled(parts, unit_energy_entropy)
    one, other = (unit_energy_entropy(part["a"]).item() for part in parts)
    assert found.layers[0].entropy == pytest.approx((8 * one + 24 * other) / 32, abs=1e-6)


def test_further_numbers_are_means_over_the_ranks_that_have_them():
    parts = [{"a": rows(8, 6, 0)}, {"a": rows(8, 6, 1)}]
    found = pooled(parts, values=[{"loss": 1.0, "norm": None, "none": None}, {"loss": 3.0, "norm": 2.0, "none": None}])
    assert found.values == {"loss": 2.0, "norm": 2.0}
