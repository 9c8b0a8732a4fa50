"""One run directory, one process that trains in it: the loser harms nothing, and a killed process leaves no lock."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from surgecollapse.commands import Pause
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.claim import LOCK, claimed
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.record import CommandQueue, RunStore, RunStoreError

PROGRAM = [sys.executable, "-m", "surgecollapse"]
SMALL = [
    "run",
    "digits",
    "--policy",
    "none",
    "--widths",
    "8",
    "--evaluate-every",
    "5",
    "--monitors",
    "none",
    "--checkpoint-every",
    "20",
]


def small(steps: int = 30):
    return make_config(task="digits", policy="none", widths=(8,), steps=steps, evaluate_every=5, monitors="none",
                       checkpoint_every=10)  # fmt: skip


class At(Silent):
    """Does something once, when a step has passed."""

    def __init__(self, step, act):
        self.step, self.act, self.seen = step, act, []

    def update(self, snapshot):
        if snapshot.step == self.step and not self.seen:
            self.seen.append(snapshot.step)
            self.act()


def whole(folder, steps=30):
    with RunStore(folder / "run.db") as store:
        assert store.get("status") == "complete"
        taken = store.measurements("loss/train").steps.tolist()
        assert taken == sorted(set(taken))
        assert taken[-1] == steps


@pytest.mark.parametrize("resume", [False, True], ids=["start", "resume"])
def test_a_second_trainer_is_refused_with_the_process_of_the_first_which_goes_on(tmp_path, resume):
    folder = tmp_path / "run"

    def second():
        with pytest.raises(FileExistsError, match=rf"already holds a run|process {os.getpid()} trains this run"):
            train(None if resume else small(), folder, resume=resume)

    progress = At(15, second)
    assert train(small(), folder, progress=progress).status == "complete"
    assert progress.seen == [15]
    whole(folder)
    assert (folder / "checkpoints" / "step-30.pt").exists()


def test_a_second_process_that_resumes_is_refused_with_the_process_id(tmp_path):
    folder = tmp_path / "run"
    answers = []

    def second():
        command = [*PROGRAM, "run", "--resume", str(folder)]
        answers.append(subprocess.run(command, capture_output=True, text=True, timeout=120))

    train(small(), folder, progress=At(15, second))
    assert answers[0].returncode == 2
    assert f"process {os.getpid()} trains this run" in answers[0].stderr
    assert "Traceback" not in answers[0].stderr
    whole(folder)


def test_of_several_that_start_into_one_folder_one_trains_and_its_record_is_whole(tmp_path):
    folder = tmp_path / "run"
    command = [*PROGRAM, *SMALL, "--steps", "30", "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=240)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2, 2]
    losers = [text for process, text in zip(started, said, strict=True) if process.returncode]
    assert all("already holds a run" in text or "trains this run" in text for text in losers)
    whole(folder)
    assert (folder / "config.toml").exists()


def test_of_several_that_resume_a_killed_run_exactly_one_trains(tmp_path):
    folder = tmp_path / "run"
    stopped = subprocess.Popen(
        [*PROGRAM, *SMALL, "--steps", "400", "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-20.pt")) and stopped.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    stopped.kill()
    stopped.wait()
    with RunStore(folder / "run.db") as store:
        assert store.get("status") == "running"
    command = [*PROGRAM, "run", "--resume", str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=240) for process in started]
    # One that comes after the winner has ended finds a complete run, and trains nothing either.
    trained = [out for process, (out, _) in zip(started, said, strict=True) if process.returncode == 0]
    refused = [err for process, (_, err) in zip(started, said, strict=True) if process.returncode]
    assert trained
    assert all(re.search(r"process trains this run|process \d+ trains this run", err) for err in refused)
    assert not any("Traceback" in err for _, err in said)
    whole(folder, 400)


def test_default_names_never_meet(tmp_path):
    command = [*PROGRAM, *SMALL, "--steps", "10"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    places = [re.search(r"run: (\S+)", text)[1] for text in said]
    assert len(set(places)) == 2
    for place in places:
        whole(tmp_path / place, 10)


def test_a_killed_trainer_leaves_no_lock_and_its_commands_are_rejected(tmp_path):
    folder = tmp_path / "run"
    command = [*PROGRAM, *SMALL, "--steps", "100000", "--out", str(folder)]
    trainer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not list((folder / "checkpoints").glob("step-*.pt")):
            assert trainer.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        with pytest.raises(FileExistsError, match=f"process {trainer.pid} trains"), claimed(folder, print):
            pass
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    finally:
        trainer.kill()
        trainer.wait()
    queue = CommandQueue(folder / "run.db")
    late = queue.get(queue.put(Pause(), source="terminal"))
    assert late.status == "rejected"
    assert f"its process {trainer.pid} was killed" in late.reason
    queue.close()
    with claimed(folder, print):
        pass


def test_a_run_that_fails_at_once_leaves_what_was_there_and_frees_the_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    impossible = make_config(task="digits", policy="none", widths=(1_000_000, 1_000_000), steps=5)
    for _ in range(2):
        with pytest.raises(ValueError, match="not enough memory"):
            train(impossible, tmp_path / "mine")
        assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("what", ["folder", "run.db"])
def test_a_record_that_is_deleted_while_a_run_trains_fails_the_run(tmp_path, what):
    folder = tmp_path / "run"

    def delete():
        if what == "folder":
            shutil.rmtree(folder)
        else:
            (folder / "run.db").unlink()

    with pytest.raises(RunStoreError, match="cannot write"):
        train(small(), folder, progress=At(15, delete))
    if what == "folder":
        assert not folder.exists()


def test_a_lock_file_of_nobody_is_taken_and_one_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / LOCK).touch()
    with (
        claimed(tmp_path, print),
        pytest.raises(FileExistsError, match="another process trains"),
        claimed(tmp_path, print),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(RunStoreError, match="choose another --out"), claimed(tmp_path / "file", print):
        pass


# ---- ten processes at once -------------------------------------------------------------------------------------------

TEN = """
import os, sys, time
from pathlib import Path
from surgecollapse.commands import Pump
from surgecollapse.lab.training.claim import claimed
from surgecollapse.record import CommandQueue, RunStore

job, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
(folder / f"ready-{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)


def hold():
    for _ in range(5):
        while True:
            try:
                with claimed(folder, print):
                    count = folder / "count"
                    before = int(count.read_text())
                    time.sleep(0.005)  # in which another holder would read the same
                    count.write_text(str(before + 1))
                    if number == 0:
                        os.kill(os.getpid(), 9)  # the lock must not outlive it
                break
            except FileExistsError:
                pass


def make():
    try:
        with RunStore(folder / "run.db", mode="w") as store:
            for step in range(50):
                store.measure(step, "x", float(number))
    except FileExistsError as error:
        assert "already holds a run" in str(error)
        sys.exit(3)


def ask():
    queue = CommandQueue(folder / "run.db")
    for step in range(10):
        given = [queue.put(Pump(noise_std=step / 10), source="page", token=f"{number}-{step:08d}") for _ in range(2)]
        assert given[0] == given[1]


{"hold": hold, "make": make, "ask": ask}[job]()
"""


def ten(job, folder):
    (folder / "ten.py").write_text(TEN)
    started = [
        subprocess.Popen(
            [sys.executable, folder / "ten.py", job, folder, str(number)], stderr=subprocess.PIPE, text=True
        )
        for number in range(10)
    ]
    until = time.monotonic() + 120
    while len(list(folder.glob("ready-*"))) < 10:
        assert time.monotonic() < until
        time.sleep(0.01)
    (folder / "go").touch()
    said = [process.communicate(timeout=240)[1] for process in started]
    return [process.returncode for process in started], said


def test_of_ten_processes_one_at_a_time_holds_a_folder_and_a_killed_one_frees_it(tmp_path):
    (tmp_path / "count").write_text("0")
    codes, said = ten("hold", tmp_path)
    assert codes == [-signal.SIGKILL] + [0] * 9, said
    assert int((tmp_path / "count").read_text()) == 9 * 5 + 1


def test_of_ten_processes_one_makes_a_record_and_it_is_whole(tmp_path):
    codes, said = ten("make", tmp_path)
    assert sorted(codes) == [0] + [3] * 9, said
    with RunStore(tmp_path / "run.db") as store:
        found = store.measurements("x")
        assert found.steps.tolist() == list(range(50))
        assert set(found.values.tolist()) == {float(codes.index(0))}


def test_commands_of_ten_processes_are_all_there_once_while_the_run_writes(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.set("status", "running")
        codes, said = ten("ask", tmp_path)
        assert codes == [0] * 10, said
        store.measure(1, "x", 1.0)
    asked = CommandQueue(tmp_path / "run.db").all()
    assert len(asked) == len({one.id for one in asked}) == 100
