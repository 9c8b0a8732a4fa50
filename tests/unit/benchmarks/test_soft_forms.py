"""The suite of the soft threshold: what it consists of, what it costs, and that it goes on where it stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surgecollapse.compare import SUITES
from surgecollapse.lab.config import flat_values

ROOT = Path(__file__).parents[3]
OWN = ("soft_forms", "soft_by_kind", "_soft_trials", "_unseen", "sparsity_records")


@pytest.fixture
def forms(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import soft_forms

    yield soft_forms
    torch.set_num_threads(threads)
    for name in OWN:
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(forms, monkeypatch, tmp_path):
    """The suite on digits, with rows in a folder of its own and two forms of two methods."""
    entry = SUITES["smoke"].entries[0]
    entry = replace(entry, settings={**entry.settings, "model": "mlp", "steps": 20, "every": 2})
    suite = replace(SUITES["smoke"], entries=(entry, forms.ENTRIES["reviews-minilm"]))
    monkeypatch.setattr(forms, "ENTRIES", {entry.label: entry})
    monkeypatch.setattr(forms, "ALL_SUITES", (suite,))
    monkeypatch.setattr(forms, "RESULTS", tmp_path)
    monkeypatch.setattr(forms, "FOLDER", tmp_path / "soft_forms")
    monkeypatch.setattr(forms, "COSTS", tmp_path / "costs.json")
    few = {name: forms.FORMS[name][:2] for name in ("soft_threshold", "gmp")}
    return forms, entry, few


def test_the_suite_is_every_task_at_every_sparsity_and_new_tasks_come_first(forms):
    every = list(forms.stages(None, forms.WORTH, forms.LEVELS))
    assert {(stage.search.entry.label, stage.search.sparsity) for stage in every if stage.what == "test"} == {
        (label, sparsity) for label in forms.WORTH for sparsity in (0.8, 0.9, 0.95, 0.98)
    }
    assert set(forms.WORTH) == {*forms.ENTRIES} - {"digits-mlp"}
    first = every[: len(forms.WORTH)]
    assert {(stage.what, stage.search.sparsity) for stage in first} == {("untuned", 0.9)}
    assert first[0].search.entry.label == "figures-resnet"
    alone = [(stage.what, stage.search.sparsity) for stage in forms.stages(None, ("kjv-gpt",), (0.8,))]
    assert alone == [("untuned", 0.8), ("search", 0.9), ("test", 0.8)]


def test_all_methods_of_the_search_have_as_many_forms(forms):
    assert {len(trials) for trials in forms.FORMS.values()} == {8}
    assert {len(trials) for trials in forms.SETS["early"].values()} == {4}


def test_a_net_is_tested_with_what_it_has(forms):
    resnet = forms.Search(forms.ENTRIES["figures-resnet"], 0.9, None)
    assert "dropout" not in forms.tested("gmp_untuned", resnet).settings
    assert forms.tested("gmp_untuned", forms.Search(forms.ENTRIES["mnist1d-mlp"], 0.9, None)).settings["dropout"] == 0.1
    assert [name for name in forms.TESTED if not forms.fits(resnet.entry, name)] == ["dropout"]
    encoder = forms.ENTRIES["reviews-minilm"]
    absent = {name for name in forms.TESTED if not forms.fits(encoder, name)}
    assert absent == {"dropout", "small_dense", "small_dense_untuned"}


def test_untuned_rivals_have_the_one_setting_of_ours_and_train_as_long_as_costs_the_same(forms):
    search = forms.Search(forms.ENTRIES["mnist1d-mlp"], 0.9, None)
    ours, theirs = forms.tested("soft_threshold", search).settings, forms.tested("st3_untuned", search).settings
    assert {**ours, "policy": ""} == {**theirs, "policy": ""}
    longer = forms.tested("gmp_equal_flops_untuned", search)
    assert longer.longer == "gmp_untuned"
    assert longer.settings == forms.tested("gmp_untuned", search).settings
    assert forms.tested("gmp_sam", search).settings["sam_rho"] > 0


def test_a_sparsity_without_a_search_takes_the_forms_of_the_one_at_90_percent(forms):
    at_90 = forms.Search(forms.ENTRIES["mnist1d-mlp"], 0.9, None)
    at_95 = forms.Search(forms.ENTRIES["mnist1d-mlp"], 0.95, None)
    assert at_95.chosen("soft_threshold") == at_90.chosen("soft_threshold")
    with pytest.raises(SystemExit, match="has not been searched"):
        forms.Search(forms.ENTRIES["figures-resnet"], 0.9, None, {"feather": at_90.forms["feather"]}).chosen("set")


def test_the_suite_goes_on_where_it_stopped(tiny, capsys):
    forms, entry, few = tiny
    search = forms.Search(entry, 0.9, None, few)
    search.run(["gmp"])
    rows = list(forms.Rows(forms.FOLDER))
    assert len(rows) == 6
    assert search.missing("gmp") == 0
    assert search.missing("soft_threshold") == 6
    capsys.readouterr()
    forms.searched.cache_clear()
    forms.Search(entry, 0.9, None, few).run(["gmp"])
    assert not capsys.readouterr().out
    names = ["soft_threshold", "gmp_untuned", "gmp_equal_flops_untuned", "small_dense_untuned"]
    again = forms.Search(entry, 0.9, None, few)
    assert forms.test(again, names, 1).status == "complete"
    assert forms.comparison(again, names, 1).counts()["final_missing"] == 0
    stage = forms.Stage(what="untuned", search=again)
    assert stage.missing == stage.seeds * len(stage.names) - len(names)
    assert forms.comparison(again, names, 2).counts()["final_missing"] > 0
    rows = {row["method"]: row for row in forms.Rows(forms.folder_of(again))}
    costs = {name: row["flops_training"] * row["steps"] for name, row in rows.items()}
    step = rows["gmp_equal_flops_untuned"]["flops_training"]
    assert abs(costs["gmp_equal_flops_untuned"] - costs["soft_threshold"]) < 3 * step


def test_a_plan_has_the_core_minutes_of_what_is_missing(tiny):
    forms, entry, few = tiny
    stage = forms.Stage(what="untuned", search=forms.Search(entry, 0.9, None, few))
    missing = stage.missing
    assert missing == 5 * len(forms.FIRST_PASS)
    lines = forms.plan_table([stage], {entry.label: (0.6, 3.0)})
    assert f"| {missing} | 0.25 | {missing * (20 * 0.6 + 3) / 60:.0f} |" in lines[2]
    assert "--entry digits-mlp --sparsity 0.9 --only untuned" in lines[2]
    step, fixed = forms.costs([entry.label], None)[entry.label]
    assert step > 0
    assert fixed >= 0
    assert forms.COSTS.is_file()


def test_figures_are_the_same_for_every_run_and_no_class_is_empty(forms):
    from _unseen import figures

    data = figures()
    assert data.x_train.shape == (8000, 3, 32, 32)
    again = figures.__wrapped__()
    assert torch.equal(data.x_test, again.x_test)
    assert all(part.bincount(minlength=10).min() > 50 for part in (data.y_train, data.y_validation, data.y_test))
    config = forms.make_cell(forms.ENTRIES["figures-resnet"], forms.METHODS["gmp"], 0.9, 0, {}).config
    assert flat_values(forms.as_mapping(config))["task"] == "_unseen:figures"


@pytest.mark.filterwarnings("ignore:training")  # twenty steps are too few to learn
def test_a_form_by_kind_of_network_runs_beside_its_rivals_on_fresh_seeds(forms, tiny, monkeypatch, tmp_path):
    import soft_by_kind

    (label,) = forms.ENTRIES
    monkeypatch.setattr(soft_by_kind, "ENTRIES", forms.ENTRIES)
    monkeypatch.setattr(soft_by_kind, "rivals", lambda *_: [])
    out = tmp_path / "by_kind.jsonl"
    for _ in range(2):  # the second time there is nothing left to train
        soft_by_kind.run([label], 0.8, range(10, 12), None, out)
    rows = soft_by_kind.read_rows(out)
    assert [(row["method"], row["seed"]) for row in rows] == [("soft_threshold", 10), ("soft_threshold", 11)]
    assert rows[0]["config"]["policy_options"]["end_at"] == 0.1
    assert rows[0]["version"] == soft_by_kind.__version__
    rows.append({**rows[0], "method": "gmp", "accuracy": rows[0]["accuracy"] - 0.01})
    gmp = next(line for line in soft_by_kind.lines(rows) if "gradual" in line)
    assert "| +1.00 | 1 |" in gmp  # one common seed has no interval


def test_rivals_are_the_best_sparse_methods_of_the_tables_and_dense_with_dropout(forms):
    import soft_by_kind

    names = [runs.method for runs in soft_by_kind.rivals("mnist1d-mlp", 0.9)]
    assert len(names) == soft_by_kind.RIVALS + 1
    assert names[-1] == "dropout"
    assert "soft_threshold" not in names
