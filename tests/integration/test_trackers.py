"""Runs as other trackers have them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import types
from functools import partial

import numpy as np
import pytest
import torch

from surgecollapse import commands
from surgecollapse.cli.training import run as cli_run
from surgecollapse.events import Alarm
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.checkpoint import load_checkpoint
from surgecollapse.lab.training.run import train
from surgecollapse.record import CommandQueue, RunStore, Tail, heartbeat, load_run
from surgecollapse.trackers import TRACKERS, export_to, exporting, live
from surgecollapse.trackers import registry as export_module
from surgecollapse.trackers.following import follow

pytest.importorskip("tensorboardX")


def small(**changed):
    given = {"task": "digits", "steps": 40, "widths": (8,), "train_samples": 200, "evaluate_every": 20, "every": 10}
    return make_config(**{**given, "checkpoint_every": 20, "monitors": "none", "policy": "no_op", **changed})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    train(small(), folder)
    with RunStore(folder / "run.db", mode="a") as store:
        store.put_array(20, "histogram/weights/a", np.array([[0.0, 1.0, 2.0], [3.0, 5.0, 0.0], [2.0, 0.0, 10.0]]))
        store.put_array(20, "confusion/validation", np.array([[4, 1], [0, 5]]))
        store.record(Alarm(step=30, detector="rank", reason="it fell"))
    return folder


def with_report(folder):
    """Put a picture there, so that none need be drawn."""
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "loss.png").write_bytes(base64.b64decode(PIXEL))
    return folder


@pytest.fixture
def shown(run, tmp_path):
    return with_report(shutil.copytree(run, tmp_path / "copy"))


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""


def events_in(folder):
    """(tag, step, kind, value) of every summary in the event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("**/events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                yield value.tag, event.step, kind, getattr(value, kind) if kind else value.metadata


def test_every_number_of_the_record_is_in_the_event_file(shown):
    run = shown
    export_to("tensorboard", run)
    export_to("tensorboard", run)  # the second takes the place of the first
    found = list(events_in(run / "tensorboard"))
    scalars = {(tag, step): value for tag, step, kind, value in found if kind == "simple_value"}
    kinds = {(tag.split("/")[0], kind) for tag, _, kind, _ in found}
    assert sum(tag == "loss/train" and step == 40 for tag, step, *_ in found) == 1
    with RunStore(run / "run.db") as store:
        steps, values = store.measurements("loss/train")
        assert [scalars["loss/train", step] for step in steps] == pytest.approx(values.tolist())
        reading = store.readings()[0]
        assert scalars[f"layer_entropy/{reading.layers[0].layer}", reading.step] == pytest.approx(
            reading.layers[0].entropy
        )
    assert ("weights", "histo") in kinds
    texts = {tag for tag, *_ in found if tag.endswith("/text_summary")}
    assert "alarm/rank/text_summary" in texts


def test_the_event_file_has_figures_hparams_and_a_layout_that_shows_the_state(run):
    pytest.importorskip("matplotlib")
    export_to("tensorboard", run)
    found = list(events_in(run / "tensorboard"))
    images = {tag: value for tag, _, kind, value in found if kind == "image"}
    assert {"report/confusion", "report/loss", "report/entropy", "confusion/validation"} <= set(images)
    assert images["report/confusion"].width > 200
    assert any(tag.startswith("_hparams_/") for tag, *_ in found)
    (layout,) = [value for tag, _, _, value in found if tag == "custom_scalars__config__"]
    words = layout.SerializeToString().decode("latin-1")
    for name in ("loss/validation", "accuracy/train", "reading/sparsity", "reading/entropy", "layer_entropy/"):
        assert name in words, name


class Double:
    """A tracker that remembers what it is told."""

    def __init__(self, *_):
        self.told, self.points, self.summary = [], {}, None

    def scalars(self, step, values):
        for tag, value in values.items():
            self.told.append(("scalar", step, tag))
            self.points[tag, step] = value

    def text(self, step, title, text):
        self.told.append(("text", step, title))

    def histogram(self, step, name, edges, counts):
        assert len(edges) == len(counts) + 1
        self.told.append(("histogram", step, name))

    def picture(self, step, name, path):
        assert path.read_bytes().startswith(b"\x89PNG")
        self.told.append(("picture", step, name))

    def back(self, step):
        self.told.append(("back", step, ""))
        self.points = {key: value for key, value in self.points.items() if key[1] <= step}

    def finish(self, summary):
        self.summary = summary
        return "done"


def test_a_tracker_that_follows_is_told_everything_once_and_that_the_run_went_back(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    double = Double()
    with RunStore(folder / "run.db", mode="w") as store:
        store.set("status", "running")
        looks = []

        def until():
            """What the run does between two looks."""
            looks.append(None)
            if len(looks) == 2:
                for step in range(1, 11):
                    store.measure(step, "loss/train", 1.0 / step)
                store.record(Alarm(step=10, detector="rank", reason="it fell"))
            elif len(looks) == 3:
                queue = CommandQueue(folder / "run.db")
                id = queue.put(commands.RollBack(step=4), source="terminal")
                store.truncate_after(4)
                queue.settle(id, "applied", step=4, reason="went back")
                store.measure(5, "loss/train", 9.0)
                store.record(Alarm(step=5, detector="slope", reason="anew"))
            elif len(looks) == 4:
                store.set("summary", {"accuracy": 0.5})
                store.set("status", "complete")
            store.flush()
            return False

        assert follow(folder, double, until=until, seconds=0.0) == "done"
        steps, values = store.measurements("loss/train")
    assert {("loss/train", s): v for s, v in zip(steps.tolist(), values.tolist(), strict=True)} == double.points
    assert [entry[1:] for entry in double.told if entry[0] == "text"] == [(10, "alarm/rank"), (5, "alarm/slope")]
    assert ("back", 4, "") in double.told
    assert double.summary == {"accuracy": 0.5}


def test_a_run_that_was_killed_is_not_followed_for_ever(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.set("status", "running")
        store.measure(1, "loss/train", 0.5)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute(heartbeat.SET_BEAT, (json.dumps({**heartbeat.beat(), "pid": ended.pid}),))
    connection.commit()
    connection.close()
    double = Double()
    assert follow(tmp_path, double, until=lambda: False, seconds=0.01) == "done"
    assert double.points == {("loss/train", 1): 0.5}


def test_what_is_damaged_is_left_out_and_all_else_is_told(run, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    newest = folder / "checkpoints" / "step-40.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    connection = sqlite3.connect(folder / "run.db")
    connection.executescript(
        "INSERT INTO measurements SELECT id, 'text', 1.0 FROM series LIMIT 1;"
        "INSERT INTO events (step, kind, version, body) VALUES (1, 'Reading', 1, '{');"
        "INSERT INTO arrays VALUES (1, 'histogram/odd', '<f8', '[1]', x'0000000000000000');"
        "INSERT INTO arrays VALUES (1, 'histogram/bad', '<f8', '[9]', x'00');"
        "INSERT OR REPLACE INTO meta VALUES ('config', '[1]');"
    )
    connection.commit()
    connection.close()
    double = Double()
    with_report(folder)
    assert follow(folder, double) == "done"
    assert any(name.startswith("weights/") for kind, _, name in double.told if kind == "histogram")
    assert "left out" in caplog.text
    assert newest.name in caplog.text
    assert double.summary["accuracy"] > 0


def test_a_tail_reads_nothing_twice(run):
    tail = Tail(run / "run.db")
    first, second = tail.read(), tail.read()
    assert first.measurements
    assert first.events
    assert len(first.arrays) >= 2
    assert (second.measurements, second.events, second.arrays, second.back) == ([], [], [], None)


@pytest.fixture
def patient(monkeypatch):
    """A busy machine may take long to start a process of low priority."""
    monkeypatch.setattr(live, "PATIENCE", 250.0)
    monkeypatch.setattr(live, "_NICE", 0)


@pytest.mark.usefixtures("patient")
def test_a_run_that_is_followed_is_bitwise_the_run_that_is_not(run, tmp_path):
    notes = []
    with_report(tmp_path / "run")
    result = train(small(), tmp_path / "run", around=partial(exporting, trackers=["tensorboard"], tell=notes.append))
    assert result.status == "complete"
    assert notes == [f"tensorboard: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}"]
    weights, others = (load_checkpoint(at / "checkpoints" / "step-40.pt")["model"] for at in (run, tmp_path / "run"))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    steps = {step for tag, step, *_ in events_in(tmp_path / "run" / "tensorboard") if tag == "loss/train"}
    assert steps == set(range(1, 41))


@pytest.mark.usefixtures("patient")
def test_a_tracker_that_fails_stops_nothing(tmp_path):
    notes, folder = [], tmp_path / "run"
    folder.mkdir()
    (folder / "tensorboard").write_text("in the way")
    result = train(small(), folder, around=partial(exporting, trackers=["tensorboard"], tell=notes.append))
    assert result.status == "complete"
    assert "tensorboard: failed" in notes[-1]
    assert notes[-1].endswith(f"later: surgecollapse report {folder} --to tensorboard")


def test_a_tracker_that_is_not_there_is_said_before_anything_begins(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'trackio'"):
        cli_run("digits", to="trackoi", out=tmp_path / "run")
    monkeypatch.setattr(TRACKERS["wandb"], "package", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'surgecollapse\[wandb\]'"):
        cli_run("digits", to="wandb", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def fake_trackio(log):
    module = types.ModuleType("trackio")
    module.init = lambda project, **options: log.append(("init", options))
    module.log = lambda values, step: log.extend((name, step, value) for name, value in values.items())
    module.finish = lambda: log.append(("finish",))
    module.Histogram = lambda np_histogram: ("histogram", len(np_histogram[0]))
    module.Image = module.Markdown = lambda value: value
    return {"trackio": module}


def fake_wandb(log):
    class Run:
        dir = "/nowhere/run/files"
        summary: dict = {}  # noqa: RUF012

        def define_metric(self, *_, **__): ...

        def log(self, values):
            log.extend((name, values.get("step"), value) for name, value in values.items())

        def finish(self):
            log.append(("finish",))

    module = types.ModuleType("wandb")
    module.Settings = dict
    module.init = lambda **options: log.append(("init", options)) or Run()
    module.Histogram = lambda np_histogram: ("histogram", len(np_histogram[0]))
    module.Image = lambda value: value
    module.Table = lambda columns, data: data
    return {"wandb": module}


def fake_mlflow(log):
    class Client:
        def __init__(self, tracking_uri):
            log.append(("init", {"uri": tracking_uri}))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name, artifacts):
            return "1"

        def create_run(self, experiment, run_name):
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r"))

        def log_batch(self, run, metrics=(), params=()):
            assert len(metrics) <= 1000
            log.extend((metric[0], metric[3], metric[1]) for metric in metrics)

        def log_dict(self, run, found, path):
            log.append((path, found["step"], found))

        log_artifact = log_text = set_terminated = lambda self, *_: log.append(("finish",))

    entities, tracking = types.ModuleType("mlflow.entities"), types.ModuleType("mlflow.tracking")
    entities.Metric = entities.Param = lambda *values: values
    tracking.MlflowClient = Client
    return {"mlflow": types.ModuleType("mlflow"), "mlflow.entities": entities, "mlflow.tracking": tracking}


@pytest.mark.parametrize(("name", "fake"), [("trackio", fake_trackio), ("wandb", fake_wandb), ("mlflow", fake_mlflow)])
def test_each_tracker_gets_every_loss_at_its_step_and_the_final_numbers(shown, name, fake, tmp_path, monkeypatch):
    run, log = shown, []
    for key, module in fake(log).items():
        monkeypatch.setitem(sys.modules, key, module)
    monkeypatch.setattr(export_module, "find_spec", lambda _: True)
    monkeypatch.setattr("os.environ", {"TRACKIO_SPACE_ID": "somebody/elsewhere"})
    assert export_to(name, run, tmp_path)
    with RunStore(run / "run.db") as store:
        steps, values = store.measurements("loss/train")
    told = {(entry[0], entry[1]): entry[2] for entry in log if len(entry) == 3}
    assert [told["loss/train", step] for step in steps.tolist()] == values.tolist()
    assert any(entry[0] == "reading/sparsity" for entry in log)
    assert any("weights/" in str(entry[0]) for entry in log)
    assert ("finish",) in log
    assert "TRACKIO_SPACE_ID" not in os.environ or name != "trackio"
    if name == "wandb":
        assert dict(log[0][1])["mode"] == os.environ["WANDB_MODE"] == "offline"
        assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    if name == "mlflow":
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_run_is_read_as_tables_and_arrays(run):
    pandas = pytest.importorskip("pandas")
    with load_run(run) as found:
        losses = found.series("loss/train")
        table = found.measurements()
        assert isinstance(table, pandas.DataFrame)
        assert table[table.name == "loss/train"].value.tolist() == losses.values.tolist()
        assert found.readings().step.tolist() == [10, 20, 30, 40]
        assert set(found.layers().columns) >= {"step", "layer", "entropy"}
        assert found.commands().empty
        assert found.meta["status"] == "complete"
        assert found.meta["checkpoints"] == [20, 40]
        assert "torch" in found.meta["environment"]


def test_a_loop_that_fails_does_not_wait_for_its_exporters(tmp_path, monkeypatch):
    words = [sys.executable, "-c", "import time; time.sleep(600)"]

    def start(run, name):
        with live.log_of(run, name).open("wb") as log:
            return subprocess.Popen(words, stdout=log)

    monkeypatch.setattr(live, "_start", start)
    notes: list[str] = []
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="of the loop"), exporting(tmp_path, ["tensorboard"], notes.append):
        raise RuntimeError("of the loop")
    late = live._late[-1:]
    assert [process.poll() for process in late] == [None]
    assert time.monotonic() - began < live.PATIENCE / 2
    assert "still writing" in notes[0]
    for process in late:
        process.kill()
        process.wait()
        live._late.remove(process)
