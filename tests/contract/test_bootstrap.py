"""Setting up: once, again when a requirement changed, torch first, no CUDA build without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a bash script")


class Checkout:
    """A copy of what the script reads, with an environment whose Python only writes down how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        self.programs = folder / "programs"
        (folder / "scripts").mkdir()
        self.programs.mkdir()
        for file in ("scripts/bootstrap.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, folder / file)
        self.put(folder / ".venv/bin/python", f'[ "$1" = -c ] || echo "$@" >>"{self.log}"')
        self.put(self.programs / "nvidia-smi", "exit 9")  # hides a real one

    def put(self, path: Path, code: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{code}\n")
        path.chmod(0o755)

    def bootstrap(self, *extras: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key not in {"VENV", "PYTHON", "TORCH_ARGS"}}
        return subprocess.run(
            ["bash", self.folder / "scripts/bootstrap.sh", *extras],
            env={**kept, "PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_second_call_installs_nothing(checkout):
    assert checkout.bootstrap("demo").returncode == 0
    assert checkout.calls()
    assert checkout.bootstrap("demo").returncode == 0
    assert checkout.calls() == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_requirement_installs_again(checkout, file):
    checkout.bootstrap("demo")
    checkout.calls()
    with (checkout.folder / file).open("a") as requirements:
        requirements.write("# changed\n")
    checkout.bootstrap("demo")
    assert checkout.calls()


def test_only_missing_extras_are_installed(checkout):
    checkout.bootstrap("test")
    checkout.calls()
    checkout.bootstrap("demo")  # a part of the test extra
    assert checkout.calls() == []
    checkout.bootstrap("test", "lint")
    assert checkout.calls()[-1].endswith(".[lint]")


def test_torch_comes_first_and_pinned_without_a_gpu(checkout):
    checkout.bootstrap("test")
    first, second = checkout.calls()
    assert first.endswith("-c constraints.txt torch")
    assert second.endswith("-c constraints.txt -e .[test]")


def test_torch_of_a_machine_with_a_gpu_is_not_pinned(checkout):
    checkout.put(checkout.programs / "nvidia-smi", "exit 0")
    checkout.bootstrap("test")
    calls = checkout.calls()
    assert not any("constraints" in call for call in calls)
    assert calls[-1].endswith("-e .[test]")


def test_failed_installation_is_tried_again(checkout):
    python = checkout.folder / ".venv/bin/python"
    working = python.read_text()
    checkout.put(python, '[ "$1" = -c ] || exit 1')
    assert checkout.bootstrap("demo").returncode != 0
    python.write_text(working)
    checkout.bootstrap("demo")
    assert checkout.calls()


def test_old_python_is_refused_by_name(checkout):
    shutil.rmtree(checkout.folder / ".venv")
    checkout.put(checkout.programs / "ancient", "exit 1")
    done = checkout.bootstrap("demo", PYTHON="ancient")
    assert done.returncode != 0
    assert "PYTHON=ancient is not a Python 3.11 or later" in done.stderr
