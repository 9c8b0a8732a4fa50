"""Radial updates and correlation traps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse import MemoryRecorder, watch_training
from surgecollapse.observe.monitors.correlation_traps import CorrelationTraps, trap_limit
from surgecollapse.observe.monitors.update_geometry import UpdateGeometry
from surgecollapse.protocols import MonitorContext


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def context(step, **weights):
    return MonitorContext(step=step, model=nn.Identity(), weights=weights)


def geometry(before, now, **options):
    watch = UpdateGeometry(**options)
    watch.prepare(context(4, w=before))
    found = watch.measure(context(5, w=now))
    return {name: series["w"].item() for name, series in found.items()}


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, math.pi / 2, 2.5])
def test_the_radial_share_is_the_squared_cosine_of_update_and_row(angle):
    before = torch.tensor([[3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    turned = torch.tensor([[math.cos(angle), math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    found = geometry(before, before + 0.1 * turned)
    assert found["update/radial_share"] == pytest.approx(math.cos(angle) ** 2, abs=1e-12)


def test_weight_decay_is_all_radial_and_its_ratio_is_rate_times_decay():
    before = normal(7, 5)
    found = geometry(before, (1 - 0.01) * before)
    assert found == {"update/radial_share": pytest.approx(1.0), "update/row_ratio": pytest.approx(0.01)}


def test_random_directions_have_a_share_of_one_over_their_number():
    rows, d = 4000, 50
    before = normal(rows, d, seed=1)
    found = geometry(before, before + 1e-3 * normal(rows, d, seed=2), rows=rows)
    # The share is a mean of rows of Beta(1/2, (d−1)/2), variance below 2/d².
    assert found["update/radial_share"] == pytest.approx(1 / d, abs=5 * math.sqrt(2 / rows) / d)


def test_the_ratio_is_the_median_over_rows_that_were_not_zero():
    before = torch.diag(torch.tensor([1.0, 2.0, 4.0, 0.0]))
    now = before + 0.5 * torch.eye(4).roll(1, dims=1)
    assert geometry(before, now)["update/row_ratio"] == pytest.approx(0.25)


def test_rows_of_zeros_move_tangentially():
    before = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    now = torch.tensor([[0.0, 3.0], [1.0 + 4.0, 0.0]])
    assert geometry(before, now)["update/radial_share"] == pytest.approx(16 / 25)


def test_filters_are_rows_and_vectors_have_no_geometry():
    watch, filters = UpdateGeometry(), normal(3, 2, 2, 2)
    watch.prepare(context(1, conv=filters, bias=normal(3)))
    found = watch.measure(context(2, conv=2 * filters, bias=normal(3, seed=1)))
    assert set(found["update/radial_share"]) == {"conv"}
    assert found["update/row_ratio"]["conv"].item() == pytest.approx(1.0)


def test_rows_of_another_step_are_not_compared():
    watch = UpdateGeometry()
    watch.prepare(context(4, w=normal(3, 3)))
    assert watch.measure(context(7, w=normal(3, 3, seed=1))) == {}


def test_many_rows_are_sampled_and_the_sample_is_the_same_at_both_ends():
    before = normal(1000, 4)
    scales = torch.linspace(0.9, 1.1, 1000, dtype=torch.float64)[:, None]
    found = geometry(before, scales * before, rows=16)
    assert found["update/radial_share"] == pytest.approx(1.0)
    assert 0 < found["update/row_ratio"] <= 0.1


def test_sgd_with_weight_decay_in_a_loop_is_measured_as_computed_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    recorder, seen, x = MemoryRecorder(), [], normal(32, 6, dtype=torch.float32)
    with watch_training(model, optimizer, monitors=["update_geometry"], every=3, budget=None, recorders=[recorder]):
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(32) % 3).backward()
            seen.append(model[0].weight.detach().double().clone())
            optimizer.step()
    before, now = seen[-2:]
    change, unit = now - before, before / before.norm(dim=1, keepdim=True)
    share = ((change * unit).sum(1) ** 2).sum() / change.square().sum()
    ratio = (change.norm(dim=1) / before.norm(dim=1)).sort().values[3]  # torch's median of eight: the lower one
    found = {(m.name, m.layer): m.value for m in recorder.events}
    assert found["update/radial_share", "0.weight"] == pytest.approx(share.item(), rel=1e-3)
    assert found["update/row_ratio", "0.weight"] == pytest.approx(ratio.item(), rel=1e-3)


def traps(weight):
    found = CorrelationTraps().measure(context(1, w=weight))
    return found["trap/count"]["w"].item(), found["trap/excess"]["w"].item()


def test_one_entry_that_is_far_too_large_is_one_trap_wherever_it_lies():
    weight = normal(60, 40)
    weight[3, 7] = 1_000.0
    count, excess = traps(weight)
    assert count == 1
    # Nearly all energy is in the one entry a: λ = a², and the limit is a²/(nm) times that of standard entries.
    assert excess == pytest.approx(60 * 40 / trap_limit(60, 40), rel=0.01)


def test_a_constant_matrix_is_one_trap_with_all_energy():
    count, excess = traps(torch.full((30, 50), 0.25))
    assert count == 1
    # λ = nm·c², σ² = c².
    assert excess == pytest.approx(30 * 50 / trap_limit(50, 30), rel=1e-5)


def test_shuffling_destroys_what_is_not_in_the_entries_themselves():
    rank_one = normal(80, 1, seed=1).sign() @ normal(1, 60, seed=2).sign()
    assert torch.linalg.matrix_rank(rank_one) == 1
    assert traps(rank_one)[0] == 0, "entries ±1 at random places are noise"


def test_independent_normal_entries_are_a_trap_in_one_of_a_hundred_draws():
    found = [traps(normal(50, 50, seed=seed))[0] > 0 for seed in range(300)]
    # 300 draws of 1%, as Johnstone's limit has it for matrices of this size within a factor of two.
    assert sum(found) <= 15


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_scale_does_not_matter_nor_which_side_is_the_longer(scale):
    weight = normal(40, 20)
    weight[0, 0] = 100.0
    assert traps(scale * weight) == pytest.approx(traps(weight), rel=1e-6)
    wide = CorrelationTraps().measure(context(1, w=weight, v=weight.T))
    assert wide["trap/count"]["v"].item() == 1


@pytest.mark.parametrize(("entry", "count"), [(1e30, 1.0), (math.inf, None), (math.nan, None)])
def test_a_net_that_diverges_is_measured_as_far_as_it_is_finite(entry, count):
    weight = normal(40, 20)
    weight[0, 0] = entry  # its square exceeds float32
    found = traps(weight)
    if count is None:
        assert all(map(math.isnan, found))
    else:
        assert found == (count, pytest.approx(40 * 20 / trap_limit(40, 20), rel=1e-6))


def test_vectors_and_single_rows_have_no_spectrum():
    assert CorrelationTraps().measure(context(1, b=normal(5), row=normal(1, 9))) == {}


@pytest.mark.parametrize(("kind", "wrong"), [(UpdateGeometry, {"rows": 0}), (CorrelationTraps, {"most": 1})])
def test_sizes_out_of_range_are_refused(kind, wrong):
    with pytest.raises(ValueError, match="must be at least"):
        kind(**wrong)
