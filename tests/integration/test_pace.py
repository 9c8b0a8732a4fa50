"""The command ``pace``: a policy's schedule goes slower or faster, by a person or a rule, and ends with the run."""

from __future__ import annotations

import pytest
import torch

import surgecollapse
from surgecollapse.commands import Pace, RollBack, SetThresholds
from surgecollapse.events import Decision
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, MemoryRecorder, RunStore

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


class Loop:
    """A small network that is trained step by step under a policy."""

    def __init__(self, policy="gmp", total=200, every=5):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.memory, self.sparsity = MemoryRecorder(), {}
        self.controller = surgecollapse.attach(
            self.model, self.optimizer, sparsity=0.8, total_steps=total, policy=policy, recorders=[self.memory],
            readings=surgecollapse.Readings(every=every),
        )  # fmt: skip

    def steps(self, until):
        while self.controller.step < until:
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(X), (X[:, 0] > 0).long()).backward()
            self.optimizer.step()
            self.sparsity[self.controller.step] = self.controller.sparsity
        return self

    def requests(self):
        return [event for event in self.memory.events if type(event).__name__ == "Request"]

    def frozen_at(self):
        return next(d.step for d in self.memory.of(Decision) if d.phase == "frozen")


def at(policy="gmp", **paces):
    loop = Loop(policy)
    for step, factor in paces.items():
        loop.steps(int(step[1:]))
        loop.controller.request(Pace(factor=factor))
    return loop.steps(200)


def test_at_half_pace_sparsity_is_that_of_half_as_many_steps_later():
    own, half = Loop().steps(200), at(s39=0.5)  # it takes hold after step 40
    assert [half.sparsity[step] for step in range(1, 41)] == [own.sparsity[step] for step in range(1, 41)]
    for step in range(41, 140):
        assert half.sparsity[step] == own.sparsity[40 + (step - 40) // 2], step
    assert [(one.step, one.status) for one in half.requests()] == [(40, "applied")]
    assert half.requests()[0].reason == (
        "pace × 0.5: the schedule ends at step 200 instead of 150, faster again where it would end after the run"
    )


def test_a_slowed_schedule_reaches_the_target_with_the_run():
    half = at(s39=0.5)
    assert half.frozen_at() == 200
    assert half.controller.frozen
    assert half.sparsity[185] < half.sparsity[200]
    assert half.sparsity[200] == pytest.approx(0.8, abs=1e-3)
    steps = sorted(half.sparsity)
    assert all(half.sparsity[one] <= half.sparsity[one + 1] for one in steps[:-1])


def test_late_in_the_run_half_pace_ends_before_it():
    assert at(s119=0.5).frozen_at() == 180  # 30 of 150 steps were left


def test_at_double_pace_the_schedule_ends_sooner():
    double = at(s49=2.0)
    assert double.frozen_at() == 100
    assert "ends at step 100 instead of 150" in double.requests()[0].reason


def test_the_own_pace_again_keeps_the_delay():
    again = at(s39=0.5, s79=1.0)
    assert again.frozen_at() == 170
    assert again.requests()[1].reason == "pace × 1: the schedule ends at step 170 instead of 200"


@pytest.mark.parametrize("policy", ["cyclic_pruning", "rigl", "acdc", "entropy_cycles", "entropy_thresholds", "set"])
def test_every_schedule_ends_at_the_target_at_half_pace(policy):
    loop = at(policy, s59=0.5)
    assert loop.requests()[0].status == "applied"
    own = Loop(policy).steps(200)
    for one in (loop, own):
        one.controller.finalize()
        assert one.controller.frozen
    assert loop.controller.sparsity == own.controller.sparsity


def test_exchanges_at_half_pace_are_half_as_many():
    policy = surgecollapse.policies.RigL(interval=10)
    own, half = Loop(policy).steps(200), at(surgecollapse.policies.RigL(interval=10), s59=0.5)
    count = [sum(60 < event.step <= 120 for event in loop.controller.events) for loop in (own, half)]
    assert count[0] == 2 * count[1] > 0


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (0.5, 0.5, "the pace is 0.5 already"),
        (None, 1.0, "the pace is 1 already"),
        (None, 0.5, "the schedule ends with the run, at step 200: it cannot be slower"),
    ],
)
def test_what_cannot_be_done_is_rejected_with_its_reason(first, second, reason):
    late = surgecollapse.policies.GradualPruning(end_at=1.0)
    loop = Loop(late if first is None and second < 1 else "gmp").steps(20)
    for factor in filter(None, (first, second)):
        loop.controller.request(Pace(factor=factor))
        loop.steps(loop.controller.step + 1)
    assert (loop.requests()[-1].status, loop.requests()[-1].reason) == ("rejected", reason)


def test_a_final_mask_has_no_pace():
    loop = Loop().steps(160)
    loop.controller.request(Pace(factor=0.5))
    loop.steps(161)
    assert "the mask is final" in loop.requests()[0].reason


def test_a_resumed_loop_keeps_its_pace_and_other_thresholds_keep_it_too():
    whole = at(s39=0.5)
    cut = Loop().steps(39)
    cut.controller.request(Pace(factor=0.5))
    cut.steps(90)
    on = Loop()
    on.model.load_state_dict(cut.model.state_dict())
    on.optimizer.load_state_dict(cut.optimizer.state_dict())
    on.steps(200)
    assert on.sparsity == {step: whole.sparsity[step] for step in range(91, 201)}
    assert all(torch.equal(a, b) for a, b in zip(on.model.parameters(), whole.model.parameters(), strict=True))
    other = Loop().steps(39)
    other.controller.request(Pace(factor=0.5))
    other.steps(60)
    other.controller.request(SetThresholds(values={"end_at": 0.5}))
    other.steps(200)
    assert other.frozen_at() == 160  # step 50 of the policy came with step 60, and 50 were left


RUN = {"task": "digits", "steps": 80, "widths": (16,), "train_samples": 200, "evaluate_every": 20, "every": 4,
       "checkpoint_every": 20, "monitors": "none", "policy": "gmp", "sparsity": 0.8}  # fmt: skip
RULES = [{"when": "prediction_confidence < 0.99 for 5 readings", "do": "pace factor=0.5"}]


def weights(folder):
    return torch.load(folder / "checkpoints" / "step-80.pt", weights_only=True)["model"]


def same(one, two):
    return all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pace") / "run"
    train(make_config(rules=RULES, **RUN), folder)
    return folder


def test_a_rule_halves_the_pace_and_a_replay_and_a_resume_do_the_same(ruled, tmp_path, monkeypatch):
    with RunStore(ruled / "run.db") as store:
        (request,) = store.requests()
        assert (request.step, request.kind, request.source, request.status) == (20, "pace", "rule", "applied")
        assert all(reading.prediction_confidence is not None for reading in store.readings())
        assert [one.step for one in store.interventions() if one.kind == "freeze"] == [80]
    train(make_config(**RUN), tmp_path / "own")
    assert not same(ruled, tmp_path / "own")
    progress = Lines()
    train(None, tmp_path / "again", replay=ruled, progress=progress)
    assert same(ruled, tmp_path / "again")
    assert any("bitwise" in line for line in progress.lines)
    advance = Training.advance

    def cut(training):
        if training.step == 47:
            raise KeyboardInterrupt
        advance(training)

    monkeypatch.setattr(Training, "advance", cut)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(rules=RULES, **RUN), tmp_path / "cut")
    monkeypatch.setattr(Training, "advance", advance)
    train(None, tmp_path / "cut", resume=True)
    assert same(ruled, tmp_path / "cut")


def test_a_roll_back_undoes_the_pace(tmp_path, monkeypatch):
    train(make_config(**RUN), tmp_path / "own")
    asked = {25: Pace(factor=0.5), 45: RollBack(step=20)}
    advance = Training.advance

    def ask(training):
        if training.step in asked:
            CommandQueue(tmp_path / "run" / "run.db").put(asked.pop(training.step), source="test")
        advance(training)

    monkeypatch.setattr(Training, "advance", ask)
    train(make_config(**RUN), tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        assert "roll-back" in {request.kind for request in store.requests()}
    assert same(tmp_path / "own", tmp_path / "run")


def test_a_rule_whose_series_never_comes_is_named(tmp_path):
    progress = Lines()
    rules = [{"when": "loss/valdiation < 0.5", "do": "stop"}, {"when": "sparsity >= 0", "do": "alert"}]
    train(make_config(**{**RUN, "rules": rules}), tmp_path / "run", progress=progress)
    said = [line for line in progress.lines if "never checked" in line]
    assert said == ["rule 'loss/valdiation < 0.5' was never checked: this run recorded no loss/valdiation"]
