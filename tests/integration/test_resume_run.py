"""A run is a function of its configuration: interrupted anywhere and resumed, it is bitwise the uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from surgecollapse.lab.config import ConfigError, make_config, read_config
from surgecollapse.lab.training import checkpoint as checkpoint_module
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.checkpoint import CheckpointError, load_checkpoint, step_checkpoints
from surgecollapse.lab.training.evaluation import load_checkpointed_run, predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.lab.training.sampler import Batches
from surgecollapse.record import RunStore, RunStoreError

STEPS = 60
POLICIES = ["none", "no_op", "fixed_interval", "entropy_thresholds", "acdc", "entropy_cycles"]


def configuration(policy: str, **changes):
    values = {
        "task": "digits",
        "policy": policy,
        "widths": (16, 16),
        "steps": STEPS,
        "every": 3,
        "evaluate_every": 10,
        "checkpoint_every": 25,
        "dropout": 0.2,
        "min_density": 0.01,
        "sparsity": 0.8,
        "monitor_budget": 1.0,  # when monitors run is otherwise a matter of the clock
    }
    if policy == "none":
        del values["min_density"], values["sparsity"]
    if policy == "fixed_interval":
        values["policy_options"] = {"collapse_every": 10, "surge_every": 20}
    return make_config(**{**values, **changes})


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


class InterruptAt(Silent):
    """Sends SIGINT, or another signal, to this process when the run has passed a step."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def update(self, snapshot) -> None:
        if snapshot.step == self.step:
            os.kill(os.getpid(), self.number)


def weights(folder):
    state = load_checkpoint(step_checkpoints(folder / "checkpoints")[0])
    return state["model"]


def recorded(folder):
    """Everything in the store that is no wall-clock time."""
    with RunStore(folder / "run.db") as store:
        series = {
            key: store.measurements(*key)
            for key in store.names()
            if not key[0].startswith(("time/", "budget/", "system/"))
        }
        summary = {key: value for key, value in store.get("summary").items() if key != "seconds"}
        return {
            "series": {key: (s.steps.tolist(), s.values.tolist()) for key, s in series.items()},
            "readings": store.readings(),
            "decisions": store.decisions(),
            "interventions": store.interventions(),
            "sketches": [(step, array.tolist()) for step, array in store.arrays("sketch/weights")],
            "summary": summary,
            "status": store.get("status"),
        }


def assert_same_run(one, two):
    first, second = weights(one), weights(two)
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert recorded(one) == recorded(two)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One whole run per policy, made on first use."""
    made = {}

    def get(policy):
        if policy not in made:
            folder = tmp_path_factory.mktemp("runs") / policy
            assert train(configuration(policy), folder).status == "complete"
            made[policy] = folder
        return made[policy]

    return get


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stop", [1, 17, 44])
def test_interrupted_and_resumed_is_bitwise_uninterrupted(policy, stop, uninterrupted, tmp_path):
    out = tmp_path / "run"
    result = train(configuration(policy), out, progress=InterruptAt(stop))
    assert result.status == "interrupted"
    assert result.step == stop
    with RunStore(out / "run.db") as store:
        assert store.get("status") == "interrupted"
    assert train(None, out, resume=True).status == "complete"
    assert_same_run(out, uninterrupted(policy))


@pytest.mark.parametrize("policy", ["none", "acdc"])
def test_states_are_in_a_checkpoint_once_and_are_read_where_version_01_had_them(policy, tmp_path):
    """In the optimizer's state; 0.1 had them in both places, or beside it alone."""
    train(configuration(policy, grokfast="ema"), tmp_path / "whole")
    train(configuration(policy, grokfast="ema"), tmp_path / "run", progress=InterruptAt(30))
    path = step_checkpoints(tmp_path / "run" / "checkpoints")[0]
    state = load_checkpoint(path)
    assert state.keys().isdisjoint({"controller", "transforms"})
    key = "transforms" if policy == "none" else "controller"
    (state[key],) = state["optimizer"][f"surgecollapse.{key}"]
    checkpoint_module.save_checkpoint(path, state)
    train(None, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_killed_between_checkpoints_is_resumed_from_the_last_one(uninterrupted, tmp_path):
    out = tmp_path / "run"

    class Kill(Silent):
        def update(self, snapshot):
            if snapshot.step == 38:
                raise KeyError("as good as a kill: nothing saves")

    with pytest.raises(KeyError):
        train(configuration("none"), out, progress=Kill())
    with RunStore(out / "run.db") as store:
        assert store.get("status") == "failed"
    assert [path.name for path in step_checkpoints(out / "checkpoints")] == ["step-25.pt"]
    train(None, out, resume=True)
    assert_same_run(out, uninterrupted("none"))


def test_a_run_killed_before_its_first_checkpoint_starts_again(uninterrupted, tmp_path):
    out = tmp_path / "run"

    class Kill(Silent):
        def update(self, snapshot):
            if snapshot.step == 7:
                raise KeyError("now")

    with pytest.raises(KeyError):
        train(configuration("none"), out, progress=Kill())
    notes = Notes()
    train(None, out, resume=True, progress=notes)
    assert "starting again" in notes.lines[0]
    assert_same_run(out, uninterrupted("none"))


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(uninterrupted, tmp_path):
    out = tmp_path / "run"
    train(configuration("none"), out, progress=InterruptAt(44))
    newest = step_checkpoints(out / "checkpoints")[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(bytes(content))
    notes = Notes()
    train(None, out, resume=True, progress=notes)
    assert "step-44.pt" in notes.lines[0]
    assert "damaged" in notes.lines[0]
    assert_same_run(out, uninterrupted("none"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut"])
def test_only_damaged_checkpoints_are_one_clear_error(content, tmp_path):
    out = tmp_path / "run"
    train(configuration("none"), out, progress=InterruptAt(17))
    for path in step_checkpoints(out / "checkpoints"):
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-17\.pt .*start again") as caught:
        train(None, out, resume=True)
    assert "\n" not in str(caught.value)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "step-1.pt")
    with pytest.raises(CheckpointError, match="no surgecollapse checkpoint"):
        load_checkpoint(tmp_path / "step-1.pt")


def test_a_newer_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_VERSION", 99)
    checkpoint_module.save_checkpoint(tmp_path / "step-1.pt", {"step": 1})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"version 99.*update"):
        load_checkpoint(tmp_path / "step-1.pt")


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "step-1.pt"
    checkpoint_module.save_checkpoint(path, {"step": 1})

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint_module.save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-1.pt"]


def test_a_disk_that_fills_up_is_one_clear_error_and_the_run_is_resumable(uninterrupted, tmp_path, monkeypatch):
    out = tmp_path / "run"
    real = checkpoint_module.os.fsync
    calls = []

    def fills_up(number):
        calls.append(number)
        if len(calls) == 12:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(checkpoint_module.os, "fsync", fills_up)
    with pytest.raises(RunStoreError, match=r"No space left.*free space, then go on with --resume") as caught:
        train(configuration("none", evaluate_every=3), out)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert train(None, out, resume=True).status == "complete"


def test_only_an_older_checkpoint_that_is_used_is_worth_a_warning(tmp_path):
    for name in ("step-1.pt", "step-2.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    notes = []
    with pytest.raises(CheckpointError, match=r"step-2\.pt is damaged"):
        checkpoint_module.latest_checkpoint(tmp_path, notes.append)
    assert notes == []


def _forget_the_optimizer(state):
    del state["optimizer"]


def _cut_the_weights(state):
    state["model"] = {name: value[:1] for name, value in state["model"].items()}


def _forget_the_configuration(state):
    state["config"] = None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_forget_the_optimizer, "no 'optimizer' in it"),
        (_cut_the_weights, "does not fit the run .*size mismatch"),
        (_forget_the_configuration, "holds no configuration"),
    ],
)
def test_a_whole_checkpoint_that_is_of_no_such_run_is_one_clear_error(spoil, words, tmp_path):
    out = tmp_path / "run"
    train(configuration("none"), out, progress=InterruptAt(10))
    path = step_checkpoints(out / "checkpoints")[0]
    state = load_checkpoint(path)
    spoil(state)
    checkpoint_module.save_checkpoint(path, state)
    with pytest.raises(CheckpointError, match=words) as caught:
        train(None, out, resume=True)
    assert "\n" not in str(caught.value)


def test_the_report_refuses_weights_of_another_net_in_one_line(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted("none"), out)
    path = step_checkpoints(out / "checkpoints")[0]
    state = load_checkpoint(path)
    _cut_the_weights(state)
    checkpoint_module.save_checkpoint(path, state)
    with pytest.raises(CheckpointError, match="does not fit the run") as caught:
        load_checkpointed_run(out)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_before_its_first_step_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="nothing to prune"):
        train(configuration("entropy_cycles", widths=()), tmp_path / "runs" / "linear")
    assert list(tmp_path.iterdir()) == []
    # What was there before stays.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match="nothing to prune"):
        train(configuration("entropy_cycles", widths=()), tmp_path / "mine")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_disk_that_is_full_at_the_start_leaves_the_place_free_for_another_try(tmp_path, monkeypatch):
    def full(store, key, value):
        raise RunStoreError("cannot write run.db (database or disk is full): free disk space")

    monkeypatch.setattr(RunStore, "set", full)
    with pytest.raises(RunStoreError, match="disk is full"):
        train(configuration("none"), tmp_path / "run")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_said_once(tmp_path):
    notes = Notes()
    # Among weights that are all about as large, a global threshold would starve a layer, of which a warning tells.
    wild = configuration("entropy_cycles", lr=1e30, steps=20, allocation="layer")
    result = train(wild, tmp_path / "run", progress=notes)
    assert result.status == "diverged"
    assert "the run has diverged" in notes.lines[-1]
    assert [line for line in notes.lines if "training loss is nan" in line] == notes.lines[:1]
    assert "lower --lr or set --clip" in notes.lines[0]


def test_a_net_that_does_not_fit_in_memory_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="not enough memory"):
        train(configuration("none", widths=(1_000_000, 1_000_000)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_load_with_weights_only_and_old_ones_are_dropped(uninterrupted):
    folder = uninterrupted("entropy_cycles") / "checkpoints"
    assert [path.name for path in step_checkpoints(folder)] == ["step-60.pt", "step-50.pt"]
    assert (folder / "best.pt").exists()
    state = torch.load(folder / "step-60.pt", weights_only=True)
    assert state["version"] == checkpoint_module.CHECKPOINT_VERSION


def test_the_best_checkpoint_is_taken_only_after_the_freeze(uninterrupted):
    folder = uninterrupted("entropy_cycles")
    with RunStore(folder / "run.db") as store:
        freezes = [event.step for event in store.interventions() if event.kind == "freeze"]
        best = store.get("summary")["best_step"]
    assert freezes
    assert best >= freezes[0]


def test_the_final_weights_have_exactly_the_target_sparsity(uninterrupted):
    with RunStore(uninterrupted("entropy_cycles") / "run.db") as store:
        summary = store.get("summary")
    prunable = summary["prunable"]
    assert prunable == 64 * 16 + 16 * 16
    assert summary["sparsity"] == pytest.approx(1 - int(0.2 * prunable + 0.5) / prunable, abs=1e-12)
    zeros = summary["parameters"] - summary["nonzeros"]
    assert zeros >= prunable - int(0.2 * prunable + 0.5)
    assert summary["bytes_sparse"] < summary["bytes_dense"]


def test_hold_is_bitwise_plain_training(uninterrupted):
    plain, held = weights(uninterrupted("none")), weights(uninterrupted("no_op"))
    assert all(torch.equal(plain[name], held[name]) for name in plain)


def test_two_runs_of_one_configuration_are_equal_whatever_the_global_random_state(uninterrupted, tmp_path):
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    train(configuration("none"), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_run(tmp_path / "run", uninterrupted("none"))


def test_a_directory_that_holds_a_run_is_never_overwritten(uninterrupted):
    folder = uninterrupted("none")
    before = (folder / "run.db").read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        train(configuration("none", seed=1), folder)
    assert (folder / "run.db").read_bytes() == before


def test_resuming_a_complete_run_changes_nothing(uninterrupted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted("none"), folder)
    notes = Notes()
    result = train(None, folder, resume=True, progress=notes)
    assert result.status == "complete"
    assert result.summary["steps"] == STEPS
    assert "complete already" in notes.lines[0]
    assert_same_run(folder, uninterrupted("none"))


def test_resuming_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(None, tmp_path, resume=True)


def test_a_changed_configuration_is_refused_on_resume(tmp_path):
    out = tmp_path / "run"
    train(configuration("none"), out, progress=InterruptAt(17))
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("lr = 0.001", "lr = 0.002"))
    with pytest.raises(CheckpointError, match=r"config\.toml differs.*lr"):
        train(None, out, resume=True)


def test_nothing_is_made_where_the_configuration_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match="reads data of kind tokens"):
        train(make_config(task="digits", model="transformer", steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunStoreError, match="choose another --out") as caught:
        train(configuration("none"), tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_early_stopping_restores_the_best_weights(tmp_path):
    config = configuration("none", early_stopping=2, steps=400, lr=0.05, label_noise=0.5, evaluate_every=5)
    result = train(config, tmp_path / "run")
    assert result.summary["stopped_early"]
    assert result.summary["steps"] < 400
    assert result.summary["accuracy_validation"] == result.summary["best_validation"]


def test_run_directory_is_as_the_contract_says(uninterrupted):
    folder = uninterrupted("entropy_cycles")
    assert {path.name for path in folder.iterdir()} == {"run.db", "run.lock", "config.toml", "env.json", "checkpoints"}
    assert read_config(folder / "config.toml") == configuration("entropy_cycles")
    assert json.loads((folder / "env.json").read_text())["torch"] == torch.__version__


def test_load_run_gives_the_model_that_was_tested(uninterrupted):
    run = load_checkpointed_run(uninterrupted("entropy_cycles"))
    logits = predict(run.model, run.data.x_test)
    accuracy = (logits.argmax(1) == run.data.y_test).double().mean().item()
    assert accuracy == run.summary["accuracy"]
    assert run.status == "complete"
    assert run.step == STEPS
    assert len(run.store.arrays("sketch/weights")) >= 30
    run.store.close()


def test_load_run_of_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        load_checkpointed_run(tmp_path)


def test_measurements_are_those_that_were_promised(uninterrupted):
    with RunStore(uninterrupted("none") / "run.db") as store:
        names = {name for name, _ in store.names()}
        losses = store.measurements("loss/train")
        rates = store.measurements("learning_rate").values
    assert names >= {
        "loss/train",
        "loss/validation",
        "accuracy/train",
        "accuracy/validation",
        "learning_rate",
        "sparsity",
        "energy/weights",
        "gradient_norm",
        "time/step",
        "system/cores",
        "accuracy/test",
    }
    assert losses.steps.tolist() == list(range(1, STEPS + 1))
    assert losses.values[-10:].mean() < losses.values[:10].mean()
    assert np.all(np.isfinite(rates))


def test_sigkill_of_a_whole_process_loses_nothing_that_was_saved(uninterrupted, tmp_path):
    out = tmp_path / "run"
    command = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_resume_run import configuration
from surgecollapse.lab.training.run import train
import surgecollapse.lab.training.trainer as t
slow = t.Training._train_step
def step(self):
    import time
    time.sleep(0.02)
    return slow(self)
t.Training._train_step = step
train(configuration("none"), {str(out)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", command])
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step-25.pt").exists():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    train(None, out, resume=True)
    assert_same_run(out, uninterrupted("none"))


AVERAGED = {"ema_decay": 0.8, "sam_rho": 0.05, "scale_partial_batches": True}


@pytest.mark.parametrize("policy", ["none", "entropy_cycles"])
def test_a_run_that_averages_its_weights_is_resumed_bitwise(policy, tmp_path):
    train(configuration(policy, **AVERAGED), tmp_path / "whole")
    out = tmp_path / "run"
    assert train(configuration(policy, **AVERAGED), out, progress=InterruptAt(17)).status == "interrupted"
    assert train(None, out, resume=True).status == "complete"
    assert_same_run(out, tmp_path / "whole")
    first, second = (
        load_checkpoint(step_checkpoints(x / "checkpoints")[0])["averaged"] for x in (out, tmp_path / "whole")
    )
    assert first["steps"] == second["steps"] == STEPS
    assert all(torch.equal(x, second["average"][name]) for name, x in first["average"].items())


def test_averaging_changes_what_is_evaluated_and_nothing_of_the_training(uninterrupted, tmp_path):
    out = tmp_path / "run"
    train(configuration("none", ema_decay=0.8, keep_checkpoints=0), out)
    plain, averaged = (recorded(x)["series"] for x in (uninterrupted("none"), out))
    assert plain[("loss/train", None)] == averaged[("loss/train", None)]
    assert plain[("loss/validation", None)] != averaged[("loss/validation", None)]
    state = load_checkpoint(out / "checkpoints" / "step-50.pt")
    before = load_checkpoint(uninterrupted("none") / "checkpoints" / "step-50.pt")
    for name, x in before["model"].items():
        assert torch.equal(state["model"][name], x), name


def test_the_final_weights_and_results_are_those_of_the_average(tmp_path):
    train(configuration("entropy_cycles", ema_decay=0.8), tmp_path / "run")
    run = load_checkpointed_run(tmp_path / "run")
    state = load_checkpoint(step_checkpoints(tmp_path / "run" / "checkpoints")[0])
    for name, x in state["averaged"]["average"].items():
        assert torch.equal(run.model.state_dict()[name], x), name
        assert torch.equal(state["model"][name], x), name
    accuracy = (predict(run.model, run.data.x_test).argmax(1) == run.data.y_test).double().mean().item()
    assert run.summary["accuracy"] == accuracy
    assert run.summary["sparsity"] == pytest.approx(0.8, abs=1e-3)
    run.store.close()


def test_read_back_in_the_middle_a_run_shows_the_average_that_it_evaluates(tmp_path):
    out = tmp_path / "run"
    train(configuration("none", ema_decay=0.8), out, progress=InterruptAt(20))
    run = load_checkpointed_run(out)
    accuracy = (predict(run.model, run.data.x_validation).argmax(1) == run.data.y_validation).double().mean().item()
    assert run.store.measurements("accuracy/validation").values[-1] == accuracy
    assert any(not torch.equal(x, run.model.state_dict()[name]) for name, x in weights(out).items())
    run.store.close()


def test_weighed_by_its_size_a_short_batch_moves_sgd_by_its_samples_share(tmp_path):
    plain = {"task": "digits", "policy": "none", "optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "dropout": 0.0}
    plain |= {"warmup": 0, "schedule": "constant", "weight_decay": 0.0, "widths": (8,), "steps": 2}
    config = make_config(**plain, batch_size=700, scale_partial_batches=True)
    data = load_data(config)
    assert 700 < len(data.x_train) < 1400, "two batches an epoch, the second a short one"
    model, loss = build_model(config, data), make_loss(config, data)
    batches = Batches(len(data.x_train), 700, config.run.seed + 0xBA7C4)
    for rows in (next(batches), next(batches)):
        gradients = torch.autograd.grad(loss(model(data.x_train[rows]), data.y_train[rows]), list(model.parameters()))
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p -= 0.1 * len(rows) / 700 * gradient
    train(config, tmp_path / "run")
    for name, x in weights(tmp_path / "run").items():
        torch.testing.assert_close(x, model.state_dict()[name], rtol=0, atol=1e-6)


def test_weighing_batches_of_one_size_changes_nothing(tmp_path):
    whole = {"batch_size": 0, "steps": 5}
    train(configuration("none", **whole), tmp_path / "plain")
    train(configuration("none", **whole, scale_partial_batches=True), tmp_path / "weighed")
    assert_same_run(tmp_path / "plain", tmp_path / "weighed")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_saves_the_run_and_nohup_is_respected(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    result = train(configuration("none"), tmp_path / "run", progress=InterruptAt(44, signal.SIGHUP))
    assert (result.status, result.step) == ("interrupted", 44)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = train(configuration("none"), tmp_path / "nohup", progress=InterruptAt(44, signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (result.status, result.step) == ("complete", STEPS)
