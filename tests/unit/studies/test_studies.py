"""Studies: their settings, and what a page computes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from surgecollapse.studies import graphs, registered
from surgecollapse.studies.graphs import with_fewer_bonds
from surgecollapse.studies.page import markdown
from surgecollapse.studies.plasticity import chosen
from surgecollapse.studies.session import StudyRun, left_of, remaining_seconds


@pytest.mark.parametrize("name", list(registered()))
def test_settings_are_json_and_no_run_is_there_twice(name):
    for quick in (True, False):
        runs = [StudyRun(name, config) for config in registered()[name].runs(quick)]
        assert all(json.loads(json.dumps(run.config)) == run.config for run in runs)
        if not quick:
            further = registered()[name].listed(full=True)
            assert all(json.loads(json.dumps(config)) == config for config in further)
            assert further[: len(runs)] == [run.config for run in runs]
        assert len({run.key for run in runs}) == len(runs)
    # The first runs hold one of each method, so that an unfinished study compares something.
    methods = [config["method"] for config in registered()[name].runs(False)]
    assert set(methods[: len(methods) // 4]) == set(methods)


@pytest.mark.parametrize("name", list(registered()))
def test_a_study_without_rows_says_so(name):
    assert "No run is finished yet." in markdown(registered()[name], [], 12)


def test_time_left_is_that_of_like_runs():
    missing = [StudyRun("x", {"method": method, "seed": 2}) for method in ("a", "c")]
    known = [{"config": {"method": "a", "seed": 0}, "seconds": 4.0}, {"config": {"method": "b"}, "seconds": 10.0}]
    assert remaining_seconds(missing, [], 1) is None
    assert remaining_seconds(missing, known, 2) == (4.0 + 7.0) / 2  # of the same method; else the median of all


def test_time_left_is_that_of_the_same_settings_before_that_of_the_same_names():
    def config(**own):
        return {"method": "a", "net": "gpt", "size": 1, "seed": 0, **own}

    known = [
        {"config": config(), "seconds": 1.0},
        {"config": config(size=2), "seconds": 10.0},
        {"config": config(net="lstm"), "seconds": 100.0},
    ]
    left = [config(seed=1), config(size=3, seed=1), config(net="cnn", seed=1)]
    found = [remaining_seconds([StudyRun("x", one)], known, 1) for one in left]
    assert found == [1.0, 5.5, 10.0]  # the same but for the seed; the same names; the same method


def test_time_of_the_processor_is_that_of_the_rows_that_measured_it():
    missing = [StudyRun("x", {"method": method, "seed": 9}) for method in "ab"]
    known = [
        {"config": {"method": "a", "seed": 0}, "seconds": 90.0},
        {"config": {"method": "a", "seed": 1}, "seconds": 90.0, "processor_seconds": 3.0},
        {"config": {"method": "b", "seed": 0}, "seconds": 50.0},
    ]
    assert remaining_seconds(missing, known, 1, of_processor=True) == 3.0 + 50.0
    assert remaining_seconds(missing, known, 1) == 90.0 + 50.0


def test_the_full_form_adds_to_what_the_page_rests_on(tmp_path):
    def runs(quick):
        return [{"method": "a", "seed": seed} for seed in range(1 if quick else 2)]

    both = replace(registered()["graphs"], runs=runs, further=lambda: [{"seed": 1, "method": "a"}, {"method": "b"}])
    assert both.listed() == runs(False)
    assert both.listed(full=True) == [{"method": "a", "seed": 0}, {"method": "a", "seed": 1}, {"method": "b"}]
    assert both.listed(quick=True) == runs(True)
    assert replace(both, further=None).listed(full=True) == runs(False)
    assert left_of(both, tmp_path, full=True).total == 3
    assert left_of(both, tmp_path).total == 2


def test_seed_zero_chooses_a_setting_and_the_other_seeds_judge_it():
    def row(seed, options, online):
        return {"config": {"method": "plain", "seed": seed, "options": options}, "online": online}

    slow = {"lr": 1e-3}
    rows = [row(0, {}, 0.5), row(0, slow, 0.6), row(1, {}, 0.9), row(1, slow, 0.4), row(2, slow, 0.5)]
    assert [found["online"] for found in chosen(rows)["plain"]] == [0.4, 0.5]
    assert chosen(rows[1:]) == {}  # seed 0 has but one of the two settings
    assert chosen(rows[:2]) == {}  # nothing is left to judge by


def test_bonds_are_removed_in_both_directions_and_atoms_stay():
    atoms, count = 12, 40
    adjacent = torch.triu(torch.rand(count, atoms, atoms, generator=torch.Generator().manual_seed(1)) < 0.5, 1)
    adjacent = (adjacent | adjacent.transpose(1, 2)).float()
    bonds = torch.zeros(count, atoms, 4, atoms)
    bonds[:, :, 2] = adjacent
    x = torch.cat([torch.ones(count, atoms, 11), bonds.flatten(2)], 2)
    assert torch.equal(with_fewer_bonds(x, 1.0, 0), x)
    none = with_fewer_bonds(x, 0.0, 0)
    assert torch.equal(none[..., :11], x[..., :11])
    assert not none[..., 11:].any()
    some = with_fewer_bonds(x, 0.25, 0)[..., 11:].view(count, atoms, 4, atoms)
    assert torch.equal(some[:, :, 2], some[:, :, 2].transpose(1, 2))
    assert not (some > bonds).any()
    pairs = int(adjacent.sum()) // 2
    assert int(some.sum()) / 2 / pairs == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / pairs) ** 0.5)


@pytest.mark.parametrize("method", ["dense", "dropout", "small_dense", "gmp"])
def test_molecules_are_learned_with_masks(method, monkeypatch):
    def molecules(seed, *, data_dir, samples):
        # The answer is the number of atoms, which the sum over atoms can count.
        del data_dir, samples
        draws = torch.Generator().manual_seed(seed)
        sizes = torch.randint(2, 7, (160,), generator=draws)
        x = torch.zeros(160, 6, 11 + 24)
        x[..., 1] = (torch.arange(6) < sizes[:, None]).float()
        return SimpleNamespace(x_train=x[:80], y_train=sizes[:80].float(), x_test=x[80:], y_test=sizes[80:].float())

    monkeypatch.setattr(graphs, "qm9", molecules)
    found = graphs.measure({"net": "gnn", "method": method, "edges": 1.0, "seed": 0, "steps": 200})
    assert found["accuracy"] > 0.8
    assert found["density"] <= 0.11 if method == "gmp" else found["density"] > 0.9
