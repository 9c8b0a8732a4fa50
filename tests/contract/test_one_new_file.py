"""A new part of any kind is one new file in its room: the command line lists it, and a run can use it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import surgecollapse
from surgecollapse.record import load_run

PARTS = {
    "lab.tasks": """
        from surgecollapse.lab.tasks.registry import ClassTask, task

        @task("stripes")
        class Stripes(ClassTask):
            preset = {"widths": (8,), "steps": 12, "batch_size": 10, "evaluate_every": 6}
            stripe_width: float = 1.0

            def load(self, seed, representation):
                import torch
                from surgecollapse.lab.data.dataset import Data

                x = torch.randn(90, 6, generator=torch.Generator().manual_seed(seed)) * self.stripe_width
                parts = dict(zip(("x_train", "x_validation", "x_test"), x.split(30)))
                labels = {name.replace("x", "y", 1): (part[:, 0] > 0).long() for name, part in parts.items()}
                return Data(name="stripes", kind="vector", **parts, **labels, num_classes=2, description="signs",
                            source="here")
        """,
    "lab.models": """
        import torch
        from surgecollapse.lab.models.registry import Model, model

        class Net(torch.nn.Sequential):
            pass

        @model("ladder")
        class Ladder(Model):
            reads = ("vector",)
            rungs: int = 2

            def build(self, data):
                nn = torch.nn
                width = self.widths[0]
                middle = [part for _ in range(self.rungs) for part in (nn.Linear(width, width), nn.ReLU())]
                return Net(nn.Linear(data.input_shape[0], width), *middle, nn.Linear(width, data.num_classes))
        """,
    "functional.criteria": """
        import torch
        from surgecollapse.functional.criteria.registry import criterion

        @criterion("oldest", needs_gradient=False)
        def oldest(weight, signal):
            return torch.arange(weight.numel(), dtype=weight.dtype).view_as(weight)
        """,
    "policies": """
        from dataclasses import dataclass
        from surgecollapse.policies.one_shot import OneShot
        from surgecollapse.policies.registry import policy

        @policy("once")
        @dataclass(frozen=True, kw_only=True, eq=False)
        class Once(OneShot):
            pass
        """,
    "observe.monitors": """
        from surgecollapse.observe.monitors.registry import monitor

        @monitor("count")
        class Count:
            name, needs = "count", ()

            def measure(self, context):
                return {"count/weights": float(len(context.weights))}
        """,
    "compare.methods": """
        from surgecollapse.compare.methods.registry import Method, method

        method(Method(name="once", title="once", description="One cut.", settings={"policy": "once"}, trials=()))
        """,
    "trackers": """
        from surgecollapse.trackers.registry import tracker

        @tracker("notebook")
        class Notebook:
            def __init__(self, name, config, folder):
                self.lines = 0

            def finish(self, summary):
                return f"{self.lines} lines"

            def __getattr__(self, name):
                def count(*args):
                    self.lines += 1
                return count
        """,
    "report.analyses": """
        from surgecollapse.report.analyses.registry import analysis
        from surgecollapse.report.analyses.result import AnalysisResult

        class Steps:
            def __init__(self, steps):
                self.steps = steps

            def plot(self):
                from matplotlib.figure import Figure
                return Figure()

            def to_dict(self):
                return {"steps": self.steps}

        @analysis("how-long", "Length")
        def how_long(runs):
            return [AnalysisResult("how-long", "Steps", "Of the run.", Steps(run.steps[-1]), "so many", run.name)
                    for run in runs]
        """,
}
"""Room → the one file."""
PROGRAM = """
import contextlib, io, json, sys
from surgecollapse.cli import main

for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    print(json.dumps([words, code, said.getvalue()]))
"""
RUN = "run stripes --stripe-width 2 --model ladder --rungs 1 --widths 8 --saliency oldest --policy once --sparsity 0.5"
COMMANDS = {
    "lab.tasks": "run stripe",
    "lab.models": "run stripes --model lader",
    "functional.criteria": "run stripes --saliency oldes --out OUT/wrong",
    "policies": "run stripes --policy onc",
    "observe.monitors": "run stripes --monitors coun --out OUT/wrong",
    "compare.methods": "compare smoke --methods onc --out OUT/compare",
    "trackers": "report OUT/run --to notebok",
    "report.analyses": "analyze OUT/run --what how-lon",
}
"""A command with a mistake lists the valid names."""
NAMES = ("stripes", "ladder", "oldest", "once", "count", "once", "notebook", "how-long")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Exit code and words of every command, in a process that imports the package with the new files in it."""
    out = tmp_path_factory.mktemp("new_files")
    package = out / "surgecollapse"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(surgecollapse.__file__).parent, package, copy_function=os.symlink, ignore=ignore)
    for room, source in PARTS.items():
        (package / Path(*room.split(".")) / "brand_new.py").write_text(textwrap.dedent(source))
    uses = [
        f"{RUN} --every 2 --monitors count --monitor-budget 1 --keep-checkpoints 0 --out OUT/run",
        "report OUT/run --to notebook",
        "analyze OUT/run --what how-long",
    ]
    commands = [line.replace("OUT", str(out)).split() for line in (*uses, *COMMANDS.values())]
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    path = {**os.environ, "PYTHONPATH": str(out)}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=240, env=path)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    return dict(zip((*uses, *COMMANDS), [row[1:] for row in rows], strict=True)), uses, out


@pytest.mark.parametrize(("room", "name"), list(zip(PARTS, NAMES, strict=True)))
def test_the_command_line_lists_what_a_new_file_brings(room, name, said):
    answers, _, _ = said
    code, words = answers[room]
    assert code == 2
    expected, _, nearest = " ".join(words.split()).partition("Did you mean")
    assert name in expected.partition("expected one of")[2].replace(",", " ").replace(".", " ").split()
    assert repr(name) in nearest


def test_a_run_uses_task_model_criterion_policy_monitor_tracker_and_analysis(said):
    answers, (run, report, analyze), out = said
    assert answers[run][0] == 0, answers[run]
    assert answers[report][0] == 0
    assert " lines" in answers[report][1]
    assert answers[analyze][0] == 0, answers[analyze]
    assert (out / "run" / "analysis" / "how-long.json").exists()
    with load_run(out / "run") as record:
        assert record.series("count/weights")
