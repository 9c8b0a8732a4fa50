"""What the wheel holds, and what it does where nothing but torch and NumPy is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("pydantic", "pydantic_core", "cyclopts", "rich", "starlette", "uvicorn", "matplotlib", "sklearn", "scipy",
          "pandas", "optuna", "safetensors", "onnx", "onnxruntime", "mlxtend", "rdkit", "hypothesis")  # fmt: skip
"""What a machine with the core alone does not have."""

WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
@classmethod
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {EXTRAS!r} else found(name, path, target)
PathFinder.find_spec = find_spec
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    builder = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(wheel: Path, code: str, cwd: Path) -> str:
    """What a program prints that sees the wheel first, and none of the extras."""
    environment = {**os.environ, "PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, env=environment, cwd=cwd, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_requires_torch_and_numpy_alone(wheel):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    found = Parser().parsestr(metadata.read_text(encoding="utf-8"))
    wanted = found.get_all("Requires-Dist")
    assert {re.split(r"[<>= ]", line)[0] for line in wanted if "extra ==" not in line} == {"torch", "numpy"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["Version"] == project["version"]
    assert {"lab", "watch", "tune", "test", "docs", "demo"} <= set(project["optional-dependencies"])


def test_the_wheel_has_the_published_experiments_and_the_page(wheel):
    names = {path.name for path in (ROOT / "experiments").glob("*.toml")}
    assert names
    assert {path.name for path in (wheel / "surgecollapse" / "lab" / "experiments").glob("*.toml")} == names
    assert (wheel / "surgecollapse" / "dashboard" / "page" / "index.html").is_file()
    assert not list(wheel.glob("tests*")) + list(wheel.glob("benchmarks*"))


def test_the_core_alone_attaches_trains_records_and_saves(wheel, tmp_path):
    code = """
import surgecollapse, torch
from torch import nn
assert surgecollapse.__file__.startswith(sys.path[1]), surgecollapse.__file__
def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)
x, y = torch.randn(64, 8), torch.arange(64) % 3
model, optimizer = make()
with surgecollapse.RunStore("run.db", mode="w") as store:
    readings = surgecollapse.Readings(every=5)
    with surgecollapse.attach(model, optimizer, 0.75, 60, readings=readings, recorders=[store]) as controller:
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        controller.finalize()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "saved.pt")
        print(int(torch.count_nonzero(model[0].weight)))
    print(len(store.readings()) > 0)
again, _ = make()
again.load_state_dict(torch.load("saved.pt", weights_only=True)["model"])
print(torch.equal(again(x), model(x)))
"""
    assert run(wheel, code, tmp_path).split() == ["64", "True", "True"]


def test_the_command_without_its_extra_tells_its_version(wheel, tmp_path):
    code = """
from surgecollapse.cli import main
print(main(["--version"]))
"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert run(wheel, code, tmp_path).split() == [project["version"], "0"]


@pytest.mark.parametrize("argv", [["run", "digits"], ["--help"], ["doctor"], []], ids=" ".join)
def test_the_command_without_its_extra_says_in_one_line_what_to_install(argv, wheel, tmp_path):
    code = f"""
from surgecollapse.cli import main
sys.stderr = sys.stdout
print(main({argv!r}))
"""
    said, exit_code = run(wheel, code, tmp_path).splitlines()
    assert re.fullmatch(
        r"surgecollapse: the command line needs \w+, which is not installed: pip install 'surgecollapse\[lab\]'", said
    )
    assert exit_code == "2"


@pytest.mark.parametrize(
    ("package", "argv", "extra"),
    [
        ("uvicorn", ["watch", "."], "watch"),
        ("matplotlib", ["report", "run"], "lab"),
        ("sklearn", ["run", "digits"], "lab"),
    ],
)
def test_a_command_without_one_part_names_the_extra_that_has_it(package, argv, extra, tmp_path, monkeypatch, capsys):
    from surgecollapse.cli import main

    monkeypatch.chdir(tmp_path)
    if argv[0] == "report":
        assert main(["run", "digits", "--policy", "none", "--steps", "2", "--out", "run"]) == 0
        capsys.readouterr()
    for name in [name for name in sys.modules if name.partition(".")[0] == package or "dashboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install 'surgecollapse[{extra}]'" in line
    assert package.replace("sklearn", "scikit-learn") in line


def test_a_run_needs_no_part_of_the_page(tmp_path, monkeypatch):
    from surgecollapse.cli import main

    monkeypatch.chdir(tmp_path)
    for package in ("starlette", "uvicorn"):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["run", "digits", "--policy", "none", "--steps", "2", "--out", "run"]) == 0
