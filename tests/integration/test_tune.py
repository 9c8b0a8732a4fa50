"""Searches over runs: real small ones, and ones whose training is made up where only the search is in question."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from here_pool import HerePool
from surgecollapse.cli import main
from surgecollapse.compare.pool import Done
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import read_config
from surgecollapse.lab.training.loading import load_data
from surgecollapse.tuning.objectives import choose_objectives
from surgecollapse.tuning.page import verdict, write_result
from surgecollapse.tuning.runs import FIRST_SEED
from surgecollapse.tuning.search import Budget, Search
from surgecollapse.tuning.settings import RunSpace
from surgecollapse.tuning.storage import LOST, REASON, RETRY, open_storage
from surgecollapse.tuning.worker import PRUNED, train_run

DIGITS = {"task": "digits", "steps": 6, "widths": [8], "evaluate_every": 2, "policy": "gmp", "every": 2}


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def pool_of(work, log=None):
    """A pool that does the work here, one job at a time."""

    class OneByOne(HerePool):
        def feed(self, take, stop, look, hear=lambda job, step, value: False):
            while not stop() and (job := take()) is not None:
                self.running = {0: job}
                look()
                if log is not None:
                    log.append(job)
                try:
                    yield Done(job, work(job.message, lambda step, value, job=job: hear(job, step, value)), None)
                except (ValueError, RuntimeError, MemoryError) as error:
                    yield Done(job, None, str(error))

    return OneByOne


def real(tmp_path):
    return lambda message, tell: train_run(message, tmp_path, tell)


def made_up(value=lambda config: -abs(config["optimizer"]["lr"] - 0.01), **more):
    """Rows whose accuracy is a function of the configuration."""

    def work(message, tell):
        found = value(message["config"])
        density = message["config"]["method"].get("sparsity", 0.0)
        row = {"accuracy": found, "sparsity": density, "seconds": 0.0, "flops": 10.0, "steps": 6, "diverged": False}
        return {**row, "test_accuracy": found - 0.1, **more} if message["test"] else {**row, **more}

    return work


def search_of(tmp_path, work, space=None, objective="accuracy", log=None, **options):
    options = {"budget": Budget(trials=4), "fresh": 2, "sampler": "random", **options}
    made = RunSpace([DIGITS], space or {"lr": "1e-3..1e-1:log"})
    return Search(made, choose_objectives(objective), tmp_path / "study", make_pool=pool_of(work, log), **options)


def trials_of(outcome):
    return outcome.study.get_trials()


def test_small_study_ends_with_a_winner_on_fresh_seeds(tmp_path):
    search = search_of(tmp_path, real(tmp_path), {"lr": "1e-3..1e-1:log", "sparsity": "0.5..0.9"}, seeds=2)
    outcome = search.run()
    assert outcome.status == "complete"
    assert [trial.state for trial in trials_of(outcome)] == [TrialState.COMPLETE] * 4
    assert trials_of(outcome)[0].params == {"lr": 1e-3, "sparsity": 0.9}  # the untuned settings
    rows = list(search.rows)
    for trial in trials_of(outcome):
        its = [row for row in rows if row["trial"] == trial.number]
        assert sorted(row["seed"] for row in its) == [FIRST_SEED, FIRST_SEED + 1]
        assert all("test_accuracy" not in row for row in its)
        assert trial.value == pytest.approx(sum(row["accuracy"] for row in its) / 2, rel=1e-12)
    fresh = [row for row in rows if row["trial"] is None]
    assert sorted(row["seed"] for row in fresh) == [0, 0, 1, 1]
    assert all(row["config"]["split_seed"] == 0 for row in rows)
    default, best = outcome.finalists
    assert (default.name, best.name, best.number) == ("default", "best", outcome.study.best_trial.number)
    said = verdict(best, default, search.objectives[0])
    assert said.seeds == 2
    assert said.test is not None
    written = write_result(search, outcome, "surgecollapse tune digits")
    config = read_config(written["best"])
    assert config.optimizer.lr == outcome.study.best_params["lr"]
    page = written["page"].read_text(encoding="utf-8")
    for words in (
        "Result on fresh seeds",
        "Parallel coordinates",
        "Slices",
        "surgecollapse run --config",
        "Importances need",
    ):
        assert words in page


def test_the_test_set_is_put_away_until_the_end(tmp_path, monkeypatch):
    from surgecollapse.lab.training import trainer

    message = {"config": {**DIGITS, "seed": 0}, "report": None, "extra": (), "test": False}
    clean = train_run(message, tmp_path)
    load = trainer.load_data

    def poisoned(config):
        data = load(config)
        return replace(data, x_test=data.x_test * float("nan"))

    monkeypatch.setattr(trainer, "load_data", poisoned)
    again = train_run(message, tmp_path)
    assert {**clean, "seconds": 0} == {**again, "seconds": 0}
    assert train_run({**message, "test": True}, tmp_path)["test_accuracy"] == 0.0  # NaN never counts


def test_study_that_is_complete_trains_nothing_and_writes_its_page_again(tmp_path):
    log = []
    search_of(tmp_path, made_up(), log=log).run()
    count = len(log)
    assert count == 4 + 2 * 2
    outcome = search_of(tmp_path, made_up(), log=log).run()
    assert len(log) == count
    assert outcome.status == "complete"
    assert len(search_of(tmp_path, made_up(), log=log, budget=Budget(trials=6)).run().study.trials) == 6


@pytest.mark.parametrize("change", [{"seeds": 2}, {"objective": "loss"}, {"space": {"lr": "1e-3..1.0:log"}}])
def test_study_of_other_settings_is_not_mixed_in(tmp_path, change):
    search_of(tmp_path, made_up()).run()
    with pytest.raises(ValueError, match="choose another"):
        search_of(tmp_path, made_up(), **change).run()


def test_grid_trains_every_combination_once_and_nothing_twice(tmp_path):
    log = []
    space = {"policy": "gmp,rigl", "policy.drop_fraction": "0.2,0.4", "lr": "0.01,0.02"}
    outcome = search_of(tmp_path, made_up(), space, log=log, sampler="grid", budget=Budget(), fresh=0).run()
    keys = [job.key for job in log]
    assert len(set(keys)) == len(keys) == 2 * (1 + 2)  # gmp has no drop_fraction: its pairs are the same run
    assert all(trial.state is TrialState.COMPLETE for trial in trials_of(outcome))


def test_several_objectives_end_with_a_front(tmp_path):
    work = made_up(lambda config: config["method"]["sparsity"])  # the sparser, the better: one point is the front
    search = search_of(tmp_path, work, {"sparsity": "0.5..0.9"}, "accuracy:min,density", budget=Budget(trials=12))
    outcome = search.run()
    front = {trial.number for trial in outcome.study.best_trials}
    finalists = [finalist.number for finalist in outcome.finalists if finalist.number is not None]
    assert 1 < len(finalists) <= 5
    assert set(finalists) <= front
    written = write_result(search, outcome)
    page = written["page"].read_text(encoding="utf-8")
    assert "Pareto front" in page
    assert f"trial-{finalists[0]}.toml" in page
    assert "What mattered for" in page


def test_a_bad_trial_is_recorded_with_its_reason_and_the_study_goes_on(tmp_path):
    turns = iter(["ok", "diverged", "memory", "none", "ok", "ok"])

    def work(message, tell):
        turn = next(turns, "ok")
        if turn == "memory":
            raise MemoryError("not enough memory for this run")
        extra = {"diverged": {"diverged": True}, "none": {"accuracy": None}}.get(turn, {})
        return made_up(**extra)(message, tell)

    outcome = search_of(tmp_path, work, budget=Budget(trials=5)).run()
    states = [trial.state.name for trial in trials_of(outcome)]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "PRUNED", "COMPLETE"]
    reasons = [trial.user_attrs.get(REASON, "") for trial in trials_of(outcome)]
    assert "training diverged" in reasons[1]
    assert reasons[2] == "not enough memory for this run"
    assert "accuracy was not measured" in reasons[3]
    assert len(outcome.finalists) == 2


def test_search_whose_every_trial_fails_gives_up(tmp_path):
    def work(message, tell):
        raise RuntimeError("no data")

    with pytest.raises(ConfigError, match="the first 10 trials all failed: no data"):
        search_of(tmp_path, work, budget=Budget(trials=50)).run()


def test_pruner_stops_a_run_at_an_evaluation(tmp_path, monkeypatch):
    pruner = optuna.pruners.ThresholdPruner(lower=2.0)  # no accuracy is that high
    monkeypatch.setattr(Search, "_make_pruner", lambda self: pruner)
    outcome = search_of(tmp_path, real(tmp_path), pruner="median", budget=Budget(trials=2), seeds=2).run()
    for trial in trials_of(outcome):
        assert trial.state is TrialState.PRUNED
        assert trial.user_attrs[REASON] == "stopped by the pruner after step 2"
        assert list(trial.intermediate_values) == [2]
        assert trial.user_attrs["flops"] > 0


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_pruners_take_the_evaluations_of_runs(tmp_path, pruner):
    budget = Budget(trials=8)
    outcome = search_of(tmp_path, real(tmp_path), {"lr": "1e-6..1e-1:log"}, pruner=pruner, budget=budget, fresh=0).run()
    trials = trials_of(outcome)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(trial.state is TrialState.COMPLETE for trial in trials)
    for trial in trials:
        steps = list(trial.intermediate_values)
        assert steps == [2, 4, 6][: len(steps)]
        if trial.state is TrialState.COMPLETE:
            assert trial.value == trial.intermediate_values[6]  # one seed: the last evaluation is the end's


def test_wilcoxon_saves_the_seeds_of_trials_that_are_worse_on_each(tmp_path):
    log = []
    space = {"lr": "0.01,0.02"}
    work = made_up(lambda config: -config["optimizer"]["lr"] - 1e-4 * (config["run"]["seed"] % 7))
    options = {"sampler": "grid", "pruner": "wilcoxon", "seeds": 8, "fresh": 0, "budget": Budget()}
    outcome = search_of(tmp_path, work, space, log=log, **options).run()
    states = {trial.params["lr"]: trial.state for trial in trials_of(outcome)}
    assert states[0.01] is TrialState.COMPLETE
    # Worse on each of n seeds, p = 2⁻ⁿ: under 0.1 from n = 4 on. Where it comes first, nothing can be saved.
    worse = sum(job.config.optimizer.lr == 0.02 for job in log)
    assert (states[0.02], worse) in ((TrialState.PRUNED, 4), (TrialState.COMPLETE, 8))


@pytest.mark.parametrize(("budget", "count"), [(Budget(flops=25.0), 3), (Budget(trials=2, flops=1e9), 2)])
def test_budget_ends_the_search(tmp_path, budget, count):
    assert len(trials_of(search_of(tmp_path, made_up(), budget=budget, fresh=0).run())) == count


def test_minutes_end_the_search(tmp_path, monkeypatch):
    from surgecollapse.tuning import search as module

    clock = iter(range(0, 100_000, 30))  # every look at the clock is half a minute later
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    outcome = search_of(tmp_path, made_up(), budget=Budget(minutes=10), fresh=0).run()
    assert 1 <= len(trials_of(outcome)) <= 10 * 60 / 30


def test_interrupted_search_hands_its_trial_back(tmp_path):
    def work(message, tell):
        if len(list((tmp_path / "study").glob("rows.jsonl"))):
            signal.raise_signal(signal.SIGTERM)
        return made_up()(message, tell)

    outcome = search_of(tmp_path, work, budget=Budget(trials=5)).run()
    assert outcome.status == "interrupted"
    outcome = search_of(tmp_path, made_up(), budget=Budget(trials=5)).run()
    assert sum(trial.state is TrialState.COMPLETE for trial in trials_of(outcome)) == 5
    assert outcome.status == "complete"


def command(out, *more):
    return [sys.executable, "-m", "surgecollapse", "tune", "digits", "--search", "lr=1e-3..1e-1:log", "--steps", "40",
            "--widths", "8", "--policy", "gmp", "--sampler", "random", "--workers", "2", "--seeds", "2", "--fresh", "1",
            "--out", str(out), *more]  # fmt: skip


def test_killed_search_goes_on_with_nothing_lost_and_nothing_twice(tmp_path):
    out = tmp_path / "study"
    process = subprocess.Popen(command(out, "--trials", "1000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = out / "rows.jsonl"
    while not rows.exists() or rows.read_bytes().count(b'"trial"') < 5:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with rows.open("ab") as file:
        file.write(b'{"key": "cut o')  # as a kill in the middle of a line leaves it
    before = [json.loads(line) for line in rows.read_text().splitlines()[:-1]]
    before = [row["key"] for row in before if "trial" in row]
    done = subprocess.run(command(out, "--trials", "6"), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    after = [json.loads(line) for line in rows.read_text().splitlines()]
    keys = [row["key"] for row in after if "trial" in row]
    assert keys[: len(before)] == before  # nothing lost
    assert len(set(keys)) == len(keys)  # nothing twice
    study = optuna.load_study(study_name="digits", storage=open_storage(out / "study.journal"))
    lost = [trial for trial in study.trials if trial.user_attrs.get(REASON) == LOST]
    kept = [trial for trial in study.trials if trial not in lost]
    assert all(trial.state is TrialState.COMPLETE for trial in kept)
    assert len(kept) == 6
    assert sorted(trial.user_attrs[RETRY] for trial in kept if RETRY in trial.user_attrs) == [t.number for t in lost]
    assert 1 <= len(lost) <= 2
    assert (out / "index.html").is_file()
    assert "best: surgecollapse run --config" in done.stdout


def test_search_whose_every_trial_diverges_says_so(tmp_path, monkeypatch, capsys):
    from surgecollapse.tuning import search as module

    monkeypatch.setattr(module, "Pool", pool_of(made_up(diverged=True)))
    monkeypatch.setattr(Search.__init__, "__kwdefaults__", {**Search.__init__.__kwdefaults__, "make_pool": module.Pool})
    words = [
        "--search",
        "lr=1e-3..1e-1:log",
        "--steps",
        "40",
        "--trials",
        "2",
        "--fresh",
        "1",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(["tune", "digits", *words]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no trial is complete, so there is nothing to choose from; the last one: " in error
    assert "training diverged" in error


HUNGRY = """
import resource, warnings
import torch
from torch import nn

def data():
    warnings.warn("the data is\\nmade up")
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    return (x[:200], (x[:200, 0] > 0).long()), (x[200:], (x[200:, 0] > 0).long())

def net(width=16):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_trial_that_runs_out_of_memory_is_one_line_and_warnings_of_processes_are_notes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("hungry.py").write_text(HUNGRY)
    search = ["--search", "model.width=16,9000,32", "--sampler", "grid", "--fresh", "1", "--workers", "1"]
    assert main(["tune", "hungry.py", *search, "--steps", "20", "--every", "2", "--policy", "gmp"]) == 0
    out, err = capfd.readouterr()
    said = "not enough memory for this run: make widths, batch_size or the data smaller"
    assert f"surgecollapse: 1 failed: {said}" in err.splitlines()
    assert err.splitlines().count("warning: the data is made up") == 1
    assert not [line for line in err.splitlines() if "UserWarning" in line or line.startswith(" ")]
    assert "best: surgecollapse run --config" in out
    study = optuna.load_study(study_name="hungry", storage=open_storage("runs/tune-hungry/study.journal"))
    assert sorted((trial.params["model.width"], trial.state.name) for trial in study.trials) == [
        (16, "COMPLETE"), (32, "COMPLETE"), (9000, "FAIL"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to search"),
        (["--search", "sparcity=0.8..0.9"], "Did you mean 'sparsity'"),
        (["--search", "steps"], "write steps=LOW..HIGH"),
        (["--search", "lr=1e-2..1e-3"], "write 1e-3..1e-2"),
        (["--search", "lr=0.1..0.2", "--objective", "acc"], "unknown objective 'acc'"),
        (["--search", "lr=0.1..0.2", "--sampler", "bayes"], "unknown sampler 'bayes'"),
        (["--search", "lr=0.1..0.2", "--pruner", "wilcoxon"], "needs 5 seeds"),
        (["--search", "lr=0.1..0.2", "--pruner", "median", "--objective", "density"], "accuracy or loss"),
        (["--search", "lr=0.1..0.2", "--trials", "0"], "trials must be above 0"),
        (["--search", "lr=0.1..0.2", "--seeds", "0"], "seeds must be at least 1"),
        (["--search", "lr=0.1..0.2", "--storage", "mysq://x"], "cannot open the storage"),
        (["--space", "none.toml"], "cannot read the search space none.toml"),
        (["--search", "lr=0.1..0.2", "--config", "none.toml"], "cannot read the configuration"),
        (["--search", "lr=0.1..0.2", "--sparsity", "90"], "Did you mean 0.9"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "digits", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not list(Path("runs").rglob("rows.jsonl"))


def dense_operations():
    """Of a step: two for each of the (64 + 10)·8 multiplications of a sample, three times, by the mean batch."""
    config = RunSpace([DIGITS], {"lr": "0.1..0.2"}).base
    samples = len(load_data(config).x_train)
    return 6 * (64 + 10) * 8 * samples / -(-samples // config.run.batch_size)


def test_row_of_a_stopped_run_says_after_which_step(tmp_path):
    message = {"config": {**DIGITS, "seed": 0}, "report": "loss", "extra": (), "test": False}
    told = []

    def tell(step, value):
        told.append(step)
        return step >= 4

    row = train_run(message, tmp_path, tell)
    assert row[PRUNED] == 4
    assert told == [2, 4]
    whole = train_run({**message, "report": None, "extra": ("robust_accuracy",)}, tmp_path)
    assert 0 <= whole["robust_accuracy"] <= 1
    # Four steps of dense training are the bound that is taken of a stopped run.
    assert row["flops"] == pytest.approx(dense_operations() * 4, rel=1e-12)
    assert 0 < whole["flops"] < dense_operations() * 6


def test_latency_of_the_export_is_an_objective(tmp_path):
    """A net of 65 times the multiplications takes longer; the study ends with a front of both objectives."""
    pytest.importorskip("onnxruntime")
    objectives = choose_objectives("accuracy,latency")
    space = RunSpace([{**DIGITS, "policy": "none"}], {"widths": "[8],[2048]"})
    made = Search(space, objectives, tmp_path / "out", budget=Budget(trials=2), sampler="grid", fresh=0,
                  make_pool=pool_of(real(tmp_path)))  # fmt: skip
    outcome = made.run()
    found = {trial.params["widths"]: trial.values[1] for trial in trials_of(outcome)}
    assert len(found) == 2
    assert 0 < found["[8]"] < found["[2048]"]


def test_latency_without_onnx_fails_the_trial_with_the_extra(tmp_path, monkeypatch):
    import surgecollapse.export

    def missing(*_args, **_options):
        raise ImportError("export to ONNX needs onnx: pip install 'surgecollapse[onnx]'")

    monkeypatch.setattr(surgecollapse.export, "export_onnx", missing)
    message = {"config": {**DIGITS, "seed": 0}, "report": None, "extra": ("latency",), "test": False}
    with pytest.raises(ImportError, match=r"surgecollapse\[onnx\]"):
        train_run(message, tmp_path)
