"""Short runs of the command line: they end in a table and a run directory, go on, and fail in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from command_line import fails
from surgecollapse.cli import INTERRUPTED, MISTAKE, main, training
from surgecollapse.lab.config import make_config, read_config
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.record import RunStore

# Runs so short learn little before their masks are final, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:training (has learned nothing|does not recover):UserWarning")

SHORT = ["--steps", "40", "--widths", "8,8", "--evaluate-every", "10", "--every", "5"]
SPARSE = ["--min-density", "0"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("policy", "more"), [("none", []), ("cyclic_pruning", SPARSE)])
def test_a_short_run_ends_in_a_table_and_a_run_directory(policy, more, tmp_path, capsys):
    assert main(["run", "digits", "--policy", policy, "--out", "there", *SHORT, *more]) == 0
    captured = capsys.readouterr()
    assert "test accuracy" in captured.out
    assert "surgecollapse report there" in captured.out
    assert "step 40/40" in captured.err
    config = read_config(tmp_path / "there" / "config.toml")
    assert (config.method.policy, config.run.steps, config.model.widths) == (policy, 40, (8, 8))
    with RunStore(tmp_path / "there" / "run.db") as store:
        assert store.get("status") == "complete"


def test_a_file_gives_the_keys_and_flags_win(tmp_path):
    (tmp_path / "my.toml").write_text('task = "digits"\npolicy = "none"\nsteps = 5\nlr = 0.5\nwidths = [8]\n')
    assert main(["run", "--config", "my.toml", "--lr", "0.25", "--out", "there"]) == 0
    config = read_config(tmp_path / "there" / "config.toml")
    assert (config.optimizer.lr, config.run.steps) == (0.25, 5)


def test_flags_may_carry_the_section_of_their_key(tmp_path):
    argv = "run --config my.toml --optimizer.name sgd --optimizer.lr=0.25 --run.seed 4 --out there"
    (tmp_path / "my.toml").write_text('[data]\ntask = "digits"\n[method]\npolicy = "none"\n[run]\nsteps = 5\n')
    assert main(argv.split()) == 0
    wanted = make_config(task="digits", policy="none", optimizer="sgd", lr=0.25, seed=4, steps=5)
    assert read_config(tmp_path / "there" / "config.toml") == wanted


def test_sparsity_0_does_nothing_to_the_net(tmp_path):
    for name, flags in {"plain": ["--policy", "none"], "zero": ["--sparsity", "0"]}.items():
        assert main(["run", "digits", "--out", name, *flags, *SHORT]) == 0
    plain, zero = (
        load_checkpoint(tmp_path / name / "checkpoints" / "step-40.pt")["model"] for name in ("plain", "zero")
    )
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


def test_an_experiment_is_run_by_name_and_from_its_file(tmp_path, capsys):
    path = str(experiments()["grokfast-modular"])
    for name, argv in {"name": ["grokfast-modular"], "file": ["--config", path]}.items():
        assert main(["run", *argv, "--steps", "2", "--widths", "8,8", "--modulus", "7", "--out", name]) == 0
    one, two = (read_config(tmp_path / name / "config.toml") for name in ("name", "file"))
    assert one == two
    assert one.transforms.grokfast == "ema"


def test_default_directories_are_numbered_and_never_reused(tmp_path):
    for _ in range(2):
        assert main(["run", "digits", "--policy", "none", "--steps", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-none-s0", "digits-none-s0-2"]


def test_policy_options_are_json(tmp_path):
    argv = ["run", "digits", "--policy-options", '{"floor": 0.3}', "--out", "there", *SHORT, *SPARSE]
    assert main(argv) == 0
    assert read_config(tmp_path / "there" / "config.toml").method.policy_options == {"floor": 0.3}


def test_a_directory_that_holds_a_run_is_refused(capsys):
    assert main(["run", "digits", "--policy", "none", "--steps", "2", "--out", "there"]) == 0
    capsys.readouterr()
    assert "--resume there" in fails(capsys, "run", "digits", "--policy", "none", "--out", "there")


def test_an_unwritable_directory_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "choose another --out" in fails(capsys, "run", "digits", "--policy", "none", "--out", "file/run")


def test_a_damaged_checkpoint_is_one_line(capsys, tmp_path):
    main(["run", "digits", "--policy", "none", "--out", "there", *SHORT])
    with RunStore(tmp_path / "there" / "run.db", mode="a") as store:
        store.set("status", "running")
    for path in (tmp_path / "there" / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    capsys.readouterr()
    assert main(["run", "--resume", "there"]) == MISTAKE
    last = capsys.readouterr().err.splitlines()[-1]
    assert "damaged or no checkpoint" in last
    assert "start again" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(number, tmp_path):
    argv = ["run", "digits", "--policy", "none", "--steps", "100000", "--out", "there", "--evaluate-every", "50"]
    process = subprocess.Popen(
        [sys.executable, "-m", "surgecollapse", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "there" / "checkpoints" / "best.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "surgecollapse run --resume there" in out
    assert "Traceback" not in err
    with RunStore(tmp_path / "there" / "run.db") as store:
        assert store.get("status") == "interrupted"


def test_the_demo_compares_two_runs_of_one_seed_and_writes_a_report(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    real = training.make_config
    short = {"steps": 60, "widths": (16, 16), "every": 5, "evaluate_every": 10, "min_density": 0.0}
    monkeypatch.setattr(training, "make_config", lambda **values: real(**{**short, **values}))
    assert main(["demo", "--out", "demo", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "plain" in out
    assert "surge-collapse" in out
    page = (tmp_path / "demo" / "report" / "index.html").read_text()
    sizes = re.findall(r"[\d.]+ kB", out)
    assert len(sizes) == 2
    assert all(size in page for size in sizes), "table and report give the same size in the same unit"
    summaries = {}
    for name in ("plain", "surge-collapse"):
        with RunStore(tmp_path / "demo" / name / "run.db") as store:
            summaries[name] = store.get("summary")
    assert summaries["plain"]["seed"] == summaries["surge-collapse"]["seed"] == 3
    assert summaries["plain"]["interventions"] == 0
    assert summaries["plain"]["nonzeros"] == summaries["plain"]["parameters"]
    assert summaries["surge-collapse"]["sparsity"] == pytest.approx(0.9, abs=1e-3)


def test_a_report_that_cannot_be_written_is_one_line(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["run", "digits", "--policy", "none", "--out", "there", *SHORT]) == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    line = fails(capsys, "report", "there", "--out", "file/report")
    assert "cannot write the report in file/report (Not a directory): free space or choose another --out" in line
