"""Every script of the benchmarks says what it does and which options it takes; those that can run in seconds do.

``agent`` begins no run in zero minutes, and four scripts show rows that are there. Beside these, `bank`,
`early_warning`, `kills`, `kill_studies` and `tutorials` have tests in `tests/integration`, `scaling` in
`tests/distributed`.
"""

from __future__ import annotations

import doctest
import os
import runpy
import shlex
import sys
from pathlib import Path

import _harness
import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
TINY = {  # options, and the files that are written; OUT stands for a fresh folder
    "agent": ("--minutes 0 --out OUT", {"agent.json", "agent.md"}),
    "busy": ("--repeats 2 --sizes 1000 --threads 1 --out OUT", {"busy.json", "busy.md"}),
    "grokfast": (
        "--large 1000 --large-windows 2 --small 1000 --small-windows 2 --repeats 2 --out OUT/grokfast",
        {"grokfast.json", "grokfast.md"},
    ),
    "grokking_records": ("--page OUT/page.md", {"page.md"}),
    "modular_step": ("--repeats 2 --compared 2 --out OUT/step", {"step.json", "step.md"}),
    "recording": ("--steps 20", set()),
    "search": ("--list", set()),
    "soft_forms": ("summary", set()),
    "softmax_collapse": (
        "--fractions 0.3 --losses StableMax --steps 2 --every 1 --out OUT",
        {"softmax-collapse.jsonl", "softmax-collapse.md", "softmax-collapse.png"},
    ),
    "sparsity_records": ("--page OUT/page.md", {"page.md"}),
}


@pytest.fixture(autouse=True)
def threads():
    """A script sets the threads of its process."""
    before, names = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(before)
    os.environ.clear()
    os.environ.update(names)


def call(name, *options, monkeypatch):
    """Run a script in this process and return its exit status."""
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_tells_how_it_is_called(name, monkeypatch, capsys):
    assert call(name, "--help", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    first = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
    assert first in said
    assert f"python benchmarks/{name}.py" in said


@pytest.mark.parametrize("name", TINY)
def test_a_script_runs_in_its_smallest_form(name, tmp_path, monkeypatch, capsys):
    options, files = TINY[name]
    assert call(name, *shlex.split(options.replace("OUT", tmp_path.as_posix())), monkeypatch=monkeypatch) == 0
    assert {path.name for path in tmp_path.iterdir()} == files
    assert all(path.stat().st_size for path in tmp_path.iterdir())
    assert files or capsys.readouterr().out


def test_the_event_of_monitors_that_is_timed_measures_weights_and_gradients():
    with torch.no_grad():
        actions = runpy.run_path(str(FOLDER / "busy.py"))["actions_for"](10_000)
        found = {series: values for each in actions["monitors"]() for series, values in each.items()}
    assert set(found) >= {"norm/weight", "norm/gradient", "norm/update", "noise/scale", "mask/sparsity"}
    assert all(map(torch.isfinite, found["norm/gradient"].values()))


def test_allocations_are_not_published_without_runs(tmp_path, monkeypatch, capsys):
    options = ("--only-publish", "--rows", str(tmp_path / "none.jsonl"), "--out", str(tmp_path))
    assert call("allocation", *options, monkeypatch=monkeypatch) == 2
    assert "nothing to publish" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_examples_of_the_harness():
    assert doctest.testmod(_harness).attempted >= 5
    assert not doctest.testmod(_harness).failed
