"""What people do to a run: applied at step boundaries, recorded, undone by a roll-back, repeated by a replay."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import surgecollapse
from surgecollapse.commands import (
    Cadence,
    Checkpoint,
    Collapse,
    Continue,
    LearningRate,
    Pause,
    PausePolicy,
    Pump,
    ResumePolicy,
    RollBack,
    SetSparsity,
    SetThresholds,
    Stop,
    Surge,
)
from surgecollapse.events import Decision, Intervention
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, MemoryRecorder, RunStore

SHORT = {"task": "digits", "steps": 60, "widths": (16,), "train_samples": 200, "evaluate_every": 20, "every": 5,
         "checkpoint_every": 20, "monitors": "none"}  # fmt: skip


def loop(policy="no_op", total=100, memory=None, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.ReLU(),
                                torch.nn.Linear(16, 2))  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory = memory or MemoryRecorder()
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=0.5,
        total_steps=total,
        policy=policy,
        readings=surgecollapse.Readings(every=5),
        recorders=[memory],
        **options,
    )
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()

    def requests():
        return [event for event in memory.events if type(event).__name__ == "Request"]

    return controller, steps, requests


def test_what_a_person_decides_between_two_readings_is_recorded_with_its_own_step():
    memory = MemoryRecorder()
    controller, steps, requests = loop(memory=memory)
    for command in (Collapse(fraction=0.25), Surge(fraction=0.5), Pump(noise_std=0.1)):
        steps(6)
        controller.request(command)
        steps(1)
    decided = [event for event in memory.of(Decision) if event.reason.startswith("requested by a user")]
    assert [event.step for event in decided] == [7, 14, 21]
    assert [event.step for event in memory.of(Intervention)] == [7, 14, 21]
    assert [event.step for event in requests()] == [7, 14, 21]


def test_a_collapse_closes_exactly_the_share_of_what_is_open_in_the_named_layers():
    controller, steps, requests = loop()
    controller.request(Collapse(fraction=0.25, layers=("2.*",)))
    steps(1)
    assert int(controller.masks["2.weight"].sum()) == 384
    assert int(controller.masks["0.weight"].sum()) == 256
    controller.request(Collapse(fraction=0.5))
    controller.request(Surge(fraction=0.5, layers=("0.weight",)))
    steps(1)
    masks = controller.masks
    live = [event for event in controller.events if event.kind == "collapse"][-1]
    assert round((1 - live.sparsity_after) * 768) == 320  # half of the 640 that were open
    closed_before = sum(change.size - change.live for change in live.layers if change.name == "0.weight")
    assert int((~masks["0.weight"]).sum()) == closed_before - int(closed_before * 0.5 + 0.5)
    assert [(event.step, event.kind, event.status) for event in requests()] == [
        (1, "collapse", "applied"), (2, "collapse", "applied"), (2, "surge", "applied")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Collapse(fraction=0.5, layers=("head",)), "no prunable layer is called 'head': expected one of 0.weight"),
        (Collapse(fraction=0.0), "closes none"),
        (Surge(fraction=1.0), "opens none"),
        (Pump(noise_std=0.0), "is 0 already"),
        (SetSparsity(sparsity=0.999), "min_density"),
        (SetThresholds(values={"floors": 0.1}), "no number 'floors': expected one of dense_until"),
        (SetThresholds(values={"floor": 2.0}), "floor"),
        (SetThresholds(values={"window": 2.5}), "whole number"),
        (Cadence(every=3), "no monitors"),
        (ResumePolicy(), "the policy is not paused"),
        (Continue(), "not paused"),
        (Checkpoint(), "this loop cannot checkpoint: it takes collapse, surge"),
        (RollBack(step=3), "this loop cannot roll back"),
    ],
)
def test_what_cannot_be_done_is_rejected_with_its_reason_and_changes_nothing(command, reason):
    controller, steps, requests = loop("entropy_cycles")
    steps(1)
    before = controller.state_dict()
    controller.request(command)
    controller.command_loop.boundary(1)
    assert (requests()[0].status, controller.events) == ("rejected", [])
    assert reason in requests()[0].reason
    assert str(controller.state_dict()) == str(before)


def test_a_final_mask_is_not_opened():
    controller, steps, requests = loop()
    steps(1)
    controller.finalize()
    controller.request(Surge(fraction=0.5))
    steps(1)
    assert requests()[0].reason == "the mask is final: nothing can be opened or closed any more"


def test_a_paused_policy_decides_nothing_until_it_is_resumed():
    controller, steps, _ = loop("entropy_cycles")
    controller.request(PausePolicy())
    steps(30)
    assert controller.events == []
    assert len(controller.readings) >= 6
    controller.request(ResumePolicy())
    steps(10)
    assert controller.events


def test_a_changed_target_and_threshold_reach_the_policy_and_the_checkpoint():
    controller, steps, _ = loop("entropy_cycles")
    steps(20)
    controller.request(SetSparsity(sparsity=0.75))
    controller.request(SetThresholds(values={"floor": 0.1, "window": 20}))
    controller.request(PausePolicy())
    steps(1)
    assert (controller.plan.sparsity, controller.policy.floor, controller.policy.window) == (0.75, 0.1, 20)
    state = controller.state_dict()
    controller.detach()
    other, steps, _ = loop("entropy_cycles")
    other.model.load_state_dict(controller.model.state_dict())  # the masks hold in these weights alone
    other.load_state_dict(state)
    assert (other.plan.sparsity, other.policy.floor, other.policy.window) == (0.75, 0.1, 20)
    assert str(other.state_dict()) == str(state)
    other.finalize()
    assert other.open_weights() == (192, 768)  # what a mask opens at the end may be zero, and count as such


def test_the_learning_rate_is_scaled_for_the_step_alone():
    controller, steps, _ = loop()
    controller.request(LearningRate(factor=0.0))
    steps(1)
    weight = controller.model[0].weight.detach().clone()
    steps(3)
    assert torch.equal(controller.model[0].weight, weight)
    assert controller.optimizers[0].param_groups[0]["lr"] == 0.1


def test_a_pause_ends_by_a_request_of_another_thread_and_a_stop_is_told_to_the_loop():
    controller, steps, requests = loop()
    controller.request(Pause())

    def later():
        time.sleep(0.2)
        controller.request(Continue())

    thread = threading.Thread(target=later)
    began = time.monotonic()  # before the thread begins to wait, on a machine that is busy, too
    thread.start()
    steps(1)
    assert time.monotonic() - began >= 0.2
    thread.join()
    assert not controller.stopping
    controller.request(Stop())
    steps(1)
    assert controller.stopping
    assert [event.kind for event in requests()] == ["pause", "continue", "stop"]


def test_commands_come_from_a_run_store_in_a_plain_loop(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        controller, steps, _ = loop(commands=tmp_path / "run.db")
        CommandQueue(tmp_path / "run.db").put(Collapse(fraction=0.5), source="page")
        steps(1)
        assert controller.sparsity == 0.5
        asked = CommandQueue(tmp_path / "run.db").all()[0]
        assert (asked.status, asked.step, asked.reason) == ("applied", 1, "closed 384 weights: sparsity 0.5000")
        assert store.modified_by_user


class Person:
    """Asks at given steps, from inside the process, so that the test does not depend on time."""

    def __init__(self, plan, folder):
        self.plan, self.folder, self.advance = dict(plan), folder, Training.advance

    def __enter__(self):
        person = self

        def advance(training):
            for command in person.plan.pop(training.step + 1, ()):
                training.command_loop.request(command)
            person.advance(training)

        Training.advance = advance
        return self

    def __exit__(self, *_):
        Training.advance = self.advance


PLAN = {
    7: [PausePolicy(), Collapse(fraction=0.3)],
    12: [LearningRate(factor=0.5), Pump(noise_std=0.05)],
    20: [Checkpoint(), SetThresholds(values={"floor": 0.2})],
    26: [Surge(fraction=0.5), ResumePolicy()],
    31: [RollBack(step=20)],
    # after it, steps 21 … are passed again
    45: [Collapse(fraction=0.2), SetSparsity(sparsity=0.8)],
}


def final(folder):
    return torch.load(folder / "checkpoints" / "step-60.pt", weights_only=True)


@pytest.fixture(scope="module")
def changed_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed_run") / "run"
    with Person(PLAN, folder):
        train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), folder)
    return folder


def test_every_request_is_settled_in_order_and_the_run_is_marked(changed_run):
    asked = CommandQueue(changed_run / "run.db").all()
    assert [one.status for one in asked] == ["applied"] * 11
    assert [one.step for one in asked] == [7, 7, 12, 12, 20, 20, 26, 26, 31, 45, 45]
    with RunStore(changed_run / "run.db") as store:
        assert store.modified_by_user
        assert store.get("summary")["modified_by_user"] is True
        assert store.get("summary")["sparsity"] == pytest.approx(0.8, abs=1e-3)
        # What the roll-back undid is no longer in the record; the commands all are.
        assert [event.step for event in store.requests()] == [7, 7, 12, 12, 20, 20, 20, 45, 45]
        assert store.get("checkpoints") == [20, 40, 60]  # a person asked for the first


def test_a_replay_repeats_the_interventions_bitwise(changed_run, tmp_path):
    train(None, tmp_path / "again", replay=changed_run)
    one, two = final(changed_run), final(tmp_path / "again")
    for part in ("model", "batches", "torch_rng"):
        assert str(one[part]) == str(two[part])
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    with RunStore(tmp_path / "again" / "run.db") as store:
        assert store.modified_by_user
        assert {event.source for event in store.requests()} == {"replay"}


class Told(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("bit", [0, 22], ids=["the last digit", "half of its size"])
def test_a_replay_notices_one_flipped_bit_of_one_weight(changed_run, tmp_path, bit):
    calls = []

    def flip(optimizer, args, kwargs):
        calls.append(1)
        if len(calls) == 33:
            entry = optimizer.param_groups[0]["params"][-1].data.view(torch.int32)[:1]  # of the output layer's bias
            entry.bitwise_xor_(torch.tensor(1 << bit, dtype=torch.int32))

    progress = Told()
    hook = register_optimizer_step_post_hook(flip)
    try:
        train(None, tmp_path / "again", replay=changed_run, progress=progress)
    finally:
        hook.remove()
    with RunStore(tmp_path / "again" / "run.db") as store:
        step = store.get("replay_differs_at")
    # A large change shows in the loss of the next step; the last digit may show only in the weights of a checkpoint.
    assert 33 <= step <= (60 if bit == 0 else 34)
    (line,) = [line for line in progress.lines if line.startswith("replay: ")]
    assert f"from {changed_run}, first seen at step {step}: other versions" in line


def test_a_replay_says_that_its_losses_are_those_of_the_record(changed_run, tmp_path):
    progress = Told()
    train(None, tmp_path / "again", replay=changed_run, progress=progress)
    (line,) = [line for line in progress.lines if line.startswith("replay: ")]
    assert (
        line
        == f"replay: the training loss is bitwise that of {changed_run} at 60 steps, and so are the weights at 40, 60"
    )
    with RunStore(tmp_path / "again" / "run.db") as store:
        assert store.get("replay_differs_at", "nothing") is None


def test_without_its_interventions_the_run_ends_elsewhere(changed_run, tmp_path):
    train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), tmp_path / "plain")
    one, two = final(changed_run), final(tmp_path / "plain")
    assert not all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    with RunStore(tmp_path / "plain" / "run.db") as store:
        assert not store.modified_by_user
        assert store.get("summary")["modified_by_user"] is False


@pytest.mark.parametrize("at", [10, 29, 33, 50])
def test_a_run_that_is_cut_off_repeats_what_people_did_since_its_checkpoint(changed_run, tmp_path, at):
    class Cut(Exception):
        pass

    folder = tmp_path / "cut"
    with Person(PLAN, folder) as person:
        inner, left = Training.advance, [at]

        def advance(training):
            if not left[0]:
                raise Cut
            left[0] -= 1
            inner(training)

        Training.advance = advance
        with pytest.raises(Cut):
            train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), folder)
        with RunStore(folder / "run.db", mode="a") as store:
            store.set("status", "running")  # as a killed process leaves it
        CommandQueue(folder / "run.db").put(Pause(), source="page")
        Training.advance = inner
        train(None, folder, resume=True)
        Training.advance = person.advance
    one, two = final(changed_run), final(folder)
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    stale = [asked for asked in CommandQueue(folder / "run.db").all() if asked.status == "rejected"]
    assert [asked.reason for asked in stale] == ["the run was cut off before it came to it: ask again"]


def test_a_decision_between_a_checkpoint_and_the_next_reading_is_recorded_once_however_the_run_is_cut_off(tmp_path):
    plan, config = {21: [Collapse(fraction=0.2)]}, make_config(policy="entropy_cycles", sparsity=0.9, **SHORT)
    records = []
    for cut in (False, True):
        folder = tmp_path / str(cut)
        with Person(plan, folder) as person:
            if cut:  # after step 22, between readings at 20 and 25, with a checkpoint of step 20
                inner = Training.advance

                def advance(training, inner=inner):
                    if training.step == 22:
                        raise MemoryError
                    inner(training)

                Training.advance = advance
                with pytest.raises(ConfigError):
                    train(config, folder)
                with RunStore(folder / "run.db", mode="a") as store:
                    store.set("status", "running")  # as a killed process leaves it
                Training.advance = person.advance
                train(None, folder, resume=True)
            else:
                train(config, folder)
        with RunStore(folder / "run.db") as store:
            asked = [step for step, each in store.decisions() if each.reason.startswith("requested by a user")]
            records.append((store.readings(), store.decisions(), store.interventions()))
            assert asked == [21]
    assert records[0] == records[1]


def test_a_stop_ends_the_run_at_its_target_and_later_requests_are_rejected(tmp_path):
    with Person({15: [Stop(), Collapse(fraction=0.1)]}, tmp_path):
        result = train(make_config(policy="entropy_cycles", sparsity=0.5, **SHORT), tmp_path / "run")
    assert (result.status, result.step, result.summary["stopped_by_hand"]) == ("complete", 15, True)
    assert result.summary["sparsity"] == pytest.approx(0.5, abs=1e-3)
    queue = CommandQueue(tmp_path / "run" / "run.db")
    late = queue.get(queue.put(Pause(), source="terminal"))
    assert (late.status, late.reason) == ("rejected", "the run is complete: nothing can be changed")
    train(None, tmp_path / "again", replay=tmp_path / "run")
    assert RunStore(tmp_path / "again" / "run.db").get("summary")["steps"] == 15


def test_a_plain_run_takes_what_needs_no_controller(tmp_path):
    plan = {3: [Collapse(fraction=0.5), LearningRate(factor=0.5), RollBack(step=9)]}
    with Person(plan, tmp_path):
        train(make_config(policy="none", **SHORT), tmp_path / "run")
    asked = CommandQueue(tmp_path / "run" / "run.db").all()
    assert [one.status for one in asked] == ["rejected", "applied", "rejected"]
    assert "this loop cannot collapse: it takes set-optimizer" in asked[0].reason
    assert asked[2].reason == "no checkpoint of step 9: there are none yet"
