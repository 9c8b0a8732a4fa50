"""The pages about one's own model and data, done as they say, in a small form."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

from surgecollapse.cli import main

# Runs so short learn little before their masks are final, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:training (has learned nothing|does not recover):UserWarning")

DOCS = Path(__file__).parents[2] / "docs"


def written(page):
    """Files of a page by name, and its commands in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = text.replace(" \\\n", " ")  # commands over several lines
    files = dict(re.findall(r'^```python title="(\S+)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL))
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return files, [line for block in blocks for line in block.splitlines() if line.startswith("surgecollapse ")]


def smaller(line, steps):
    """A command with fewer steps, and a reading on each."""
    line = re.sub(r"--trials \d+", "--trials 1", line)
    return shlex.split(re.sub(r"--every \d+", "--every 1", re.sub(r"--steps \d+", f"--steps {steps}", line)))[1:]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_how_to_does_what_it_says(tmp_path, monkeypatch):
    files, commands = written("howto/own-data.md")
    assert set(files) == {"my_project.py", "my_loss.py"}
    commands = [line for line in commands if "/data/" not in line]  # the recipes, see test_recipes
    assert len(commands) == 8
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for line in commands:
        words = smaller(line, 40)
        if words[0] == "compare":
            small = (tmp_path / "my_project.py").read_text()
            (tmp_path / "small.toml").write_text(
                'task = "my_project.py:data"\nmodel = "my_project.py:net"\nsteps = 40\nevery = 4\n'
            )
            assert "def net" in small
            words = ["compare", "small.toml", *words[2:]]
        assert main([*words, *(["--every", "4"] if words[0] == "run" else [])]) == 0, line
    assert (tmp_path / "runs/mine/export/model.safetensors").is_file()
    assert (tmp_path / "runs/compare-small/table.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)  # the study starts processes of its own
def test_the_tutorial_ends_with_a_sparse_onnx_file(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    files, commands = written("start/own-images.md")
    assert set(files) == {"draw.py", "my_resnet.py", "check.py"}
    files["draw.py"] = files["draw.py"].replace("train=120, held_out=40", "train=16, held_out=12")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    runpy.run_path("draw.py")
    assert [line.split()[1] for line in commands] == ["tune", "run", "report", "export"]
    for line in commands:
        assert main(smaller(line, 40)) == 0, line
    assert (tmp_path / "runs/tuned/index.html").is_file()
    best = tomllib.loads((tmp_path / "runs/tuned/best.toml").read_text())
    assert tomllib.loads((tmp_path / "runs/shapes/config.toml").read_text())["model"] == best["model"]
    capsys.readouterr()
    runpy.run_path("check.py")
    said = capsys.readouterr().out
    share = float(said.partition("%")[0])
    assert 85 < share <= 95  # of all convolutions; the target is for what is prunable
    assert "answers of shape (2, 3)" in said
