"""Settings of a run of the lab that people change while it trains: what is refused, and that a replay repeats them."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.commands import (
    DropSamples,
    Evaluate,
    FreezeLayers,
    HoldSchedule,
    MixSources,
    RankSamples,
    RelabelSamples,
    ReleaseSchedule,
    ReplaceSchedule,
    ResetLayers,
    RollBack,
    SetAugmentation,
    SetBatchSize,
    SetDropout,
    SetLoss,
    SetOptimizer,
    UnfreezeLayers,
    WeighSamples,
)
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.hardest import HARDEST
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, RunStore

SHORT = {"task": "digits", "steps": 40, "widths": (16,), "train_samples": 200, "evaluate_every": 10, "every": 5,
         "checkpoint_every": 10, "monitors": "none", "dropout": 0.1, "batch_size": 32}  # fmt: skip
PLAN = {
    4: [SetOptimizer(option="weight_decay", value=0.3), SetDropout(rate=0.3), SetLoss(label_smoothing=0.1)],
    8: [SetBatchSize(size=20), DropSamples(rows=(0, 1, 2)), WeighSamples(rows=(5, 6), weight=2.0), Evaluate()],
    13: [
        HoldSchedule(),
        FreezeLayers(layers=("body.1",)),
        FreezeLayers(layers=("head",), units=(3, 5)),
        RankSamples(count=7),
    ],
    17: [ResetLayers(layers=("head",)), SetLoss(class_weights="balanced"), SetOptimizer(option="lr", value=1e-3)],
    22: [RelabelSamples(rows=(7, 8), label=3), ReplaceSchedule(shape="cosine", steps=30)],
    25: [UnfreezeLayers(layers=("body.1",)), ReleaseSchedule()],
    27: [
        ReplaceSchedule(shape="linear"),
        ResetLayers(layers=("head",), units=(0, 4)),
        RelabelSamples(rows=(7,), label=1),
    ],
}


def trained(folder, plan, *, cut=None, policy="entropy_cycles"):
    """Train while a person sends commands after given steps; ``cut``: the process dies after that step and resumes."""
    advance, left = Training.advance, dict(plan)

    class Cut(Exception):
        pass

    def asked(training):
        if training.step == cut and folder.name not in done:
            done.add(folder.name)
            raise Cut
        for command in left.pop(training.step + 1, ()):
            training.command_loop.request(command)
        advance(training)

    done: set[str] = set()
    options = {} if policy == "none" else {"sparsity": 0.8}
    Training.advance = asked
    try:
        if cut is None:
            train(make_config(policy=policy, **options, **SHORT), folder)
        else:
            with pytest.raises(Cut):
                train(make_config(policy=policy, **options, **SHORT), folder)
            with RunStore(folder / "run.db", mode="a") as store:
                store.set("status", "running")
            train(None, folder, resume=True)
    finally:
        Training.advance = advance
    return folder


def final(folder):
    return torch.load(folder / "checkpoints" / "step-40.pt", weights_only=True)


def same(one, two):
    one, two = final(one), final(two)
    states = [str(state["batches"]) + str(state["torch_rng"]) for state in (one, two)]
    return states[0] == states[1] and all(
        torch.equal(value, two["model"][name]) for name, value in one["model"].items()
    )


@pytest.fixture(scope="module", params=["entropy_cycles", "none"])
def run(request, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("live") / request.param, PLAN, policy=request.param)


def test_every_setting_of_a_run_of_the_lab_is_applied(run):
    asked = CommandQueue(run / "run.db").all()
    assert [(one.kind, one.reason) for one in asked if one.status != "applied"] == []
    with RunStore(run / "run.db") as store:
        hardest = store.arrays(HARDEST)
        assert [(step, array.shape) for step, array in hardest] == [(13, (7, 4))]
        losses = hardest[0][1][:, 1]
        assert (losses[:-1] >= losses[1:]).all()
        assert store.measurements("evaluation/accuracy").steps.tolist() == [8]
        assert store.measurements("learning_rate").values[1] == pytest.approx(1e-3)  # at step 20
    state = final(run)
    assert state["batches"]["batch_size"] == 20
    assert not state["batches"]["weights"][:3].any()
    assert state["asked"]["labels"] == {7: 1, 8: 3}
    assert state["asked"]["loss"] == {"label_smoothing": 0.1, "class_weights": "balanced"}


def test_a_replay_repeats_every_setting_bitwise(run, tmp_path):
    train(None, tmp_path / "again", replay=run)
    assert same(run, tmp_path / "again")


@pytest.mark.parametrize("cut", [9, 19, 31])
def test_a_run_that_was_cut_off_goes_on_with_its_settings_bitwise(run, tmp_path, cut):
    folder = trained(tmp_path / "cut", PLAN, cut=cut, policy=run.name)
    assert same(run, folder)


def test_a_roll_back_undoes_settings(tmp_path):
    settings = [SetDropout(rate=0.5), SetBatchSize(size=10), SetLoss(label_smoothing=0.2), FreezeLayers(layers=("*",))]
    settings += [SetOptimizer(option="weight_decay", value=0.9), DropSamples(rows=(1,))]
    settings += [RelabelSamples(rows=tuple(range(50)), label=9), ReplaceSchedule(shape="linear", steps=3)]
    plan = {12: settings, 18: [RollBack(step=10)]}
    trained(tmp_path / "run", plan)
    trained(tmp_path / "plain", {})
    assert same(tmp_path / "run", tmp_path / "plain")


def test_evaluations_and_ranks_that_people_ask_for_change_nothing(tmp_path):
    trained(tmp_path / "asked", {3: [Evaluate(), RankSamples()], 15: [Evaluate()]})
    trained(tmp_path / "plain", {})
    assert same(tmp_path / "asked", tmp_path / "plain")
    with RunStore(tmp_path / "asked" / "run.db") as store:
        assert store.get("touched") is None


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (SetBatchSize(size=10_000), "there are 200 training samples"),
        (SetBatchSize(size=32), "batches have 32 samples already"),
        (DropSamples(rows=(200,)), "no sample 200: there are 200, from 0 to 199"),
        (DropSamples(rows=tuple(range(200))), "no training sample would be left"),
        (SetLoss(), "nothing to change"),
        (RelabelSamples(rows=(200,), label=0), "no sample 200: there are 200, from 0 to 199"),
        (RelabelSamples(rows=(0,), label=10), "no class 10: there are 10, from 0"),
        (MixSources(weights={"web": 0.5}), "digits has one source"),
        (SetAugmentation(share=0.5), "samples in memory are not augmented"),
    ],
)
def test_what_a_run_of_the_lab_cannot_set_is_rejected(command, reason, tmp_path):
    trained(tmp_path / "run", {5: [command]})
    asked = CommandQueue(tmp_path / "run" / "run.db").all()[0]
    assert asked.status == "rejected"
    assert reason in asked.reason
