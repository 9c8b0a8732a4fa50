"""The command itself: help, version, and that every mistake is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import surgecollapse
from command_line import fails
from surgecollapse.cli import UNREAD, main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "argv", [["--help"], ["run", "--help"], ["demo", "--help"], ["report", "-h"], ["doctor", "-h"]]
)
def test_help_explains(argv, capsys):
    assert main(argv) == 0
    assert "Usage: surgecollapse" in capsys.readouterr().out


def test_help_is_quick_because_it_imports_no_torch():
    code = "import sys; from surgecollapse.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


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


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == surgecollapse.__version__


def test_a_bad_key_in_a_file_is_named_with_the_valid_ones(capsys, tmp_path):
    (tmp_path / "my.toml").write_text('task = "digits"\nsparcity = 0.5\n')
    line = fails(capsys, "run", "--config", "my.toml")
    assert "my.toml: unknown key 'sparcity': expected one of `surgecollapse list keys`" in line
    assert "Did you mean 'sparsity'?" in line


@pytest.mark.parametrize("argv", [["list"], ["--version"]], ids=" ".join)
def test_a_reader_that_leaves_is_no_mistake(argv):
    command = [sys.executable, "-m", "surgecollapse", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == UNREAD
