"""Studies: their quick form, resumed, with a page from the rows."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from study_pages import PAGES, ROWS, page_of

from surgecollapse.cli import MISTAKE, main, studying
from surgecollapse.studies import registered
from surgecollapse.studies.local_data import VARIABLE, data_dir
from surgecollapse.studies.session import StudyRun, left_of, rows_of, run_study, runs_of


@pytest.mark.parametrize("name", list(registered()))
def test_the_quick_form_runs_resumes_and_writes_its_page(name, tmp_path):
    study = registered()[name]
    first = run_study(study, tmp_path, quick=True, jobs=0, command="surgecollapse study")
    assert (first.status, first.failures) == ("complete", {})
    assert first.done == first.total == len(study.runs(True)) > 1
    page = first.page.read_text(encoding="utf-8")
    assert page.startswith(f"# {study.title}\n")
    for part in (study.question, "## Setting", "## Results", "## Limits", f"{first.total} of {first.total} runs"):
        assert part in page
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")

    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    again = run_study(study, tmp_path, quick=True, jobs=1)  # starts no process: nothing is missing
    assert (again.status, again.done) == ("complete", first.total)
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == lines


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path):
    study = registered()["plasticity"]
    config = {**study.runs(True)[0], "batches": 0}
    sound = study.runs(True)[1]
    partly = replace(study, runs=lambda _quick: [config, sound], then=None)
    outcome = run_study(partly, tmp_path, jobs=0)
    assert (outcome.status, outcome.done, outcome.total) == ("failed", 1, 2)
    assert list(outcome.failures) == [StudyRun("plasticity", config).name]
    assert len(rows_of(tmp_path)) == 1
    assert '"error"' in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")


def test_runs_that_follow_from_others_begin_once_these_are_done(tmp_path, monkeypatch):
    def config(**own):
        return {"method": "small", "seed": 0, **own}

    def follow(rows, full):
        best = max(rows, key=lambda row: row["online"])["config"]["x"] if len(rows) == 3 else 0
        return [config(x=best, seed=seed) for seed in ((1, 2, 3) if full else (1, 2))]

    measured, broken = [], {2}

    def measure(found):
        measured.append((found["x"], found["seed"]))
        if found["x"] in broken:
            raise ValueError("broken")
        return {"online": -((found["x"] - 1) ** 2)}

    def runs(quick):
        return [config(x=x) for x in (0, 1, 2)]

    study = registered()["plasticity"]
    study = replace(study, runs=runs, then=follow, measure=measure, tables=lambda rows: [], plot=None)
    monkeypatch.setitem(registered(), "plasticity", study)
    failed = run_study(study, tmp_path, jobs=0)
    assert (failed.status, failed.done, failed.total) == ("failed", 2, 5)
    assert measured == [(0, 0), (1, 0), (2, 0)]  # nothing is chosen while one is missing
    left = left_of(study, tmp_path)
    assert (left.total, left.done) == (5, 2)
    broken.clear()
    whole = run_study(study, tmp_path, jobs=0)
    assert (whole.status, whole.done, whole.total) == ("complete", 5, 5)
    assert measured[3:] == [(2, 0), (1, 1), (1, 2)]
    assert run_study(study, tmp_path, jobs=0, full=True).total == 6
    assert measured[6:] == [(1, 3)]
    assert left_of(study, tmp_path, quick=True).total == 3


def test_every_landed_row_of_plasticity_is_still_a_run_of_it():
    rows = rows_of(ROWS / "plasticity")
    assert len(rows) == sum(run.key in rows for run in runs_of(registered()["plasticity"], rows)) >= 15


@pytest.mark.slow
def test_processes_measure_what_this_one_does(tmp_path):
    study = registered()["plasticity"]
    plain = replace(study, runs=lambda _quick: study.runs(True)[:1], then=None)
    rows = []
    for jobs in (0, 1):
        outcome = run_study(plain, tmp_path / str(jobs), jobs=jobs)
        assert (outcome.status, outcome.done) == ("complete", 1)
        rows.append({**next(iter(rows_of(tmp_path / str(jobs)))), "seconds": None, "processor_seconds": None})
    assert rows[0] == rows[1]


def test_the_command_lists_studies_and_refuses_what_is_none(capsys):
    assert main(["study"]) == 0
    listed = capsys.readouterr().out
    assert all(study.question in listed for study in registered().values())
    assert main(["study", "plasticty"]) == MISTAKE
    assert "Did you mean 'plasticity'?" in capsys.readouterr().err
    assert main(["study", "plasticity", "--jobs", "-1"]) == MISTAKE


def test_the_plan_counts_runs_and_their_minutes_and_runs_nothing(tmp_path, capsys):
    study = registered()["plasticity"]
    assert main(["study", "plasticity", "--plan", "--quick", "--out", str(tmp_path)]) == 0
    total = len(study.runs(True))
    assert f"plasticity  {total}  0  {total}  –" in " ".join(capsys.readouterr().out.split()).replace(" ", "  ")
    few = replace(study, runs=lambda _quick: study.runs(True)[:2], then=None)
    run_study(few, tmp_path, jobs=0)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    left = left_of(study, tmp_path, quick=True)
    assert (left.total, left.done) == (total, 2)
    assert left.minutes > 0
    assert main(["study", "--plan", "--out", str(tmp_path / "none")]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in registered())
    assert "0 core-minutes in all, without the 10 that have no run yet" in listed
    assert not (tmp_path / "none").exists()
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == lines


def test_a_budget_begins_no_further_run_and_the_next_call_goes_on(tmp_path):
    study = registered()["graphs"]
    few = replace(study, runs=lambda _quick: study.runs(True)[:3])
    late = run_study(few, tmp_path, jobs=0, until=time.monotonic())
    assert (late.status, late.done, late.total) == ("stopped", 0, 3)
    again = run_study(few, tmp_path, jobs=0, until=time.monotonic() + 3600)
    assert (again.status, again.done) == ("complete", 3)


def test_all_studies_are_run_in_the_order_of_worth_until_the_time_is_up(tmp_path, capsys, monkeypatch):
    begun = []

    def run(study, folder, *_):
        begun.append((study.name, folder))
        return 0

    monkeypatch.setattr(studying, "_run", run)
    assert main(["study", "--all", "--out", str(tmp_path)]) == 0
    assert [name for name, _ in begun][:4] == ["regularization", "language", "robustness", "plasticity"]
    assert sorted(begun) == sorted((name, tmp_path / name) for name in registered())
    begun.clear()
    assert main(["study", "--all", "--out", str(tmp_path), "--budget-minutes", "1e-9"]) == 0
    assert [name for name, _ in begun] == ["regularization"]
    assert main(["study", "graphs", "--all"]) == MISTAKE
    assert main(["study", "--all", "--budget-minutes", "0"]) == MISTAKE
    assert main(["study", "--all", "--quick", "--full"]) == MISTAKE
    capsys.readouterr()


def test_the_command_says_where_data_files_are(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert data_dir() is None
    assert main(["study", "language", "--data-dir", str(tmp_path / "none")]) == MISTAKE
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "kjv.txt").write_text("In the beginning God created the heaven and the earth. " * 200)
    monkeypatch.setenv(VARIABLE, "")  # so that what the command sets is taken back
    out = tmp_path / "out"
    assert main(["study", "language", "--quick", "--jobs", "0", "--out", str(out), "--data-dir", str(tmp_path)]) == 0
    assert data_dir() == tmp_path
    # A sentence that repeats is learned by heart, which the Bible is not.
    counted = next(row for row in rows_of(out) if row["config"]["net"] == "six_grams")
    assert counted["final"] < 0.1


@pytest.mark.parametrize("name", list(registered()))
def test_landed_pages_are_written_from_the_landed_rows(name):
    assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == page_of(name), "run python scripts/study_pages.py"
