"""Branches: a run goes on otherwise from one of its steps, beside the run that it leaves, which stays as it was."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch

from surgecollapse.cli import MISTAKE, main
from surgecollapse.commands import Checkpoint, Collapse, DeleteCheckpoint, Pump, RollBack, SetThresholds
from surgecollapse.lab.config import ConfigError, make_config, read_config
from surgecollapse.lab.training.branching import fork
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.trainer import Training
from surgecollapse.record import CommandQueue, RunStore, copy_record, last_step

SHORT = {"task": "digits", "steps": 60, "widths": (16,), "train_samples": 200, "evaluate_every": 20, "every": 5,
         "checkpoint_every": 20, "monitors": "none"}  # fmt: skip


class Person:
    """Sends commands after given steps."""

    def __init__(self, plan):
        self.plan, self.advance = dict(plan), Training.advance

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


PLAN = {7: [Collapse(fraction=0.3)], 25: [Pump(noise_std=0.05)], 45: [Collapse(fraction=0.2)]}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branches") / "run"
    with Person(PLAN):
        train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), folder)
    return folder


def marks(folder):
    """What a folder holds, but for the log files that SQLite makes for whoever reads."""
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".db-wal", ".db-shm"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def final(folder, step=60):
    return torch.load(folder / "checkpoints" / f"step-{step}.pt", weights_only=True)


def same(one, two):
    return all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


def record(folder):
    with RunStore(folder / "run.db") as store:
        series = {
            (name, layer): [part.tolist() for part in store.measurements(name, layer)]
            for name, layer in store.names()
            if not name.startswith(("time/", "system/"))
        }
        return repr(series), store.readings(), store.decisions(), store.interventions()


@pytest.mark.parametrize("at", [0, 7, 33])
def test_a_branch_without_changes_is_bitwise_the_run_up_to_what_people_did_later(parent, tmp_path, at):
    before = marks(parent)
    result = fork(parent, at, out=tmp_path / "branch")
    assert marks(parent) == before
    assert (result.status, result.step) == ("complete", 60)
    with Person({step: commands for step, commands in PLAN.items() if step <= at}):
        train(make_config(policy="entropy_cycles", sparsity=0.9, **SHORT), tmp_path / "reference")
    one, two = final(tmp_path / "branch"), final(tmp_path / "reference")
    assert same(one, two)
    assert str(one["optimizer"]) == str(two["optimizer"])  # with the controller's state
    assert str(one["batches"]) == str(two["batches"])
    assert record(tmp_path / "branch") == record(tmp_path / "reference")
    with RunStore(tmp_path / "branch" / "run.db") as store:
        said = [store.get(key) for key in ("forked_at", "forked_by", "fork_changes", "kept_checkpoints")]
        assert said == [at, "fork", {}, [at]]
        assert (tmp_path / "branch" / store.get("parent")).resolve() == parent.resolve()
        assert store.modified_by_user is (at >= 7)


def test_a_branch_after_the_last_command_equals_the_run_to_its_end(parent, tmp_path):
    fork(parent, 46, out=tmp_path / "branch")
    assert same(final(tmp_path / "branch"), final(parent))
    assert record(tmp_path / "branch") == record(parent)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"lr": 1e-4}, "lr"),
        ({"optimizer.weight_decay": 0.5}, "weight_decay"),
        ({"batch_size": 16}, "batch_size"),
        ({"steps": 80}, "steps"),
        ({"sparsity": 0.6}, "sparsity"),
        ({"schedule": "constant"}, "schedule"),
    ],
)
def test_a_branch_with_other_settings_has_them_from_its_step_on(parent, tmp_path, changes, key):
    result = fork(parent, 33, out=tmp_path / "branch", changes=changes)
    config = read_config(tmp_path / "branch" / "config.toml")
    section = "method" if key == "sparsity" else "optimizer" if key in ("lr", "weight_decay", "schedule") else "run"
    assert getattr(getattr(config, section), key) == next(iter(changes.values()))
    assert (result.status, result.step) == ("complete", 80 if key == "steps" else 60)
    assert not same(final(tmp_path / "branch", result.step), final(parent))
    if key == "sparsity":
        assert result.summary["sparsity"] == pytest.approx(0.6, abs=1e-3)
    if key == "weight_decay":
        assert final(tmp_path / "branch")["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    with RunStore(tmp_path / "branch" / "run.db") as store:
        changed = store.get("fork_changes")
        assert changed[f"{section}.{key}"] == next(iter(changes.values()))
        assert store.get("config")[section][key] == next(iter(changes.values()))
    shared = [reading for reading in record(tmp_path / "branch")[1] if reading.step <= 30]
    assert shared == [reading for reading in record(parent)[1] if reading.step <= 30]


def test_a_branch_with_a_seed_draws_otherwise_and_the_same_again(parent, tmp_path):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        fork(parent, 33, out=tmp_path / name, seed=seed)
    one, two, three = (final(tmp_path / name) for name in ("one", "two", "three"))
    assert same(one, two)
    assert not same(one, three)
    assert not same(one, final(parent))


@pytest.mark.parametrize(
    ("at", "changes", "reason"),
    [
        (60, {}, "ended at step 60 with a final mask"),
        (99, {}, "is at step 60"),
        (-1, {}, "is at step 60"),
        (33, {"widths": (8,)}, "unknown key of a branch 'widths'"),
        (33, {"seed": 3}, "Another seed needs a new run"),
        (33, {"lrr": 3}, "unknown key 'lrr'"),
        (33, {"lr": -1}, "lr"),
    ],
)
def test_a_branch_that_cannot_be_is_refused_and_leaves_nothing(parent, tmp_path, at, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        fork(parent, at, out=tmp_path / "branch", changes=changes)
    assert not (tmp_path / "branch").exists()


def test_a_branch_never_takes_a_folder_that_is_in_use(parent, tmp_path):
    (tmp_path / "branch").mkdir()
    (tmp_path / "branch" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        fork(parent, 33, out=tmp_path / "branch")
    assert (tmp_path / "branch" / "notes.txt").read_text() == "mine"


def test_a_branch_that_was_killed_before_its_step_is_not_resumed_as_if_it_were_there(parent, tmp_path):
    branch = tmp_path / "branch"
    fork(parent, 33, out=branch)
    with RunStore(branch / "run.db", mode="a") as store:
        store.set("unfinished_branch", 33)
        store.set("status", "running")
    with pytest.raises(ConfigError, match="was to branch at step 33 and was cut off before"):
        train(None, branch, resume=True)


def test_a_roll_back_keeps_what_it_leaves_as_a_branch_that_can_go_on(tmp_path):
    config = make_config(policy="entropy_cycles", sparsity=0.9, **SHORT)
    with Person({25: [Collapse(fraction=0.2)], 45: [RollBack(step=20)]}):
        train(config, tmp_path / "run")
    left = tmp_path / "run-left-at-45"
    with RunStore(left / "run.db") as store:
        said = [store.get(key) for key in ("parent", "forked_at", "forked_by", "status", "checkpoints")]
        assert said == ["../run", 20, "roll-back", "interrupted", [40, 45]]
        assert store.interventions()[-1].step <= 45
        assert [event.step for event in store.requests()] == [25]
    with RunStore(tmp_path / "run" / "run.db") as store:
        assert [event.kind for event in store.requests()] == ["roll-back"]
        assert "kept in run-left-at-45" in store.requests()[0].reason
    train(None, left, resume=True)
    with Person({25: [Collapse(fraction=0.2)]}):
        train(config, tmp_path / "never-rolled-back")
    assert same(final(left), final(tmp_path / "never-rolled-back"))
    train(config, tmp_path / "plain")
    assert same(final(tmp_path / "run"), final(tmp_path / "plain"))


def test_a_roll_back_that_cannot_keep_what_it_leaves_is_rejected_and_changes_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("surgecollapse.lab.training.branch_folders.copy_record", full)
    config = make_config(policy="entropy_cycles", sparsity=0.9, **SHORT)
    with Person({45: [RollBack(step=20)]}):
        train(config, tmp_path / "run")
    asked = CommandQueue(tmp_path / "run" / "run.db").all()[0]
    assert (asked.status, asked.step) == ("rejected", 45)
    assert "No space left on device" in asked.reason
    train(config, tmp_path / "plain")
    assert same(final(tmp_path / "run"), final(tmp_path / "plain"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "run"]


def test_a_checkpoint_that_a_person_asked_for_stays_until_it_is_deleted(tmp_path):
    config = make_config(policy="entropy_cycles", sparsity=0.9, keep_checkpoints=1, **SHORT)
    plan = {5: [Checkpoint()], 12: [Checkpoint()], 50: [DeleteCheckpoint(step=12), DeleteCheckpoint(step=13),
                                                        DeleteCheckpoint(step=40)]}  # fmt: skip
    with Person(plan):
        train(config, tmp_path / "run")
    there = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert there == ["step-5.pt", "step-60.pt"]
    asked = CommandQueue(tmp_path / "run" / "run.db").all()
    assert [one.status for one in asked] == ["applied", "applied", "applied", "rejected", "rejected"]
    assert asked[3].reason == "no checkpoint of step 13: there are 5, 40"
    assert "is the newest" in asked[4].reason
    with RunStore(tmp_path / "run" / "run.db") as store:
        assert (store.get("kept_checkpoints"), store.get("checkpoints")) == ([5], [5, 60])
        assert not store.modified_by_user


def test_a_kept_checkpoint_outlives_an_interruption(tmp_path):
    config = make_config(policy="entropy_cycles", sparsity=0.9, keep_checkpoints=1, **SHORT)
    with Person({5: [Checkpoint()]}):
        train(config, tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db", mode="a") as store:
        store.set("status", "interrupted")
    shutil.copyfile(tmp_path / "run" / "checkpoints" / "step-5.pt", tmp_path / "kept")
    for path in (tmp_path / "run" / "checkpoints").glob("step-60.pt"):
        path.unlink()
    train(None, tmp_path / "run", resume=True)
    there = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert there == ["step-5.pt", "step-60.pt"]


def test_a_copy_of_a_record_ends_at_its_step_and_has_the_chosen_commands(parent, tmp_path):
    ids = [asked.id for asked in CommandQueue(parent / "run.db").applied()]
    copy_record(parent / "run.db", tmp_path / "run.db", step=30, commands=ids[:2])
    assert last_step(tmp_path / "run.db") == 30
    assert last_step(parent / "run.db") == 60
    assert [asked.id for asked in CommandQueue(tmp_path / "run.db").all()] == ids[:2]
    with RunStore(tmp_path / "run.db") as store:
        assert store.get("summary") is None
        assert store.modified_by_user
    copy_record(parent / "run.db", tmp_path / "second.db", step=3, commands=[])
    with RunStore(tmp_path / "second.db") as store:
        assert not store.modified_by_user
    with pytest.raises(FileExistsError):
        copy_record(parent / "run.db", tmp_path / "run.db", step=30, commands=[])


def test_the_terminal_forks(parent, tmp_path, capsys):
    shutil.copytree(parent, tmp_path / "run")
    assert main(["fork", str(tmp_path / "run"), "--at", "33", "--set", "lr=0.0001", "--name", "lower"]) == 0
    assert read_config(tmp_path / "lower" / "config.toml").optimizer.lr == 1e-4
    assert main(["fork", str(tmp_path / "run"), "--at", "40"]) == 0
    assert (tmp_path / "run-fork-at-40" / "run.db").is_file()
    capsys.readouterr()
    same = read_config(tmp_path / "run" / "config.toml").optimizer.lr
    assert main(["fork", str(tmp_path / "run"), "--at", "40", "--set", f"lr={same}", "--name", "same"]) == 0
    assert "the changes are what the run has already" in "".join(capsys.readouterr())
    for words, reason in (
        (["--at", "33", "--set", "lr"], "expected KEY=VALUE"),
        (["--at", "33", "--name", "a/b"], "without slashes"),
        (["--at", "33", "--name", "lower"], "is not empty"),
        (["--at", "33", "--set", "widths=[3]"], "unknown key of a branch"),
    ):
        assert main(["fork", str(tmp_path / "run"), *words]) == MISTAKE
        assert reason in capsys.readouterr().err


def test_thresholds_of_a_person_go_with_a_branch(tmp_path):
    config = make_config(policy="entropy_cycles", sparsity=0.9, **SHORT)
    with Person({12: [SetThresholds(values={"floor": 0.2})]}):
        train(config, tmp_path / "run")
    fork(tmp_path / "run", 40, out=tmp_path / "branch", changes={"steps": 70})
    state = final(tmp_path / "branch", 70)["optimizer"]["surgecollapse.controller"][0]
    assert state["interventions"]["thresholds"] == {"floor": 0.2}
    assert state["plan"]["event"]["total_steps"] == 70
