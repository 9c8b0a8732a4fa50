"""The state of training: each of its words from events, and the same one from the record's file."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
import torch

import surgecollapse
from surgecollapse.dashboard.run_state import state, state_reader
from surgecollapse.events import Alarm, Decision, Intervention, Measurement, Plan, Reading
from surgecollapse.lab.training.progress import STYLES, Bar, Snapshot
from surgecollapse.policies import POLICIES, make_policy
from surgecollapse.record import MemoryRecorder, RunStore
from surgecollapse.record.schema import connect
from surgecollapse.training_status import ALARMED, SETTLING, STATES, StatusReader, TrainingStatus


def reading(step, entropy=0.5, **more):
    return Reading(step=step, entropy=entropy, **more)


def act(step, kind, **more):
    return Intervention(step=step, kind=kind, phase="sparse", reason="because", sparsity_before=0.0,
                        sparsity_after=0.5, **more)  # fmt: skip


def rising(first, last):
    return [reading(step, step / 1000) for step in range(first, last + 1, 10)]


CASES = {
    "nothing yet": ([], "stable"),
    "entropy moves": (rising(10, 300), "stable"),
    "entropy stands still": ([reading(step) for step in range(10, 130, 10)], "plateau"),
    "too few readings to say": ([reading(step) for step in range(10, 100, 10)], "stable"),
    "just collapsed": ([*rising(10, 50), act(50, "collapse")], "collapse"),
    "just reopened": ([*rising(10, 50), act(30, "collapse"), act(50, "surge")], "surge"),
    "settled": ([*rising(10, 50), act(50, "collapse"), *rising(60, 50 + 10 * SETTLING)], "stable"),
    "noise is on": ([act(50, "pump", details={"noise_std": 0.1}), *rising(60, 200)], "pump"),
    "noise is off": (
        [act(50, "pump", details={"noise_std": 0.1}), act(60, "pump", details={"noise_std": 0.0})],
        "stable",
    ),
    "noise comes before a collapse": ([act(50, "pump", details={"noise_std": 0.1}), act(50, "collapse")], "pump"),
    "not finite": ([*rising(10, 50), act(50, "collapse"), reading(60, finite=False)], "alarm"),
    "finite again": ([reading(50, finite=False), reading(60)], "stable"),
    "the loss is not": ([reading(50), Measurement(step=55, name="loss/train", value=float("nan"))], "alarm"),
    "a detector spoke": ([*rising(10, 50), Alarm(step=50, detector="rank", reason="it fell")], "alarm"),
    "a detector spoke long ago": ([Alarm(step=5, detector="rank", reason="it fell"), *rising(10, 10 * ALARMED)],
                                  "stable"),
    "just final": ([*rising(10, 50), act(50, "collapse"), act(50, "freeze")], "stable"),
    "final, then changed by a loop": ([*rising(10, 50), act(40, "freeze"), act(50, "collapse")], "collapse"),
    "final": ([*[reading(step) for step in range(10, 130, 10)], act(120, "freeze")], "stable"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_state_follows_from_events_and_from_the_file_alike(name, tmp_path):
    events, expected = CASES[name]
    reader = StatusReader(every=10)
    with RunStore(tmp_path / "run.db", mode="w") as store:
        for event in events:
            reader.take(event)
            store.record(event)
        store.flush()
        with closing(connect(tmp_path / "run.db", "r")) as connection:
            there = state_reader(connection, 10)
    assert reader.state.name == expected, reader.state
    assert (there.state, there.next_step) == (reader.state, reader.next_step)


def test_the_next_step_is_that_of_the_decision_until_a_reading_passes_it():
    reader = StatusReader(every=10)
    assert reader.next_step is None
    for event in (reading(20), Decision(phase="sparse", reason="", eligible=75)):
        reader.take(event)
    assert reader.next_step == 75
    reader.take(reading(80))
    assert reader.next_step == 90
    reader.take(act(80, "freeze"))
    assert reader.next_step is None


@pytest.mark.parametrize("name", [name for name in sorted(POLICIES) if hasattr(make_policy(name), "earliest")])
@pytest.mark.parametrize("seed", range(5))
def test_no_policy_acts_before_the_step_that_it_calls_the_earliest(name, seed):
    policy, draw = make_policy(name), random.Random(seed)
    policy.start(Plan(sparsity=0.8, total_steps=400, every=5))
    earliest, entropy, later = 0, 0.5, 0
    for step in filter(policy.due, range(1, 401)):
        entropy = min(max(entropy + draw.gauss(0.0, 0.05), 0.0), 1.0)
        decision = policy.decide(
            Reading(step=step, entropy=entropy, on_off=draw.random(), sparsity=0.8 * draw.random())
        )
        assert not decision.acts or (earliest is not None and step >= earliest), (step, earliest, decision)
        earliest = policy.earliest(step)
        later += earliest is not None and earliest > step + 5
    assert earliest is None
    assert later, "it never says anything that the cadence does not"


def test_a_controller_records_the_step_at_which_its_policy_next_acts():
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory = MemoryRecorder()
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    with surgecollapse.attach(
        model,
        optimizer,
        sparsity=0.75,
        total_steps=200,
        readings=surgecollapse.Readings(every=7),
        policy="acdc",
        recorders=[memory],
    ):
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()
    decisions = [event for event in memory.events if isinstance(event, Decision)]
    steps = [event.step for event in memory.events if isinstance(event, Intervention) and event.kind != "freeze"]
    assert [decision.eligible for decision in decisions[:3]] == sorted(set(steps))[1:4]
    assert decisions[-1].eligible is None


def test_a_run_that_is_over_has_no_next_step(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.set("config", {"every": 10})
        store.set("status", "running")
        store.record(reading(20))
        store.flush()
        for status, expected in (("running", 30), ("complete", None)):
            store.set("status", status)
            with closing(connect(tmp_path / "run.db", "r")) as connection:
                assert state(connection, 2**33)["next"] == expected


def test_the_terminal_shows_every_state_in_words(capsys):
    assert set(STYLES) == set(STATES)
    bar = Bar()
    for name in STATES:
        bar.start("digits", 100, 0)
        bar.update(
            Snapshot(
                step=1,
                phase="sparse",
                sparsity=0.9,
                entropy=0.5,
                loss=0.25,
                accuracy=None,
                state=TrainingStatus(name=name, why=f"why {name} [so]"),
                next_step=50,
            )
        )
        bar.note("[a line]")
        bar.stop()
        shown = capsys.readouterr().err
        assert f" {name.upper()} " in shown
        assert "next decision: step 50" in shown
        assert f"why {name} [so]" in shown
        assert "[a line]" in shown
