"""The page of sparsity records: written from rows, in order, with p and doubts, and each row can be trained again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from surgecollapse.compare import Entry
from surgecollapse.compare.methods import METHODS
from surgecollapse.compare.plan import identity, make_cell
from surgecollapse.compare.rows import Rows
from surgecollapse.lab.config import as_mapping

ROOT = Path(__file__).parents[3]
ENTRY = Entry(
    label="mnist1d-mlp",
    title="",
    settings={"task": "digits", "widths": (8,), "steps": 20, "every": 1},
    sparsities=(0.9,),
)


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sparsity_records

    yield sparsity_records
    sys.modules.pop("sparsity_records")


def write(folder, accuracies, *, began="2026-01-01T00:00:00+00:00", suite="quick"):
    """A folder of a comparison with one method for each key."""
    folder.mkdir(parents=True)
    rows, table = Rows(folder), ["entry,sparsity,method,accuracy"]
    for name, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            cell = make_cell(ENTRY, METHODS[name], 0.9, seed, {})
            facts = {"accuracy": accuracy, "flops_training": 0.5, "mean_density": 0.25, "steps": 4000}
            rows.append({**cell.facts, **facts, "config": identity(as_mapping(cell.config))})
        table.append(f"mnist1d-mlp,0.9,{name},{100 * sum(values) / len(values)}")
    (folder / "table.csv").write_text("\n".join(table) + "\n")
    (folder / "config.json").write_text(json.dumps({"suite": suite, "sessions": [{"began": began}]}))


def test_the_page_is_what_the_rows_say(records):
    every = records.everything()
    assert records.PAGE.read_text(encoding="utf-8") == records.page(records.ladders(every), every)


def test_a_record_is_better_than_the_one_before_it(records, tmp_path):
    gmp = [0.70 + 0.001 * i for i in range(10)]
    write(tmp_path / "a", {"rigl": [x - 0.01 for x in gmp], "gmp": gmp, "st3": [x + 0.01 for x in gmp[:9]]})
    better = [x + 0.02 + 0.001 * (i % 2) for i, x in enumerate(gmp)]
    write(tmp_path / "b", {"feather": better}, began="2026-01-02T00:00:00+00:00")
    ((task, ladder),) = records.ladders(records.everything(tmp_path)).items()
    assert task == ("mnist1d-mlp", 4000, 0.9)
    assert [record.runs.method for record in ladder] == ["gmp", "st3", "feather"]
    first, second, third = ladder
    assert (first.p, first.doubts) == (None, [])
    assert second.doubts == ["under 10 seeds"]
    expected = stats.ttest_rel(better[:9], [x + 0.01 for x in gmp[:9]], alternative="greater").pvalue
    assert third.p == pytest.approx(expected)
    assert third.doubts == []
    text = records.page({task: ladder}, [])
    assert text.count(f"--rerun {third.runs.id}\n") == 1
    assert '"policy": "feather"' in text


def test_controls_stand_beside_every_record_and_a_tuned_one_counts(records, tmp_path):
    write(tmp_path / "a", {"gmp": [0.70, 0.72], "st3": [0.75, 0.76], "small_dense": [0.65, 0.66, 0.9]})
    every = records.everything(tmp_path)
    untuned = replace(every[-1], method="small_dense_untuned", rows={0: {**every[-1].rows[0], "accuracy": 0.95}})
    page = records.page(records.ladders(every), [*every, untuned])
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert "| minus equal FLOPs | minus small dense |" in lines[0]
    assert "| gradual pruning (GMP) | 71.00 | 2 | – | – | +5.50 |" in lines[1]
    assert "| small dense | 73.67 | 3 | 0.9711 | – | itself |" in lines[2]
    assert "| ST-3 | 75.50 | 2 | < 0.0001 | – | +10.00 |" in lines[3]
    command = "python benchmarks/soft_forms.py suite --entry mnist1d-mlp --sparsity 0.9"
    assert f"Not run: equal FLOPs. `{command}` trains them." in page.splitlines()
    only = records.page(records.ladders(every[:2]), [*every[:2], untuned])
    assert "| gradual pruning (GMP) | 71.00 | 2 | – | – | -25.00 |" in only


@pytest.mark.parametrize("differences", [[0.5, -0.2, 0.3], [1.0, 2.0], [-1.0, -3.0, -2.0, 0.1]])
def test_p_is_that_of_scipy(records, differences):
    expected = stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue
    assert records.p_value(differences) == pytest.approx(expected, rel=1e-9)


def test_what_may_be_chance_is_doubted(records, tmp_path):
    gmp = [0.7 + 0.001 * i for i in range(10)]
    write(tmp_path / "a", {"gmp": gmp, "set": [x + (0.02 if i % 2 else -0.019) for i, x in enumerate(gmp)]})
    (ladder,) = records.ladders(records.everything(tmp_path)).values()
    assert ladder[-1].doubts == ["p ≥ 0.05"]


def test_flops_are_relative_to_the_dense_training_of_the_suite(records, tmp_path):
    write(tmp_path / "a", {"gmp": [0.7, 0.8]})
    (runs,) = records.everything(tmp_path)
    assert (runs.steps, runs.flops) == (4000, 0.5)


def test_every_record_of_the_page_can_be_configured_again_as_it_was(records):
    for ladder in records.ladders(records.everything()).values():
        for record in ladder:
            runs = record.runs
            again = identity(records.configuration(runs, 3))
            then = identity({**runs.config, "seed": 3, "sparsity": runs.sparsity})
            assert {key: again[key] for key in then if key != "evaluate_every"} == {
                key: value for key, value in then.items() if key != "evaluate_every"
            }


def test_a_record_is_trained_again_seed_by_seed(records, tmp_path):
    from io import StringIO

    from rich.console import Console

    write(tmp_path / "a", {"gmp": [0.5, 0.5]})
    (runs,) = records.everything(tmp_path)
    shown = StringIO()
    records.rerun(runs, 1, None, Console(file=shown))
    (line,) = shown.getvalue().splitlines()
    assert line.startswith("seed 0: ")
    assert line.endswith(f"{float(line.split()[2][:-1]) - 50:+.3f}")
