"""Every script of the benchmarks says what it does and which options it takes."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture(autouse=True)
def threads():
    """A script sets the threads of its process."""
    before, names = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(before)
    os.environ.clear()
    os.environ.update(names)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_tells_how_it_is_called(name, monkeypatch, capsys):
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    first = script.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
    assert first in said
    assert f"python benchmarks/{name}.py" in said
