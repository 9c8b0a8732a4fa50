"""The banks of outcomes: what counts as one, what is learned from other tasks alone, and pairs counted by hand."""

from __future__ import annotations

import doctest
import math
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import outcome_bank.plan
import outcome_bank.problems
import outcome_bank.ranking
import outcome_bank.runs
import pytest
import torch
from _harness import read_rows
from outcome_bank.plan import groups, settings
from outcome_bank.problems import TASKS, build, feeding, problem
from outcome_bank.ranking import (
    PRESENT,
    Read,
    Scored,
    alarms,
    concordance,
    difference,
    drawn,
    entries,
    group_of,
    held_out,
    logistic,
    ranked,
    reads,
    settings_of,
    share,
    single,
    summary,
)
from outcome_bank.runs import DIES, Schedule, Setting, dead_share, positive, train
from torch import nn

GENERATED = [(task, net) for task in ("sensors", "prototypes", "add-23", "s4", "parity") for net in TASKS[task]]
SHORT = Setting(outcome="divergence", task="sensors", net="mlp", optimizer="adam", lr=0.003, seed=3)


def read(task, group, came, value, rate=0.0):
    return Read(task, group, came, {"series": {"mean": value}}, {"now": -value}, (1.0, rate, 0.0))


@pytest.mark.parametrize(("task", "net"), GENERATED)
def test_every_net_answers_for_the_samples_of_its_task(task, net):
    found = problem(task, net)
    logits = build(task, net, seed=0)(found.x[:5])
    assert logits.shape == (5, found.classes)
    assert 0 <= found.y.min() < found.y.max() < found.classes
    assert len(found.x) == len(found.y) <= 2_000


def test_scale_and_bias_change_the_initial_weights_as_they_say():
    plain, other = (build("parity", "mlp", seed=1, scale=scale, bias=b) for scale, b in ((1.0, 0.0), (2.0, -0.5)))
    inner = {id(layer.bias) for layer in feeding(list(other.modules()))}
    assert len(inner) == 2, "both hidden layers, not the head"
    for before, after in zip(plain.parameters(), other.parameters(), strict=True):
        wanted = 2 * before if before.ndim > 1 else before - 0.5 * (id(after) in inner)
        torch.testing.assert_close(after, wanted)


def test_a_unit_is_dead_if_it_is_silent_on_every_sample():
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0], [0.0], [2.0]]))
    positive_rows, both = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-2.0]])
    assert dead_share(model, positive_rows) == 0.5  # −1 and 0
    assert dead_share(model, both) == 0.25  # 0 alone
    with torch.no_grad():
        model[0].weight[0] = math.nan
    assert math.isnan(dead_share(model, both))


def test_a_channel_is_a_unit():
    model = nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[1.0]], [[-1.0]]]))
    assert dead_share(model, torch.ones(3, 1, 5)) == 0.5


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"outcome": "divergence", "diverged": True, "learned": False}, True),
        ({"outcome": "divergence", "diverged": False, "learned": True}, False),
        ({"outcome": "divergence", "diverged": False, "learned": False}, None),
        ({"outcome": "dead", "dead_end": DIES, "now": {"dead share": 0.0}}, True),
        ({"outcome": "dead", "dead_end": DIES - 0.01, "now": {"dead share": 0.0}}, False),
        ({"outcome": "dead", "dead_end": 0.56, "now": {"dead share": 0.5}}, True),
        ({"outcome": "dead", "dead_end": 0.54, "now": {"dead share": 0.5}}, False),
        ({"outcome": "dead", "dead_end": 0.99, "now": {"dead share": 0.95}}, None),
        ({"outcome": "dead", "dead_end": math.nan, "now": {"dead share": 0.0}}, None),
        ({"outcome": "plasticity", "accuracies": [0.9, 0.9, 0.6, 0.8, 0.79], "tasks": 5}, True),
        ({"outcome": "plasticity", "accuracies": [0.9, 0.9, 0.1, 0.81, 0.81], "tasks": 5}, False),
        ({"outcome": "plasticity", "accuracies": [0.9, 0.9, 0.9], "tasks": 5}, True),
        ({"outcome": "plasticity", "accuracies": [0.9, 0.4, 0.1, 0.1, 0.1], "tasks": 5}, None),
    ],
)
def test_outcomes_by_their_definitions(row, wanted):
    row = {"early": False, "now": {"loss": 1.0}, **row}
    assert positive(row) is wanted
    assert positive({**row, "early": True}) is None


def test_monitors_leave_the_training_as_it_is_and_are_read_twice_before_the_rest():
    short = Schedule(40, 20)
    row = train(SHORT, short)
    assert len(row["readings"]) == 2
    assert {"curvature/sharpness", "update/row_ratio", "gradient/zero", "norm/weight"} <= set(row["readings"][1])
    model, data = build("sensors", "mlp", seed=3), problem("sensors", "mlp")
    optimizer, draws = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.0), torch.Generator().manual_seed(3)
    losses = []
    for _ in range(40):
        at = torch.randint(len(data.y), (64,), generator=draws)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data.x[at]), data.y[at])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert row["losses"] == [float(f"{sum(losses[i : i + 10]) / 10:.4g}") for i in range(0, 40, 10)]


def test_a_rate_that_is_far_too_high_after_its_rise_is_a_divergence_that_was_not_yet_there_at_the_reading():
    row = train(replace(SHORT, optimizer="sgd", lr=30.0, warmup=2_000, seed=0), Schedule(600, 20))
    assert not row["early"]
    assert positive(row)


def test_a_sequence_is_read_at_the_end_of_its_second_task_and_measures_every_task():
    setting = replace(SHORT, outcome="plasticity", task="prototypes", stream="labels", lr=0.01)
    row = train(setting, Schedule(12, 2, tasks=3))
    assert len(row["accuracies"]) == 3
    assert len(row["readings"]) == 2
    assert row["now"]["accuracy"] == pytest.approx(row["accuracies"][1], abs=1e-4)
    assert row["now"]["accuracy change"] == pytest.approx(row["accuracies"][1] - row["accuracies"][0], abs=2e-4)


def test_a_plan_repeats_grows_by_rounds_and_has_every_group_alike():
    for outcome in ("divergence", "dead", "plasticity"):
        plan = settings(outcome, 3)
        assert plan[: len(groups(outcome))] == settings(outcome, 1)
        assert len({tuple(asdict(s).items()) for s in plan}) == len(plan) == 3 * len(groups(outcome))
        assert {s.optimizer for s in plan} == {"sgd", "adam"}


def test_pairs_are_of_one_group_and_counted_by_hand():
    runs = [
        Scored("a", "a1", True, 2.0, alarm=True),
        Scored("a", "a1", False, 1.0, alarm=False),
        Scored("a", "a1", False, 2.0, alarm=True),  # a tie
        Scored("a", "a2", True, 0.0, alarm=False),  # no partner
        Scored("b", "b1", True, 1.0, alarm=False),
        Scored("b", "b1", False, 3.0, alarm=False),
    ]
    good, count = concordance(runs, ["a", "b"])
    assert (good.tolist(), count.tolist()) == ([1.5, 0.0], [2.0, 1.0])
    assert share((good, count), drawn(2))[0] == 0.5
    apart = [replace(run, rate=0.3 * (not run.positive)) for run in runs]
    assert concordance(apart, ["a", "b"], near=0.2)[1].tolist() == [0.0, 0.0]
    assert concordance(apart, ["a", "b"], near=0.4)[1].tolist() == [2.0, 1.0]
    hit, of = alarms(runs, ["a", "b"], of=True)
    assert (hit.tolist(), of.tolist()) == ([1.0, 0.0], [2.0, 1.0])
    false, quiet = alarms(runs, ["a", "b"], of=False)
    assert (false.tolist(), quiet.tolist()) == ([1.0, 0.0], [2.0, 1.0])
    assert difference((good, count), (good, count), drawn(2)) == (0.0, 0.0, 0.0)
    unscored = [read(r.task, r.group, r.positive, r.score) for r in runs]
    assert ranked(unscored, np.array([[r.score] for r in runs])).tolist() == [0.5]


def test_sign_and_threshold_come_from_the_other_tasks_alone():
    runs = [
        read(task, task, came, value)
        for task in ("a", "b", "c")
        for i in range(30)
        for came, value in ((True, 10.0 + i), (False, float(i) / 100))
    ]
    # In the held-out task the order is the other way round, and so must its share be.
    turned = [replace(r, positive=not r.positive) if r.task == "c" else r for r in runs]
    found = held_out(turned, single(lambda run: run.monitors["series"]))
    good, count = concordance(found, ["a", "b", "c"])
    assert (good / count).tolist() == [1.0, 1.0, 0.0]
    # The 58th of the 60 quiet runs of a and b is at 0.28: at most 5% of as many new ones lie above it.
    assert [s.alarm for s in found if s.task == "c"] == [s.score > 0.28 for s in found if s.task == "c"]


def test_learned_weights_rank_what_the_settings_tell():
    runs = [
        read(task, task, came, 0.0, rate=(1.0 if came else -1.0) + i / 100)
        for task in ("a", "b", "c")
        for i in range(20)
        for came in (True, False)
    ]
    found = held_out(runs, logistic(lambda run: run.settings), inner=True)
    good, count = concordance(found, ["a", "b", "c"])
    assert (good / count).tolist() == [1.0, 1.0, 1.0]
    assert sum(s.alarm for s in found if not s.positive) == 0


def test_a_row_of_a_bank_is_read_into_forms_controls_and_a_group():
    rows = []
    for seed, rate in enumerate((0.003, 0.01)):
        row = train(replace(SHORT, seed=seed, lr=rate, warmup=40), Schedule(40, 20))
        rows += [{**row, "task": task, "diverged": seed == 1, "learned": True, "early": False} for task in "abc"]
    runs = reads(rows)
    assert len(runs) == 6
    assert group_of(rows[0]) == "a, mlp, adam"
    assert settings_of(rows[0])[:2] == (1.0, math.log10(0.003))
    forms = runs[0].monitors["norm/weight"]
    before, now = (reading["norm/weight"] for reading in rows[0]["readings"])
    assert forms["mean"] == pytest.approx(math.log10(now))
    assert forms["change of mean"] == pytest.approx(math.log10(now / before))
    full = runs[0].monitors["sharpness over its threshold, at the full rate"]["value"]
    reading = rows[0]["readings"][1]
    # The rate after twenty of forty steps is half of the full one.
    wanted = 2 * reading["curvature/sharpness"] / reading["curvature/threshold"]
    assert full == pytest.approx(math.copysign(math.log10(1 + 1e3 * abs(wanted)), wanted))
    found = entries(runs)
    assert {PRESENT, "norm/update", "gradient/zero"} <= set(found)
    assert all(len(scored) == 6 for scored in found.values())
    result = summary(runs)
    assert (result["positive"], result["negative"]) == (3, 3)
    assert result["entries"][result["control"]]["auroc_minus_control"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["plan", "problems", "ranking", "runs"])
def test_examples(name):
    module = getattr(outcome_bank, name)
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_a_bank_goes_on_where_it_stopped(tmp_path, monkeypatch):
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "outcomes.py"))
    plan = [replace(SHORT, seed=seed) for seed in range(3)]
    monkeypatch.setattr(outcome_bank.plan, "settings", lambda outcome, runs: plan[:runs])
    monkeypatch.setitem(outcome_bank.runs.SCHEDULES, "divergence", Schedule(22, 20))
    file = tmp_path / "bank" / "divergence.jsonl"
    script["generate"]("divergence", file, 1)
    first = file.read_text(encoding="utf-8")
    script["generate"]("divergence", file, 3)
    assert file.read_text(encoding="utf-8").startswith(first)
    assert [row["seed"] for row in read_rows(file)] == [0, 1, 2]
