"""Rules: read with one-line errors, followed once a condition holds, recorded, the same in a replay and a resume."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.cli import MISTAKE, main
from surgecollapse.commands import Pump
from surgecollapse.controller.rules import Rule
from surgecollapse.lab.config import ConfigError, make_config, read_config, write_config
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, RunStore

SHORT = {"task": "digits", "steps": 40, "widths": (16,), "train_samples": 200, "evaluate_every": 10, "every": 5,
         "checkpoint_every": 10, "monitors": "none"}  # fmt: skip
RULES = [
    {"when": "entropy > 0 for 3 readings", "do": "pump noise_std=0.05"},
    {"when": "accuracy >= 0 for 2", "do": "set optimizer.weight_decay 0.4"},
    {"when": "loss/validation is not finite", "do": "alert"},
    {"when": "learning_rate >= 0", "do": "alert"},
]


@pytest.mark.parametrize(
    ("when", "do", "reason"),
    [
        ("loss", "stop", "expected a series and a condition"),
        ("loss is bad", "stop", "expected a series and a condition"),
        ("loss == 3", "stop", "expected a series and a condition"),
        ("lost < 3", "stop", "unknown series 'lost'.*Did you mean 'loss'"),
        ("loss < three", "stop", "expected a number, got 'three'"),
        ("loss < nan", "stop", "expected a finite number"),
        ("loss < 3 for 0 readings", "stop", "expected 1 to 10000 readings, got 0"),
        ("loss < 3", "halt", "unknown command 'halt'.*or 'alert' to say it"),
        ("loss < 3", "pump noise_std=-1", "noise_std must be a number in"),
        ("loss < 3", "collapse", "collapse needs fraction"),
    ],
)
def test_a_rule_that_cannot_be_read_is_one_line(when, do, reason, capsys):
    with pytest.raises(ConfigError, match=reason) as error:
        make_config(task="digits", rules=[{"when": when, "do": do}])
    assert "\n" not in str(error.value)
    assert main(["run", "digits", "--rules", f"{when} => {do}"]) == MISTAKE
    assert capsys.readouterr().err.count("\n") == 1


def test_rules_stand_in_a_file_as_tables_and_come_back(tmp_path):
    (tmp_path / "a.toml").write_text('task = "digits"\n[[rules]]\nwhen = "loss is nan"\ndo = "stop"\n')
    config = read_config(tmp_path / "a.toml")
    assert [(part.when, part.do) for part in config.run.rules] == [("loss is nan", "stop")]
    write_config(config, tmp_path / "b.toml")
    assert read_config(tmp_path / "b.toml") == config
    with pytest.raises(ConfigError, match="rules"):
        make_config(task="digits", rules=[{"when": "loss is nan", "then": "stop"}])


def final(folder):
    return torch.load(folder / "checkpoints" / "step-40.pt", weights_only=True)


def same(one, two):
    return all(torch.equal(value, final(two)["model"][name]) for name, value in final(one)["model"].items())


def told(folder):
    with RunStore(folder / "run.db") as store:
        requests = [(one.step, one.kind, one.source, one.status) for one in store.requests()]
        return requests, [(alarm.step, alarm.forecast) for alarm in store.alarms()]


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules") / "run"
    train(make_config(policy="gmp", sparsity=0.8, rules=RULES, **SHORT), folder)
    return folder


def test_a_rule_is_followed_once_at_the_boundary_after_its_reading_and_recorded(ruled):
    requests, alarms = told(ruled)
    assert requests == [(15, "pump", "rule", "applied"), (20, "set-optimizer", "rule", "applied")]
    assert alarms == [(10, "alert"), (15, "pump noise_std=0.05"), (20, "set optimizer.weight_decay 0.4")]
    assert final(ruled)["optimizer"]["param_groups"][0]["weight_decay"] == 0.4
    assert CommandQueue(ruled / "run.db").all() == []
    with RunStore(ruled / "run.db") as store:
        assert store.get("touched") is None


def test_a_replay_and_a_resume_follow_rules_once(ruled, tmp_path, monkeypatch):
    train(None, tmp_path / "again", replay=ruled)
    assert same(ruled, tmp_path / "again")
    assert told(tmp_path / "again") == told(ruled)
    advance = Training.advance

    def cut(training):
        if training.step == 13:
            raise KeyboardInterrupt
        advance(training)

    monkeypatch.setattr(Training, "advance", cut)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(policy="gmp", sparsity=0.8, rules=RULES, **SHORT), tmp_path / "cut")
    monkeypatch.setattr(Training, "advance", advance)
    train(None, tmp_path / "cut", resume=True)
    assert same(ruled, tmp_path / "cut")
    assert told(tmp_path / "cut") == told(ruled)


def broken(training, inner=Training.advance):
    """Make the weights useless after step 6."""
    inner(training)
    if training.step == 6:
        with torch.no_grad():
            next(training.model.parameters()).fill_(float("nan"))


def test_a_run_that_diverges_stops_and_is_not_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Training, "advance", broken)
    result = train(make_config(policy="none", **SHORT), tmp_path / "run")
    assert (result.status, result.step) == ("diverged", 9)  # the third loss that is not finite
    with RunStore(tmp_path / "run" / "run.db") as store:
        assert [(alarm.step, alarm.forecast) for alarm in store.alarms()] == [(9, "stop")]
        assert (store.get("status"), store.get("summary")["diverged"]) == ("diverged", True)
    assert main(["export", str(tmp_path / "run"), "--format", "sparse"]) == MISTAKE
    assert "has diverged" in capsys.readouterr().err
    whole = train(make_config(policy="none", stop_when_diverged=False, **SHORT), tmp_path / "whole")
    assert (whole.status, whole.step) == ("diverged", 40)


def test_a_diverged_run_with_finite_weights_is_exported_only_when_that_is_asked_for(ruled, tmp_path, capsys):
    import shutil

    shutil.copytree(ruled, tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db", mode="a") as store:
        store.set("status", "diverged")
    words = ["export", str(tmp_path / "run"), "--format", "sparse"]
    assert main(words) == MISTAKE
    assert "--even-diverged" in capsys.readouterr().err
    assert main([*words, "--even-diverged"]) == 0


def test_a_rule_whose_command_is_rejected_says_so_and_the_run_goes_on(tmp_path):
    rules = [{"when": "loss > -1", "do": "collapse fraction=0.5"}]
    result = train(make_config(policy="none", rules=rules, **SHORT), tmp_path / "run")
    assert result.status == "complete"
    requests, _ = told(tmp_path / "run")
    assert requests == [(1, "collapse", "rule", "rejected")]
    assert Rule(**rules[0]).command is not None
    assert Rule("loss > -1", "pump noise_std=0.1").command == Pump(noise_std=0.1)
