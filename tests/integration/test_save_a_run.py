"""The tutorial "Save a run that is going wrong", command by command, on a run in another process."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgecollapse.cli import main
from surgecollapse.record import RunStore, last_step

PAGE = Path(__file__).parents[2] / "docs" / "start" / "save-a-run.md"


def commands():
    """The words of every command on the page, by the words that begin it."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line)[1:] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = {}
    for words in lines:
        known = [*words[:2], words[-1]] if words[0] == "run" else words[: 4 if "set" in words else 3]
        found.setdefault(" ".join(known), words)
    return found


def swap(words, **changes):
    """The same command, with other values of some options."""
    words = list(words)
    for name, value in changes.items():
        words[words.index(f"--{name}") + 1] = str(value)
    return words


def until(holds, what, seconds=240):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def status_of(run):
    with RunStore(run / "run.db") as store:
        return store.get("status")


def newest(run, name):
    with RunStore(run / "run.db") as store:
        return store.measurements(name).values[-1]


def is_ruined(run):
    """Ten recorded training losses on end are those of guessing."""
    if not (run / "run.db").exists():
        return False
    with RunStore(run / "run.db") as store:
        losses = store.measurements("loss/train").values
    return len(losses) > 30 and min(losses[-10:]) > 1.5


@pytest.fixture
def wild(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = commands()["run digits runs/wild"]
    trainer = subprocess.Popen(
        [sys.executable, "-m", "surgecollapse", *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        until(lambda: is_ruined(tmp_path / "runs" / "wild"), "the run does not go wrong")
        yield tmp_path / "runs" / "wild"
    finally:
        trainer.kill()
        trainer.wait()


def test_the_tutorial_saves_its_run(wild, capsys):
    told = commands()
    assert list(told) == [
        "run digits runs/wild", "watch runs", "fork runs/wild --at", "send runs/wild pause",
        "send runs/wild roll-back", "send runs/wild set schedule", "send runs/wild set optimizer.lr",
        "send runs/wild continue", "send runs/wild checkpoint",
        "run digits runs/ruled", "twin runs/wild --seeds",
    ]  # fmt: skip

    def send(words):
        capsys.readouterr()
        assert main([*words, "--wait", "120"]) == 0
        return capsys.readouterr().out

    assert newest(wild, "accuracy/validation") < 0.5
    send(told["send runs/wild pause"])
    assert "to step 300; what came after it is kept in wild-left-at-" in send(told["send runs/wild roll-back"])
    assert ": cosine schedule from " in send(told["send runs/wild set schedule"])
    assert ": lr 0.05" in send(told["send runs/wild set optimizer.lr"])
    time.sleep(2.0)  # as a person takes; the run stands
    send(told["send runs/wild continue"])
    assert re.search(r"checkpoint of step \d+, kept", send(told["send runs/wild checkpoint"]))
    at = last_step(wild / "run.db")
    until(lambda: last_step(wild / "run.db") > at + 300, "the run stands still")
    assert newest(wild, "accuracy/validation") > 0.9
    send(["send", "runs/wild", "stop"])
    until(lambda: status_of(wild) == "complete", "the run does not end")

    assert main([*told["fork runs/wild --at"], "--set", "steps=700", "--set", "warmup=400"]) == 0
    slower = wild.parent / "slower"
    assert newest(slower, "accuracy/validation") > 0.9
    with RunStore(slower / "run.db") as store:
        assert store.get("config")["optimizer"]["lr"] == 0.05
        assert (store.get("parent"), store.get("forked_at"), store.get("status")) == ("../wild", 300, "complete")

    capsys.readouterr()
    assert main(swap(told["twin runs/wild --seeds"], seeds=2)) == 0
    assert "set-optimizer" in capsys.readouterr().out
    (twin,) = wild.parent.glob("*/twin.json")
    found = json.loads(twin.read_text(encoding="utf-8"))
    assert found["intervention"]["body"] == {"option": "lr", "value": 0.05, "group": None}
    assert len(found["pairs"]) == 2

    assert main(told["run digits runs/ruled"]) == 0
    ruled = wild.parent / "ruled"
    assert (status_of(ruled), last_step(ruled / "run.db") < 4000) == ("complete", True)
    with RunStore(ruled / "run.db") as store:
        (alarm,) = store.alarms()
    assert alarm.forecast == "stop"
