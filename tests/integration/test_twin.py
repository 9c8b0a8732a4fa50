"""The twin of a run: the same run without one intervention, and the difference of everything."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from surgecollapse.cli import MISTAKE, main
from surgecollapse.commands import Checkpoint, Collapse, PausePolicy, Pump, ResumePolicy, Stop
from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.compare.twin import RESULT, twin
from surgecollapse.dashboard.twins import twins_of
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import RunStore, load_run

SHORT = {"task": "digits", "steps": 40, "widths": (16,), "train_samples": 200, "evaluate_every": 10, "every": 5,
         "checkpoint_every": 20, "monitors": "none"}  # fmt: skip
PLAN = {7: [PausePolicy()], 12: [Checkpoint()], 15: [Collapse(fraction=0.3)], 25: [ResumePolicy()]}


@pytest.fixture(scope="module")
def person():
    """Trains a run while a person sends commands after given steps."""
    advance = Training.advance

    def train_with(folder, plan):
        left = dict(plan)

        def asked(training):
            for command in left.pop(training.step + 1, ()):
                training.command_loop.request(command)
            advance(training)

        Training.advance = asked
        try:
            train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), folder)
        finally:
            Training.advance = advance

    return train_with


@pytest.fixture(scope="module")
def run(person, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin") / "run"
    person(folder, PLAN)
    return folder


def same(one, two):
    weights = [torch.load(place / "checkpoints" / "step-40.pt", weights_only=True)["model"] for place in (one, two)]
    return all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_twin_is_bitwise_the_run_in_which_the_intervention_never_happened(run, person, tmp_path):
    found = twin(run, intervention=3, out=tmp_path / "twin")  # the collapse; the checkpoint is the second
    assert (found.intervention["kind"], found.intervention["step"]) == ("collapse", 15)
    without = found.pairs[0][1]
    person(tmp_path / "never", {step: commands for step, commands in PLAN.items() if step != 15})
    assert same(without, tmp_path / "never")
    assert not same(without, run)
    assert found.skipped == ()
    for part in found.final:
        with RunStore(run / "run.db") as one, RunStore(tmp_path / "never" / "run.db") as two:
            summaries = one.get("summary"), two.get("summary")
        assert (part.with_it, part.without) == (summaries[0][part.name], summaries[1][part.name])
        assert (part.difference, part.half, part.clear) == (part.with_it - part.without, None, None)
    curve = next(curve for curve in found.curves if curve.name == "accuracy/validation")
    with load_run(run) as one, load_run(tmp_path / "never") as two:
        expected = one.series("accuracy/validation").values - two.series("accuracy/validation").values
    assert curve.steps == (20, 30, 40)
    np.testing.assert_array_equal(curve.difference, expected[1:])
    assert {"reading/entropy", "loss/train", "reading/sparsity"} <= {curve.name for curve in found.curves}
    assert "points of test accuracy on the run's own draws" in found.sentence


def test_a_command_that_cannot_be_repeated_without_the_intervention_is_passed_over_and_named(run, tmp_path):
    found = twin(run, intervention=1, out=tmp_path / "twin")
    assert found.skipped == ("resume-policy at step 25: the policy is not paused",)


def test_over_seeds_both_arms_draw_alike_and_differences_have_the_paired_interval(run, tmp_path, monkeypatch):
    found = twin(run, intervention=3, seeds=3, out=tmp_path / "twin")
    assert [[place.name for place in pair] for pair in found.pairs] == [
        ["run", "without-s0"], ["with-s1", "without-s1"], ["with-s2", "without-s2"]
    ]  # fmt: skip
    summaries = []
    for pair in found.pairs:
        for place in pair:
            with RunStore(place / "run.db") as store:
                summaries.append(store.get("summary")["loss"])
    assert len(set(summaries)) == 6
    differences = [summaries[2 * k] - summaries[2 * k + 1] for k in range(3)]
    part = next(part for part in found.final if part.name == "loss")
    assert part.difference == pytest.approx(np.mean(differences))
    assert part.half == pytest.approx(mean_interval(differences).half)
    curve = next(curve for curve in found.curves if curve.name == "accuracy/validation")
    assert len(curve.half) == len(curve.steps) == 3
    said = json.loads((tmp_path / "twin" / RESULT).read_text())
    assert (said["version"], len(said["pairs"]), said["intervention"]["id"]) == (1, 3, 3)
    assert (tmp_path / "twin" / said["pairs"][1]["with"] / "run.db").is_file()
    assert (tmp_path / "twin" / said["run"]).resolve() == run.resolve()
    assert "over 3 seeds" in said["sentence"]
    with RunStore(tmp_path / "twin" / "with-s2" / "run.db") as store:
        assert store.get("twin_of") == {"intervention": 3, "arm": "with", "seed": 2}
        assert (store.get("forked_by"), store.get("fork_seed"), store.get("forked_at")) == ("twin", 2, 14)


def test_what_has_no_twin_says_so(run, person, tmp_path):
    person(tmp_path / "alone", {})
    for place, options, reason in (
        (tmp_path / "alone", {}, "no user changed"),
        (run, {"intervention": 9}, r"expected one of 1 \(pause-policy at step 7\), 3 \(collapse at step 15\)"),
        (run, {"seeds": 0}, "seeds must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=reason):
            twin(place, out=tmp_path / "twin", **options)
    assert not (tmp_path / "twin").exists()


def test_by_default_the_last_intervention_is_left_out_that_is_no_stop(person, tmp_path):
    person(tmp_path / "run", {7: [PausePolicy()], 20: [Stop()]})
    found = twin(tmp_path / "run")
    assert found.intervention["kind"] == "pause-policy"
    assert {part.name for part in found.final} >= {"accuracy", "loss"}


def test_the_terminal_shows_the_differences_and_where_they_are(person, tmp_path, capsys):
    person(tmp_path / "run", {15: [Pump(noise_std=0.2)]})
    assert main(["twin", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "pump at step 15" in said
    assert "accuracy validation" in said
    assert (tmp_path / "run-twin-1" / RESULT).is_file()
    assert main(["twin", str(tmp_path / "run"), "--intervention", "7"]) == MISTAKE
    results = twins_of(tmp_path / "run")
    assert [one["name"] for one in results] == ["run-twin-1"]
    assert all(math.isfinite(part["difference"]) for part in results[0]["final"])


def test_results_that_somebody_else_wrote_are_read_with_care(tmp_path):
    (tmp_path / "run").mkdir()
    good = {"version": 1, "run": "../run", "final": []}
    for name, text in {
        "good": json.dumps(good),
        "damaged": "{",
        "deep": "[" * 100_000,
        "a list": "[1]",
        "of another": json.dumps(good | {"run": "../other"}),
        "newer": json.dumps(good | {"version": 2}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / RESULT).write_text(text)
    (tmp_path / "linked").symlink_to(tmp_path / "good")
    assert twins_of(tmp_path / "run") == [good | {"name": "good"}]
