"""A comparison as a person runs it: the same table however often it is interrupted, and failures that are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from comparisons import prepare
from surgecollapse.cli import INTERRUPTED, MISTAKE, main
from surgecollapse.compare import Comparison, Entry, Suite
from surgecollapse.compare.display import Quiet
from surgecollapse.compare.methods import METHODS as KNOWN
from surgecollapse.compare.methods import Method
from surgecollapse.compare.plan import Cell
from surgecollapse.compare.pool import Done, Pool
from surgecollapse.compare.worker import train_cell
from surgecollapse.lab.config import as_mapping

TINY = {"task": "digits", "widths": (8, 8), "steps": 40, "every": 2, "min_density": 0.0}
SUITES = {
    "tiny": Suite(
        name="tiny",
        description="",
        entries=(Entry(label="digits", title="Digits", settings=TINY, sparsities=(0.8, 0.9)),),
    )
}
METHODS = {
    "dense": Method(
        name="dense", title="dense", description="", sparse=False,
        settings={"policy": "none"}, trials=({"lr": 1e-3}, {"lr": 1e-2}),
    ),
    "acdc": Method(
        name="acdc", title="AC/DC", description="",
        settings={"policy": "acdc", "policy_options": {"phase": 0.1}}, trials=({"lr": 1e-3}, {"lr": 1e-2}),
    ),
    "broken": Method(
        name="broken", title="broken", description="", settings={"policy": "fixed_interval", "sparsity": 0.5},
        trials=({"policy_options": {"collapse_every": 0}},),
    ),
}  # fmt: skip


class HerePool:
    """Trains in this process, where torch is loaded already; what the processes do is tested with one of them."""

    def __init__(self, jobs: int, work: Path | None) -> None:
        self.running: dict[int | None, Cell] = {}
        self._work = work

    def __enter__(self) -> HerePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, cells: Sequence[Cell], stop: Callable[[], bool], look: Callable[[], None]) -> Iterator[Done]:
        for cell in cells:
            self.running = {0: cell}
            look()
            if stop():
                return
            assert self._work is not None
            yield Done(cell, train_cell(dict(as_mapping(cell.config)), self._work), None)


class StopAfter(Quiet):
    """Asks to stop, as Ctrl-C does, once so many runs are done."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
        if done >= self._runs:
            signal.raise_signal(signal.SIGINT)


def finished(folder):
    """The lines of finished and failed runs, without those that only state a shared configuration."""
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [line for line in lines if "base" not in line]


def tiny(out: Path, methods: str = "dense,acdc", *, plots: bool = False, **options) -> Comparison:
    comparison = prepare(
        "tiny", out, methods=methods, seeds=2, known_suites=SUITES, known_methods=METHODS, work=out.parent, **options
    )
    comparison._make_pool = HerePool
    if not plots:  # they take longest
        comparison._plot = lambda _found: None
    return comparison


def table_of(out: Path) -> list[list[str]]:
    """All of the table but the seconds."""
    rows = [line.split(",") for line in (out / "table.csv").read_text().splitlines()]
    return [[cell for name, cell in zip(rows[0], row, strict=False) if name != "seconds"] for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "whole"
    outcome = tiny(out, plots=True).run()
    assert (outcome.status, outcome.done, outcome.total) == ("complete", 4 + 2 + 4, 4 + 2 + 4)
    return out


def test_a_comparison_leaves_rows_tables_plots_and_its_configuration(whole):
    names = {path.name for path in whole.iterdir()}
    assert names == {"rows.jsonl", "table.md", "table.csv", "tuned.json", "config.json", "seeds.png", "density.png"}
    record = json.loads((whole / "config.json").read_text())
    assert record["sessions"][0]["torch"]
    assert record["methods"]["digits"]["acdc"]["config"]["policy_options"]["phase"] == 0.1
    rows = finished(whole)
    assert [row["trial"] for row in rows] == [0, 1, 0, 1, *[None] * 6]
    assert [row["seed"] for row in rows] == [10_000] * 4 + [0] * 3 + [1] * 3
    sparse = [row for row in rows if row["method"] == "acdc"]
    assert all(row["mean_density"] < 1 and row["flops_training"] < 1 for row in sparse)
    assert all(abs(row["sparsity_reached"] - row["sparsity"]) < 1e-3 for row in sparse)


def test_rivals_at_equal_cost_are_trained_after_what_they_are_measured_by(tmp_path):
    rigl = replace(KNOWN["rigl"], settings={"policy": "rigl", "policy_options": {"interval": 4}})
    longer = replace(KNOWN["rigl_equal_flops"], settings=rigl.settings)
    known = {
        "longer": replace(longer, name="longer"),
        "acdc": METHODS["acdc"],
        "rigl": rigl,
        "small_dense": KNOWN["small_dense"],
    }
    options = {"seeds": 2, "budget": "none", "sparsities": "0.9", "reference": "acdc"}
    comparison = prepare(
        "tiny",
        tmp_path / "out",
        methods=",".join(known),
        known_suites=SUITES,
        known_methods=known,
        work=tmp_path,
        **options,
    )
    comparison._make_pool = HerePool
    comparison._plot = lambda _found: None
    assert comparison.run().status == "complete"
    rows = {(row["method"], row["seed"]): row for row in finished(tmp_path / "out")}
    assert len(rows) == 8
    assert [method for method, _ in rows][-2:] == ["longer", "longer"]
    cost = {place: row["flops_training"] * row["steps"] for place, row in rows.items()}
    steps = rows["longer", 0]["steps"]
    assert steps == rows["longer", 1]["steps"] > 40 == rows["rigl", 0]["steps"]
    # A whole number of steps, and exchanges that fall on other steps: half a step and one dense gradient in 40.
    assert cost["longer", 0] == pytest.approx(cost["acdc", 0], rel=0.05)
    small = rows["small_dense", 0]
    assert small["parameters"] < rows["acdc", 0]["parameters"]
    assert small["flops_training"] < 1


@pytest.mark.parametrize("runs", [1, 7])
def test_an_interrupted_comparison_goes_on_to_the_same_table(runs, whole, tmp_path):
    out = tmp_path / "out"
    first = tiny(out).run(StopAfter(runs))
    assert first.status == "interrupted"
    kept = (out / "rows.jsonl").read_text()
    assert len(finished(out)) == runs
    second = tiny(out).run()
    assert second.status == "complete"
    assert (out / "rows.jsonl").read_text().startswith(kept)
    assert len(finished(out)) == 10
    assert table_of(out) == table_of(whole)
    assert len(json.loads((out / "config.json").read_text())["sessions"]) == 2


def test_what_is_finished_is_not_run_again(whole, monkeypatch):
    monkeypatch.setattr(HerePool, "run", lambda self, cells, stop, look: iter([pytest.fail("ran")] if cells else []))
    assert tiny(whole).run().status == "complete"


def test_a_worker_gives_the_row_that_this_process_gives_and_one_that_is_killed_is_named_and_replaced(tmp_path):
    comparison = tiny(tmp_path / "out", methods="acdc", budget="none", jobs=1)
    comparison._make_pool = Pool
    killed = []

    class Killer(Quiet):
        def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
            if running and not killed:
                import multiprocessing

                killed.append(running[0])
                (child,) = multiprocessing.active_children()
                os.kill(child.pid, signal.SIGKILL)

    outcome = comparison.run(Killer())
    assert outcome.status == "failed"
    assert list(outcome.failures) == killed
    assert "killed by signal 9" in outcome.failures[killed[0]]
    assert (outcome.done, outcome.total) == (3, 4)
    again = tiny(tmp_path / "out", methods="acdc", budget="none")
    assert again.run().status == "complete"
    lines = finished(tmp_path / "out")
    assert [line["error"] is not None for line in lines if "error" in line] == [True]
    by_worker = next(line for line in lines if "error" not in line)
    cell = next(cell for cell in again.plan.final({}) if cell.key == by_worker["key"])
    here = train_cell(dict(as_mapping(cell.config)), tmp_path)
    assert here is not None
    volatile = ("seconds",)
    assert {k: v for k, v in here.items() if k not in volatile} == {k: by_worker[k] for k in here if k not in volatile}


def test_a_run_that_fails_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fail_on_ninety(self, cells, stop, look):
        for cell in cells:
            yield (
                Done(cell, None, "no luck")
                if cell.sparsity == 0.9
                else Done(cell, train_cell(dict(as_mapping(cell.config)), tmp_path), None)
            )

    monkeypatch.setattr(HerePool, "run", fail_on_ninety)
    outcome = tiny(tmp_path / "out", budget="none").run()
    assert outcome.failures == {f"digits acdc 90% seed {seed}": "no luck" for seed in (0, 1)}
    assert [(panel.sparsity, len(panel.scores)) for panel in outcome.panels] == [(0.8, 2), (0.9, 1)]


def test_a_method_that_cannot_be_tuned_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(HerePool, "run", lambda self, cells, stop, look: (Done(c, None, "no luck") for c in cells))
    outcome = tiny(tmp_path / "out", methods="dense").run()
    assert outcome.failures["digits dense"] == "not one of its trials could be trained"
    assert outcome.panels == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quik"], "unknown suite 'quik': expected one of"),
        (["smoke", "--methods", "rigel"], "unknown method 'rigel': expected one of"),
        (["smoke", "--sparsities", "90%"], "expected numbers like .9,.95"),
        (["smoke", "--reference", "ours"], "reference 'ours' is not among the methods"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "smoke", "--dry-run", "--methods", "gmp,set", "--seeds", "3"]) == 0
    assert "16 runs to tune, 0 of them done\n6 runs to report, 0 of them done" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_terminating_the_command_ends_its_workers_and_keeps_the_tables(tmp_path):
    command = [sys.executable, "-m", "surgecollapse", "compare", "smoke", "--methods", "set", "--seeds", "50",
               "--budget", "none", "--jobs", "1", "--out", "out", "--work", "work"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "out" / "rows.jsonl"
    try:
        while not rows.is_file() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED, error
    assert "go on with the same command" in out
    assert not list((tmp_path / "work").iterdir())
    assert "seed" in (tmp_path / "out" / "table.md").read_text()
