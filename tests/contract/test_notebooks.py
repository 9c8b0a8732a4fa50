"""What a notebook shows: values say in a line what they are, and no plot changes how the user's own plots are shown."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import surgecollapse
from comparisons import prepare
from surgecollapse.compare.twin import CurveDifference, Twin
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.run import train


def one_line(value, *parts):
    shown = repr(value)
    assert len(shown) < 250, shown
    assert not {"\n", "\x1b"} & set(shown)
    assert all(part in shown for part in parts), shown


def test_values_say_in_a_line_what_they_are(tmp_path):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    readings = surgecollapse.Readings(every=2, probe=torch.randn(16, 8))
    controller = surgecollapse.attach(model, optimizer, sparsity=0.5, total_steps=100, readings=readings)
    one_line(controller, "step 0/100", "0.0% of 256 weights zero")
    assert repr(controller.explain()) == str(controller.explain())
    result = train(make_config(task="digits", policy="gmp", steps=12, every=2, widths=(8,)), tmp_path / "run")
    one_line(result, "run complete at step 12", "accuracy 0.", "sparsity 0.9")
    one_line(surgecollapse.load_run(tmp_path / "run"), "run: complete")
    one_line(prepare("smoke", tmp_path / "compared", methods="dense", seeds=1), "dense", "0 of 1 runs done")
    final = (CurveDifference(name="accuracy/test", with_it=0.9, without=0.8, difference=0.1, half=None),)
    asked = {"kind": "collapse", "body": {"fraction": 0.3}, "step": 7, "id": 1, "reason": ""}
    twin = Twin(
        directory=tmp_path, run=tmp_path, intervention=asked, pairs=((tmp_path, tmp_path),), final=final, curves=(),
        skipped=(),
    )  # fmt: skip
    one_line(twin, twin.sentence)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals of this kind")
def test_command_in_a_cell_writes_no_escape_codes(tmp_path):
    import pty

    command = [sys.executable, "-m", "surgecollapse", "run", "digits", "--steps", "12", "--every", "2", "--widths", "8"]
    command += ["--policy", "gmp", "--out", str(tmp_path / "run")]
    said = {}
    for cell in (True, False):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-color", **({"JPY_PARENT_PID": "1"} if cell else {})}
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            parts = []
            with contextlib.suppress(OSError):  # Linux says so where the other end was closed
                while part := os.read(ours, 4096):
                    parts.append(part)
            os.close(ours)
            assert process.wait() == 0
        shutil.rmtree(tmp_path / "run")
        said[cell] = b"".join(parts)
    assert b"\x1b" in said[False]
    assert b"\x1b" not in said[True]
    assert b"for the report: surgecollapse report" in said[True]


def test_plots_leave_the_backend_of_the_notebook_as_it_is(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("matplotlib.figure")
    from surgecollapse.studies.page import draw
    from surgecollapse.studies.registry import Study

    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        run = train(make_config(task="digits", policy="gmp", steps=12, every=2, widths=(8,)), tmp_path / "run")
        figure = surgecollapse.load_run(run.directory).plot()
        assert figure._repr_png_().startswith(b"\x89PNG")
        study = Study(
            name="one", title="", question="", setting="", runs=lambda _: [], measure=dict, tables=lambda _: [],
            plot=lambda _: matplotlib.figure.Figure(),
        )  # fmt: skip
        assert draw(study, [{"config": {}}], tmp_path / "plot.svg")
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)
