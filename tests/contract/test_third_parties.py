"""What a package offers by entry point is found by its name wherever ours are, and refused where it does not fit."""

from __future__ import annotations

import textwrap
from functools import partial

import pytest
import torch
from torch import nn

from surgecollapse import MemoryRecorder, Monitoring, Readings, Updates, attach, make_policy, testing, watch_training
from surgecollapse.events import Measurement
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training import forecasts
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.run import train
from surgecollapse.plugins import FORMS, find, offered
from surgecollapse.report.analyses import LoadedRun, analyze
from surgecollapse.trackers import export_to

MODULE = '''
import torch
from surgecollapse.policies import NoOp
from surgecollapse.events import Alarm
from surgecollapse.report.analyses.result import AnalysisResult
from surgecollapse.lab.data.dataset import Data


class Quiet(NoOp):
    """A policy."""


def oldest(weight, signal):
    return torch.arange(weight.numel(), dtype=weight.dtype).view_as(weight)


class Count:
    name, needs = "count", ()

    def measure(self, context):
        return {"count/weights": float(len(context.weights))}


class Notebook:
    def __init__(self, name, config, folder):
        self.lines = [name]

    def scalars(self, step, values):
        self.lines += [f"{step} {name} {value}" for name, value in values.items()]

    def text(self, step, title, text):
        self.lines.append(f"{step} {title}: {text}")

    def histogram(self, step, name, edges, counts):
        self.lines.append(f"{step} {name} {sum(counts)}")

    def picture(self, step, name, path):
        self.lines.append(f"{step} {name} {path.stat().st_size} bytes")

    def back(self, step):
        self.lines.append(f"back to {step}")

    def finish(self, summary):
        return f"{len(self.lines)} lines"


class Early:
    def update(self, measurement):
        if measurement.name != "accuracy/train":
            return None
        return Alarm(step=measurement.step, detector="early", reason="it began", forecast="does not generalize")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def stripes(seed, data_dir):
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(seed))
    parts = dict(zip(("x_train", "x_validation", "x_test"), x.split(30)))
    labels = {name.replace("x", "y", 1): (part[:, 0] > 0).long() for name, part in parts.items()}
    return Data(name="stripes", kind="vector", **parts, **labels, num_classes=2, description="one sign", source="here")


class Steps:
    def __init__(self, steps):
        self.steps = steps

    def plot(self):
        from matplotlib.figure import Figure
        return Figure()

    def to_dict(self):
        return {"steps": self.steps}


def how_long(subjects):
    return [AnalysisResult("how-long", "Steps", "Of the run.", Steps(run.steps[-1]), "so many", run.name)
        for run in subjects]


def nothing(*args, **kwargs):
    return 7


something = 7
'''
OFFERS = {
    "policies": {"quiet": "Quiet"},
    "criteria": {"oldest": "oldest"},
    "monitors": {"count": "Count"},
    "detectors": {"early": "Early"},
    "trackers": {"notebook": "Notebook"},
    "tasks": {"stripes": "stripes"},
    "analyses": {"how-long": "how_long"},
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A real distribution on the path, with a good offer of each kind, one that gives a 7, and one that is a 7."""
    (tmp_path / "stripes_of_others.py").write_text(textwrap.dedent(MODULE))
    info = tmp_path / "stripes_of_others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes-of-others\nVersion: 1.0\n")
    lines = []
    for kind, offers in OFFERS.items():
        lines.append(f"[surgecollapse.{kind}]")
        for name, part in {**offers, "bad": "nothing", "worse": "something"}.items():
            lines.append(f"{name} = stripes_of_others:{part}")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)


def small(**values):
    return make_config(
        task="stripes", policy="quiet", sparsity=0.0, widths=(8, 8), steps=20, evaluate_every=5, every=5,
        checkpoint_every=10, keep_checkpoints=0, forecast="early", give_up=True, monitors="count", monitor_budget=1.0,
        **values,
    )  # fmt: skip


@pytest.mark.usefixtures("package")
def test_every_kind_is_offered_and_loads():
    assert set(OFFERS) == set(FORMS)
    for kind, offers in OFFERS.items():
        assert set(offers) <= set(offered(kind))
        for name in offers:
            assert callable(find(kind, "part", name, {}))


@pytest.mark.usefixtures("package")
def test_the_parts_of_a_package_pass_the_public_checks(tmp_path):
    testing.check_policy(partial(make_policy, "quiet"))
    testing.check_criterion(find("criteria", "saliency", "oldest", {}))
    testing.check_monitor(find("monitors", "monitor", "count", {}))
    testing.check_task(find("tasks", "task", "stripes", {}))
    testing.check_tracker(find("trackers", "tracker", "notebook", {}))
    train(small(), tmp_path / "run")
    assert export_to("notebook", tmp_path / "run").endswith(" lines")
    runs = [LoadedRun(tmp_path / "run", "run")]
    testing.check_analysis(find("analyses", "analysis", "how-long", {}), runs)


@pytest.mark.usefixtures("package")
def test_a_run_takes_task_policy_monitor_detector_and_analysis_by_name(tmp_path):
    """The detector gives up at the first evaluation."""
    train(small(), tmp_path / "run")
    outcome = analyze([tmp_path / "run"], ["how-long"])
    assert [one.result.steps for one in outcome.findings] == [5]
    assert (tmp_path / "run" / "analysis" / "how-long.json").exists()


@pytest.mark.usefixtures("package")
def test_criteria_and_monitors_serve_a_loop_of_ones_own():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recorder = MemoryRecorder()
    with attach(
        model,
        optimizer,
        sparsity=0.5,
        total_steps=2,
        policy="one_shot",
        readings=Readings(every=1),
        updates=Updates(saliency="oldest", growth="oldest"),
        monitors=Monitoring(["count"], budget=None),
        recorders=[recorder],
    ) as controller:
        for _ in range(2):
            model(torch.ones(4, 4)).sum().backward()
            optimizer.step()
        controller.finalize()
    assert not model[0].weight.flatten()[:16].any()
    assert model[0].weight.flatten()[16:].all()
    assert {e.value for e in recorder.events if getattr(e, "name", "") == "count/weights"} == {2.0}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["bad", "worse"])
def test_an_offer_that_does_not_fit_is_refused_by_its_name(name, tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for use in (
        lambda: make_policy(name),
        lambda: watch_training(model, optimizer, monitors=name),
        lambda: forecasts.GrokkingForecast(name, lambda alarm: None),
        lambda: load_data(make_config(task=name)),
    ):
        with pytest.raises(TypeError, match=f"entry point '{name}' of the group surgecollapse.*expected"):
            use()
    if name == "worse":
        with pytest.raises(TypeError, match="criteria"):
            attach(model, optimizer, sparsity=0.5, total_steps=9, updates=Updates(saliency=name))


@pytest.mark.usefixtures("package")
def test_names_of_ours_cannot_be_taken_and_unknown_ones_list_both():
    assert find("criteria", "saliency", "oldest", {"oldest": len}) is len
    with pytest.raises(ValueError, match=r"acdc.*quiet.*Did you mean 'quiet'"):
        make_policy("quite")
    with pytest.raises(ConfigError, match="unknown task 'stripe'"):
        make_config(task="stripe")
    detector = forecasts.GrokkingForecast("early", lambda alarm: None)
    detector.take(Measurement(step=3, name="accuracy/train", value=0.1))
    assert detector.predicts_failure
