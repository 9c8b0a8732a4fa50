"""The doctor: checks of this machine, and what would be pruned of a model."""

from __future__ import annotations

import pytest

from command_line import fails
from surgecollapse.cli import main
from surgecollapse.cli.machine_checks import examine


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_doctor_finds_hooks_and_exact_masks_in_order():
    checks = {check.name: check for check in examine(blocks=2, every=4, rows=8)}
    assert checks["optimizer step hooks"].good
    assert checks["exact mask"].good
    assert sum("overhead" in name for name in checks) == 1


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
