"""The command line as a person meets it: short runs end in a table, every mistake is one line and a non-zero exit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import surgecollapse
from surgecollapse.cli import INTERRUPTED, MISTAKE, UNREAD, main, training
from surgecollapse.cli.flags import Flags
from surgecollapse.cli.machine_checks import examine
from surgecollapse.lab.config import make_config, read_config
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.config.keys import KEYS
from surgecollapse.lab.tasks.registry import TASKS
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.record import RunStore

SHORT = ["--steps", "40", "--widths", "8,8", "--evaluate-every", "10", "--every", "5"]
SPARSE = ["--min-density", "0"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *argv: str) -> str:
    """Run a command that must fail; return its one line."""
    assert main(argv) == MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("surgecollapse: ")
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    "argv", [["--help"], ["run", "--help"], ["demo", "--help"], ["report", "-h"], ["doctor", "-h"]]
)
def test_help_explains(argv, capsys):
    assert main(argv) == 0
    assert "Usage: surgecollapse" in capsys.readouterr().out


def test_help_of_run_names_every_key_with_its_description(capsys):
    main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, (_, field) in KEYS.items():
        if name != "task":
            assert f"--{name.replace('_', '-')} " in text, name
            assert str(field.description).split(".")[0][:40] in text, name


def test_flags_are_exactly_the_configuration_keys():
    assert set(Flags.model_fields) == set(KEYS) - {"task"}


@pytest.mark.parametrize("command", ["run", "tune", "compare", "fork", "plan", "export", "analyze", "watch", "send"])
def test_help_names_each_flag_once(command, capsys):
    main([command, "--help"])
    flags = re.findall(r"^│ (?:\*  |   )?(--[a-z.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(set(flags)) == sorted(flags)


def test_help_is_quick_because_it_imports_no_torch():
    code = "import sys; from surgecollapse.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


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


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rn"], 'Did you mean "run"'),
        (["run"], "no task given: choose one of coco-captions, "),
        (["run", "digit"], "unknown task 'digit': expected one of coco-captions, "),
        (["run", "digits", "--polcy", "none"], "Did you mean --policy?"),
        (
            ["run", "digits", "--policy", "entropie"],
            "unknown policy 'entropie': expected one of none, ",
        ),
        (["run", "digits", "--model", "mlpp"], "unknown model 'mlpp': expected one of autoregressive, "),
        (["run", "digits", "--model", "transformer"], "reads data of kind tokens, but task 'digits' gives image"),
        (["run", "digits", "--sparsity", "1"], "sparsity must be in [0, 1), got 1"),
        (["run", "digits", "--sparsity", "-1"], "sparsity must be in [0, 1), got -1"),
        (["run", "digits", "--sparsity", "90"], "got 90. Did you mean 0.9?"),
        (["run", "digits", "--seed", "x"], "seed = 'x'"),
        (["run", "digits", "--seed"], "requires an argument"),
        (["run", "digits", "--widths", "a,b"], "expected whole numbers like 256,256"),
        (["run", "digits", "--policy-options", "{"], "no JSON"),
        (["run", "digits", "--policy-options", "[" * 100_000], "nested too deeply"),
        (
            ["run", "digits", "--regrow-init", "last-value"],
            "unknown regrow_init 'last-value': expected one of",
        ),
        (["run", "digits", "--policy-options", '{"flor": 1}', "--steps", "9"], "'flor'"),
        (
            ["run", "digits", "--policy-options", '{"floor": "x"}'],
            "policy_options of 'cyclic_pruning' have a value of the wrong",
        ),
        (["run", "digits", "--widths", ""], "nothing to prune"),
        (["run", "digits", "more"], "unrecognized argument: more (see --help)"),
        (["run", "digits", "--steps", "1", "--epochs", "1"], "either steps or epochs"),
        (["run", "digits", "--config", "nope.toml"], "cannot read the configuration nope.toml"),
        (["run", "mnist"], "no --data-dir given"),
        (["run", "--resume", "nowhere"], "nowhere holds no run to resume"),
        (["run", "digits", "--resume", "nowhere", "--lr", "1"], "drop lr, task"),
        (["report"], "name one or more run directories"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["demo", "--sparsity", "2"], "sparsity must be in [0, 1), got 2"),
    ],
)
def test_every_mistake_is_one_line(argv, words, capsys, tmp_path):
    assert words in fails(capsys, *argv)
    assert not list(tmp_path.iterdir()), "a mistake must leave nothing behind"


@pytest.mark.parametrize(
    ("kind", "known", "about"),
    [
        ("tasks", "digits", "The digits of scikit-learn."),
        ("experiments", "nanda-modular", "Nanda et al., arXiv 2301.05217."),
        ("models", "mlp", ""),
        ("policies", "rigl", "Sparse from the first step"),
        ("methods", "gmp", ""),
        ("suites", "quick", ""),
        ("optimizers", "muon", "Muon for hidden matrices"),
        ("monitors", "norms", "Euclidean norms"),
        ("criteria", "lamp", ""),
        ("analyses", "fourier", "Fourier"),
        ("trackers", "wandb", ""),
        ("keys", "optimizer.lr", ""),
    ],
)
def test_names_of_every_kind_are_listed_with_what_they_are(kind, known, about, capsys):
    assert main(["list", kind]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [known]]
    assert len(line.split()) > 1
    assert about.split(",")[0] in line
    assert ":class:" not in line


def test_names_are_listed_by_kind_in_lines_that_fit(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"tasks ({len(TASKS.names())})\n  coco-captions, coco-detection, digits" in said
    assert max(map(len, said.splitlines())) <= 100
    assert "unknown kind of name 'task': expected one of tasks, experiments" in fails(capsys, "list", "task")


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == surgecollapse.__version__


def test_a_bad_key_in_a_file_is_named_with_the_valid_ones(capsys, tmp_path):
    (tmp_path / "my.toml").write_text('task = "digits"\nsparcity = 0.5\n')
    line = fails(capsys, "run", "--config", "my.toml")
    assert "my.toml: unknown key 'sparcity': expected one of `surgecollapse list keys`" in line
    assert "Did you mean 'sparsity'?" in line


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


def test_the_doctor_finds_hooks_and_exact_masks_in_order():
    checks = {check.name: check for check in examine(blocks=2, every=4, rows=8)}
    assert checks["optimizer step hooks"].good
    assert checks["exact mask"].good
    assert sum("overhead" in name for name in checks) == 1


def test_a_report_that_cannot_be_written_is_one_line(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["run", "digits", "--policy", "none", "--out", "there", *SHORT]) == 0
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    line = fails(capsys, "report", "there", "--out", "file/report")
    assert "cannot write the report in file/report (Not a directory): free space or choose another --out" in line


NET = """from torch import nn, ones

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""


def test_the_doctor_explains_what_would_be_pruned_of_a_model(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(NET + "\n\ndef with_batch():\n    return make(), ones(2, 4)\n")
    assert main(["doctor", "mine.py:with_batch"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("0.weight", "layer"), ("0.bias", "bias"), ("2.weight", "output"), ("2.bias", "bias")
    ]  # fmt: skip
    assert main(["doctor", "mine:make"]) == 0
    assert "output layers are not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("mine.py", "expected file.py:name or package.module:name"),
        ("mine.py:mak", "mine.py has no 'mak'"),
        ("nope.py:make", "no file nope.py"),
        ("no.such.module:make", "no module 'no.such.module'"),
        ("mine.py:NET", "mine.py:NET gave a str: expected a torch.nn.Module"),
    ],
)
def test_a_model_that_the_doctor_cannot_find_is_one_line(where, words, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(NET + "NET = 'a net'\n")
    assert words in fails(capsys, "doctor", where)


@pytest.mark.parametrize("argv", [["list"], ["--version"]], ids=" ".join)
def test_a_reader_that_leaves_is_no_mistake(argv):
    command = [sys.executable, "-m", "surgecollapse", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == UNREAD
