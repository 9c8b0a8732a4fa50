"""The parts of a comparison: statistics, cells and their keys, rows, choices and verdicts."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from comparisons import prepare
from surgecollapse.compare import SUITES, Entry, Plan, Suite
from surgecollapse.compare.command import spread_evenly
from surgecollapse.compare.display import PlainLines
from surgecollapse.compare.methods import METHODS, Method
from surgecollapse.compare.paired_statistics import mean_interval, student_quantile
from surgecollapse.compare.plan import Cell, choose, identity, key_of, make_cell, version
from surgecollapse.compare.results import Panel, Score, choose_trial, panels
from surgecollapse.compare.rows import Rows, only_writer
from surgecollapse.compare.table import as_csv, markdown
from surgecollapse.lab.config import ConfigError, as_mapping, flat_values, make_config

ENTRY = Entry(
    label="digits", title="Digits", settings={"task": "digits", "widths": (8,), "steps": 20}, sparsities=(0.8, 0.9)
)
SUITE = Suite(name="tiny", description="", entries=(ENTRY,))


def method(name: str, *, policy: str = "acdc", trials=(), sparse: bool = True, **settings) -> Method:
    settings = {"policy": policy, **settings}
    return Method(name=name, title=name.title(), description="", settings=settings, trials=tuple(trials), sparse=sparse)


DENSE = method("dense", policy="none", trials=({"lr": 1e-3}, {"lr": 1e-2}), sparse=False)
CYCLES = method("cycles", trials=({"policy_options": {"phase": 0.05}}, {"policy_options": {"phase": 0.1}}))


# ---- statistics


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 29, 200, 5_000])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.9, 0.975, 0.9995])
def test_student_quantile_is_that_of_scipy(share, freedom):
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9, abs=1e-9)


# Tables of Student's distribution, as in any textbook.
@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [(0.975, 1, 12.706), (0.975, 4, 2.776), (0.975, 9, 2.262), (0.975, 29, 2.045), (0.95, 9, 1.833), (0.5, 3, 0.0)],
)
def test_student_quantile_is_that_of_the_tables(share, freedom, value):
    assert student_quantile(share, freedom) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(("share", "freedom"), [(0.4, 3), (1.0, 3), (0.975, 0)])
def test_quantiles_that_are_none_are_refused(share, freedom):
    with pytest.raises(ValueError, match="expected share"):
        student_quantile(share, freedom)


def test_intervals_without_scipy_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    student_quantile.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'surgecollapse\[analysis\]'"):
        mean_interval([1.0, 2.0])


def test_one_value_has_no_interval():
    found = mean_interval([3.0])
    assert (found.mean, found.half, found.low, found.high) == (3.0, None, -math.inf, math.inf)


# ---- cells


def test_a_key_depends_on_what_decides_the_outcome_and_on_nothing_else(tmp_path):
    values = {"task": "mnist", "policy": "acdc"}
    key = key_of(as_mapping(make_config(**values)))
    for same in ({"data_dir": tmp_path}, {"threads": 2}, {"checkpoint_every": 7}, {"policy_options": {"phase": 0.05}}):
        assert key_of(as_mapping(make_config(**values, **same))) == key, same
    for other in ({"seed": 1}, {"lr": 0.5}, {"policy_options": {"phase": 0.1}}, {"sparsity": 0.8}, {"model": "cnn"}):
        assert key_of(as_mapping(make_config(**values, **other))) != key, other


def test_a_key_written_before_there_was_a_setting_is_that_of_its_default():
    config = flat_values(as_mapping(make_config(task="digits", policy="gmp")))
    older = {name: value for name, value in config.items() if name not in ("label_noise", "policy_options")}
    assert key_of(older) == key_of(config)
    assert key_of(identity(config)) == key_of(config)


def test_settings_of_a_trial_add_to_those_of_the_method():
    base = method("m", policy_options={"phase": 0.1, "dense_until": 0.2})
    cell = make_cell(ENTRY, base, 0.9, 3, {"dropout": 0.25, "policy_options": {"phase": 0.05}})
    assert cell.config.method.policy_options == {"phase": 0.05, "dense_until": 0.2}
    config = cell.config
    assert (config.model.dropout, config.run.seed, config.method.sparsity, config.run.threads) == (0.25, 3, 0.9, 1)


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"min_density": 0.1, "growth": "gradient"}, {"policy": "none"}),
        ({"beta2": 0.9}, {"optimizer": "sgd"}),
    ],
)
def test_settings_of_an_entry_are_dropped_where_the_method_has_no_use_for_them(settings, chosen):
    entry = replace(ENTRY, settings={**ENTRY.settings, **settings})
    found = flat_values(as_mapping(make_cell(entry, method("m", **chosen, sparse=False), 0.9, 0, {}).config))
    assert not settings.keys() & found.keys()
    assert {name: found[name] for name in chosen} == chosen
    kept = flat_values(as_mapping(make_cell(entry, CYCLES, 0.9, 0, {}).config))
    assert {name: kept[name] for name in settings} == settings
    with pytest.raises(ConfigError, match=r"m: min_density = 0\.2 has no effect with policy = 'none'"):
        make_cell(entry, method("m", policy="none", min_density=0.2), 0.9, 0, {})


def test_a_trial_may_set_what_the_model_of_an_entry_does_not_have():
    settings = {"task": "mnist", "model": "resnet", "widths": (8,), "depth": 18}
    entry = Entry(label="resnet", title="", settings=settings, sparsities=(0.9,))
    plain = make_cell(entry, CYCLES, 0.9, 0, {"lr": 0.5})
    assert make_cell(entry, CYCLES, 0.9, 0, {"lr": 0.5, "dropout": 0.2}).key == plain.key
    assert plain.config.optimizer.lr == 0.5
    with pytest.raises(ConfigError, match="modulus"):
        make_cell(entry, CYCLES, 0.9, 0, {"modulus": 7})


def test_nothing_is_evaluated_before_the_end_unless_early_stopping_asks_for_it():
    assert make_cell(ENTRY, DENSE, 0.9, 0, {}).config.run.evaluate_every >= 10**9
    assert make_cell(ENTRY, DENSE, 0.9, 0, {"early_stopping": 3, "evaluate_every": 5}).config.run.evaluate_every == 5


def test_dense_methods_are_one_run_at_all_sparsities_and_seeds_are_paired():
    plan = Plan(suite=SUITE, methods=(DENSE, CYCLES), seeds=2, budget="none")
    assert [(cell.seed, cell.method, cell.sparsity) for cell in plan.final({})] == [
        (0, "dense", None), (0, "cycles", 0.8), (0, "cycles", 0.9),
        (1, "dense", None), (1, "cycles", 0.8), (1, "cycles", 0.9),
    ]  # fmt: skip


def test_tuning_is_at_ninety_percent_on_a_seed_that_is_not_reported():
    plan = Plan(suite=SUITE, methods=(DENSE, CYCLES), sparsities=(0.5,), seeds=3)
    for entry, its, cells in plan.trials():
        assert entry is ENTRY
        assert [cell.trial for cell in cells] == [0, 1]
        assert {getattr(cell.config.method, "sparsity", None) for cell in cells} == {0.9 if its.sparse else None}
        assert all(cell.seed not in range(3) for cell in cells)
    assert {getattr(cell.config.method, "sparsity", None) for cell in plan.final({}, guess=True)} == {None, 0.5}


def test_a_method_that_is_not_tuned_yet_is_not_reported():
    plan = Plan(suite=SUITE, methods=(DENSE, CYCLES), seeds=1)
    assert {cell.method for cell in plan.final({("digits", "dense"): {"lr": 1e-2}})} == {"dense"}


def test_data_folders_of_two_sets_are_never_mixed_up(tmp_path):
    fashion = Entry(label="f", title="", settings={"task": "fashion-mnist"}, sparsities=(0.9,))
    assert make_cell(fashion, DENSE, 0.9, 0, {}, data_dir=tmp_path).config.data.data_dir is None
    (tmp_path / "fashion-mnist").mkdir()
    assert make_cell(fashion, DENSE, 0.9, 0, {}, data_dir=tmp_path).config.data.data_dir == tmp_path / "fashion-mnist"


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_every_method_can_be_configured_on_every_suite(suite):
    plan = Plan(suite=suite, methods=tuple(METHODS.values()), seeds=1)
    assert all(len(cells) == 8 for _, _, cells in plan.trials())
    assert plan.final({}, guess=True)
    assert len({entry.label for entry in suite.entries}) == len(suite.entries)


def test_names_are_looked_up_and_mistakes_named():
    assert choose(["b", "a"], {"a": 1, "b": 2}, what="method") == [2, 1]
    with pytest.raises(ConfigError, match="unknown method 'c': expected one of a, b"):
        choose(["c"], {"a": 1, "b": 2}, what="method")
    with pytest.raises(ConfigError, match="given twice"):
        choose(["a", "a"], {"a": 1}, what="method")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsities": ".9,high"}, "numbers like"),
        ({"sparsities": "90"}, "between 0 and 1"),
        ({"reference": "gmp", "methods": "dense"}, "not among the methods: dense"),
        ({"seeds": 0}, "at least 1"),
        ({"budget": "some"}, "equal or none"),
        ({"budget": "0"}, "a number of trials from 1, got '0'"),
        ({"budget": "9"}, "a method has 8 trials"),
        ({"budget": "2", "methods": "default"}, "an ablation is not tuned"),
        ({"entries": "digits-mlb"}, "unknown label 'digits-mlb': expected one of digits-mlp"),
        (
            {"methods": "dense", "known_methods": {"dense": method("dense", lr=-1, trials=({},))}},
            "digits-mlp, dense: lr = -1",
        ),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_trained(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        prepare("smoke", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_smaller_budget_is_as_many_trials_for_every_method_spread_evenly(tmp_path):
    for count in range(1, 9):
        places = spread_evenly(range(8), count)
        assert len(set(places)) == count
        assert count == 1 or all(a + b == 7 for a, b in zip(places, reversed(places), strict=True) if a != b)
    comparison = prepare("smoke", tmp_path, methods="dense,rigl,surge-collapse", budget="2", seeds=1)
    assert comparison.counts()["tuning"] == 6
    for method in comparison.plan.methods:
        assert method.trials == (METHODS[method.name].trials[1], METHODS[method.name].trials[6])


def test_methods_can_be_tuned_at_another_sparsity_than_they_are_reported_at(tmp_path):
    usual, other = (prepare("smoke", tmp_path, tune_at=share, sparsities=".8,.98", seeds=1) for share in (None, 0.98))
    for comparison, share in ((usual, 0.9), (other, 0.98)):
        trials = [cell for _, _, cells in comparison.plan.trials() for cell in cells if cell.sparsity is not None]
        assert {cell.sparsity for cell in trials} == {share}
    assert {cell.key for cell in usual.plan.final({}, guess=True)} == {
        cell.key for cell in other.plan.final({}, guess=True)
    }
    with pytest.raises(ConfigError, match="tune_at must be a sparsity between 0 and 1, got 98"):
        prepare("smoke", tmp_path, tune_at=98)


def test_trials_of_a_smaller_budget_are_those_of_the_whole_one(tmp_path):
    small, whole = (prepare("smoke", tmp_path, budget=budget, seeds=1) for budget in ("3", "equal"))
    keys = [{cell.key for _, _, cells in each.plan.trials() for cell in cells} for each in (small, whole)]
    assert keys[0] < keys[1]


def test_entries_of_a_suite_are_trained_by_themselves_and_the_tables_show_all_that_have_rows(tmp_path):
    other = replace(ENTRY, label="other", settings={**ENTRY.settings, "widths": (16,)})
    suite = Suite(name="two", description="", entries=(ENTRY, other))
    options = {"seeds": 1, "known_suites": {"two": suite}, "known_methods": {"dense": DENSE, "cycles": CYCLES}}
    whole = prepare("two", tmp_path, **options)
    part = prepare("two", tmp_path, entries="other", **options)
    assert {cell.entry for cell in part.plan.final({}, guess=True)} == {"other"}
    assert (whole.counts()["tuning"], part.counts()["tuning"]) == (8, 4)
    rows = Rows(tmp_path)
    for _, _, cells in whole.plan.trials():
        for cell in cells:
            rows.append(row_of(cell))
    tuned = {(entry.label, its.name): dict(its.trials[0]) for entry, its, _ in whole.plan.trials()}
    for cell in whole.plan.final(tuned):
        rows.append(row_of(cell))
    part = prepare("two", tmp_path, entries="other", reference="cycles", **options)
    assert [found.entry.label for found in part.write()] == ["digits", "digits", "other", "other"]
    assert set(json.loads((tmp_path / "tuned.json").read_text())) == {"digits", "other"}


def test_the_full_suite_has_images_and_texts():
    tasks = [entry.settings["task"] for entry in SUITES["full"].entries]
    assert tasks == ["mnist", "mnist", "fashion-mnist", "kjv", "imdb"]


# ---- rows


def row_of(cell: Cell, **values) -> dict:
    facts = {
        "accuracy": 0.5, "accuracy_validation": 0.5, "mean_density": 0.5, "sparsity_reached": 0.9,
        "flops_training": 0.5, "flops_inference": 0.2, "seconds": 1.0, "wall": 1.0, "steps": 20,
    }  # fmt: skip
    return {
        "entry": cell.entry, "method": cell.method, "seed": cell.seed, "version": version(),
        **facts, **values, "config": identity(as_mapping(cell.config)),
    }  # fmt: skip


def test_rows_are_found_again_by_the_run_that_they_are_of(tmp_path):
    cell = make_cell(ENTRY, CYCLES, 0.9, 0, {})
    Rows(tmp_path).append(row_of(cell, accuracy=0.75))
    row = Rows(tmp_path).get(cell.key)
    assert row is not None
    assert row["accuracy"] == 0.75
    assert make_cell(ENTRY, CYCLES, 0.9, 1, {}).key not in Rows(tmp_path)


def test_a_line_that_was_cut_off_is_dropped_and_the_next_is_whole(tmp_path):
    cells = [make_cell(ENTRY, CYCLES, 0.9, seed, {}) for seed in range(3)]
    rows = Rows(tmp_path)
    rows.append(row_of(cells[0]))
    with rows.path.open("ab") as file:
        file.write(json.dumps(row_of(cells[1])).encode()[:200])
    again = Rows(tmp_path)
    assert [cell.key in again for cell in cells] == [True, False, False]
    again.append(row_of(cells[2]))
    assert [cell.key in Rows(tmp_path) for cell in cells] == [True, False, True]
    assert all(json.loads(line) for line in rows.path.read_text().splitlines())


@pytest.mark.parametrize("line", ["<<<<<<< ours", "[1, 2]"])
def test_a_damaged_line_is_named(line, tmp_path):
    cell = make_cell(ENTRY, CYCLES, 0.9, 0, {})
    Rows(tmp_path).append(row_of(cell))
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(ConfigError, match="line 1 is"):
        Rows(tmp_path)


@pytest.mark.parametrize(
    "change", [{"error": "out of memory"}, {"version": "0.0"}, {"config": {"task": "digits", "policy": "gone"}}]
)
def test_failures_other_versions_and_policies_that_are_no_more_are_run_again(change, tmp_path):
    cell = make_cell(ENTRY, CYCLES, 0.9, 0, {})
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row_of(cell), **change}) + "\n")
    assert cell.key not in Rows(tmp_path)


def test_two_comparisons_cannot_write_to_one_folder(tmp_path):
    refused = pytest.raises(ConfigError, match="another process is writing")
    with only_writer(tmp_path), refused, only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_is_said(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError("no locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.warns(UserWarning, match=r"cannot be locked \(no locks available\)"), only_writer(tmp_path):
        pass


# ---- choices and verdicts


def test_tuning_looks_at_validation_accuracy_alone_and_takes_the_first_of_equals(tmp_path):
    its = method("m", trials=({"lr": 1e-3}, {"lr": 2e-3}, {"lr": 3e-3}))
    cells = [make_cell(ENTRY, its, 0.9, 10_000, trial, trial=i) for i, trial in enumerate(its.trials)]
    rows = Rows(tmp_path)
    for cell, validation, test in zip(cells, (0.6, 0.7, 0.7), (0.99, 0.1, 0.9), strict=True):
        rows.append(row_of(cell, accuracy_validation=validation, accuracy=test))
    tuned = choose_trial(its, cells, rows)
    assert tuned is not None
    assert tuned.settings == {"lr": 2e-3}


def test_a_trial_that_failed_is_not_chosen(tmp_path):
    cells = [make_cell(ENTRY, CYCLES, 0.9, 10_000, trial, trial=i) for i, trial in enumerate(CYCLES.trials)]
    rows = Rows(tmp_path)
    assert choose_trial(CYCLES, cells, rows) is None
    rows.append(row_of(cells[1], accuracy_validation=0.1))
    tuned = choose_trial(CYCLES, cells, rows)
    assert tuned is not None
    assert tuned.record["choice"] == 1


def score(its: Method, accuracies: list[float], density: float = 0.5) -> Score:
    facts = {"mean_density": density, "flops_training": 0.6, "flops_inference": 0.1, "seconds": 2.0,
             "accuracy_validation": 0.5, "sparsity_reached": 0.9, "steps": 20}  # fmt: skip
    rows = {seed: {"accuracy": accuracy / 100, **facts} for seed, accuracy in enumerate(accuracies)}
    return Score(method=its, settings={"policy_options": {"phase": 0.1}}, rows=rows)


def panel(*scores: Score, reference: str = "ours") -> Panel:
    return Panel(entry=ENTRY, sparsity=0.9, scores=scores, reference=reference)


def test_differences_are_paired_over_common_seeds():
    ours, other = score(method("ours"), [70.0, 80.0, 90.0, 50.0]), score(CYCLES, [69.0, 78.0, 87.0])
    paired = ours.minus(other)
    assert paired is not None
    assert paired[1] == 3
    assert paired[0].mean == pytest.approx(2.0)
    assert paired[0].half == pytest.approx(stats.t.ppf(0.975, 2) / math.sqrt(3))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.5, 0.6] * 5, "better"),
        ([0.0, 0.1] * 5, "better"),
        ([-0.1, 0.1] * 5, "at least as good"),
        ([-2.0, 2.0] * 5, "not shown"),
        ([-2.0, -2.1] * 5, "worse"),
        ([-0.2, -0.22] * 5, "at least as good"),
        ([0.5, 0.6] * 4, "no claim under 10 seeds"),
    ],
)
def test_verdicts_are_those_of_the_contract(differences, verdict):
    ours = score(method("ours"), [70.0 + difference for difference in differences])
    other = score(CYCLES, [70.0] * len(differences))
    assert [check.verdict for check in panel(ours, other).checks()] == [verdict]


def test_the_best_rival_is_sparse_and_dense_methods_are_judged_apart():
    ours, dense = score(method("ours"), [70.0] * 10, 0.3), score(DENSE, [90.0] * 10, 1.0)
    weak, strong = score(method("weak"), [60.0] * 10), score(method("acdc"), [69.0] * 10, 0.6)
    checks = panel(ours, dense, weak, strong).checks()
    assert [(check.what, check.other.method.name) for check in checks] == [
        ("best sparse rival", "acdc"),
        ("best dense", "dense"),
    ]
    assert checks[0].density_ratio == pytest.approx(0.5)


def test_a_panel_without_its_reference_has_no_checks():
    assert panel(score(CYCLES, [70.0])).checks() == []


def test_rows_of_tuning_are_not_reported(tmp_path):
    plan = Plan(suite=SUITE, methods=(CYCLES,), seeds=2)
    rows = Rows(tmp_path)
    for _, _, cells in plan.trials():
        for cell in cells:
            rows.append(row_of(cell))
    assert panels(plan, {}, rows, "cycles") == []


# ---- tables


def test_the_table_has_the_best_method_first_with_its_paired_difference():
    ours, other = score(method("ours"), [70.0, 72.0]), score(CYCLES, [73.0, 74.0])
    text = markdown([panel(ours, other)], "Title", ["fact"])
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[2].startswith("| Cycles | 73.50 ± 6.35 | +2.50 ± 6.35 | 0.500 | 0.600 | 0.100 | 2.0 | 2 | phase 0.1 |")
    assert lines[3].startswith("| **Ours** | 71.00 ± 12.71 | – | 0.500 |")
    assert "| best sparse rival | Cycles | −2.50 ± 6.35 | 2 | 1.00 | no claim under 10 seeds |" in text


def test_bits_per_character_stand_beside_the_accuracy_of_a_text_alone():
    def of_text(its: Method, accuracies: list[float], bits: list[float]) -> Score:
        plain = score(its, accuracies)
        rows = {seed: {**row, "bits_per_character": bits[seed]} for seed, row in plain.rows.items()}
        return replace(plain, rows=rows)

    ours, other = of_text(method("ours"), [55.0, 56.0], [2.25, 2.125]), of_text(CYCLES, [50.0, 51.0], [2.5, 2.5])
    text = markdown([panel(ours, other)], "Title", [])
    assert "| method | next-character accuracy, % | bits per character | minus Ours |" in text
    assert "| **Ours** | 55.50 ± 6.35 | 2.188 ± 0.794 | – |" in text
    assert "bits per character |" not in markdown([panel(score(CYCLES, [70.0]))], "Title", [])
    (first, _) = csv.DictReader(io.StringIO(as_csv([panel(ours, other)])))
    assert (first["bits_per_character"], first["accuracy"]) == ("2.1875", "55.5")
    (plain,) = csv.DictReader(io.StringIO(as_csv([panel(score(CYCLES, [70.0]))])))
    assert plain["bits_per_character"] == ""


def test_the_csv_holds_the_same_numbers():
    ours, other = score(method("ours"), [70.0, 72.0]), score(CYCLES, [73.0, 74.0])
    first, second = csv.DictReader(io.StringIO(as_csv([panel(ours, other)])))
    assert (first["method"], first["accuracy"], first["difference"]) == ("ours", "71.0", "")
    assert (second["method"], second["difference"], second["common_seeds"]) == ("cycles", "2.5", "2")
    assert json.loads(second["tuned"]) == {"policy_options": {"phase": 0.1}}


def test_every_seed_is_drawn_and_files_are_written(tmp_path):
    from surgecollapse.compare.plots import seeds, write_plots

    ours, other = score(method("ours"), [70.0, 72.0, 71.0]), score(CYCLES, [73.0, 74.0, 75.5])
    (axes,) = seeds([panel(ours, other)]).axes
    dots = sorted(x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
    assert dots == pytest.approx([70.0, 71.0, 72.0, 73.0, 74.0, 75.5])
    write_plots([panel(ours, other)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"seeds.png", "density.png"}
    write_plots([], tmp_path / "nowhere")


def test_a_log_gets_a_line_now_and_then():
    stream = io.StringIO()
    lines = PlainLines(stream)
    for done in range(3):
        lines.update(done, 4, 90.0, ["a", "b"])
    assert stream.getvalue() == "0/4 runs, 90 s left; now: a; b\n"


def test_the_estimate_scales_with_jobs_and_is_unknown_for_nets_without_a_run(tmp_path):
    suite = Suite(name="two", description="", entries=(ENTRY, Entry(**{**vars(ENTRY), "label": "other"})))
    options = {"known_suites": {"two": suite}, "known_methods": {"cycles": CYCLES}, "budget": "none", "seeds": 2}
    cell = make_cell(ENTRY, CYCLES, 0.9, 0, {})
    Rows(tmp_path).append(row_of(cell, wall=10.0))
    assert prepare("two", tmp_path, jobs=1, **options).estimate() == pytest.approx(30.0)
    assert prepare("two", tmp_path, jobs=2, **options).estimate() == pytest.approx(15.0)
    fresh = Suite(name="new", description="", entries=(Entry(**{**vars(ENTRY), "label": "new"}),))
    assert prepare("new", Path(tmp_path / "x"), **{**options, "known_suites": {"new": fresh}}).estimate() is None


def test_a_configuration_is_written_once_for_rows_that_differ_in_seed_and_sparsity(tmp_path):
    rows = Rows(tmp_path)
    config = as_mapping(make_config(task="digits", widths=(8,)))
    for seed, sparsity in ((0, 0.9), (1, 0.9), (1, 0.8)):
        rows.append({"version": version(), "accuracy": 0.5, "config": {**config, "seed": seed, "sparsity": sparsity}})
    lines = [json.loads(line) for line in rows.path.read_text().splitlines()]
    assert ["base" in line for line in lines] == [True, False, False, False]
    again = Rows(tmp_path)
    assert list(again) == list(rows)
    assert [row["config"]["seed"] for row in again] == [0, 1, 1]
    # A file of whole configurations is read as well; a row whose base is gone is used for nothing.
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(Rows(tmp_path / "old")) == list(rows)
    rows.path.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    assert list(Rows(tmp_path)) == []
