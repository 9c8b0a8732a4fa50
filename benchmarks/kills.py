"""Kill a run with SIGKILL at random moments until it is through: is the record whole, and are the weights the same?

    python benchmarks/kills.py --kills 100

One run is trained undisturbed, with commands of a person in it. The same run is then killed again and again while it
is replayed, resumed each time, and compared with the first: the record must pass SQLite's integrity check after every
kill, hold every event that a checkpoint has passed, and the final weights must be bitwise those of the first run.
Written to ``benchmarks/results/kills.{json,md}``.
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import torch
from _harness import make_parser, publish

from surgecollapse.commands import Collapse, LearningRate, Pump, Surge
from surgecollapse.lab.training.environment import environment
from surgecollapse.record import CommandQueue, RunStore

COMMAND = [sys.executable, "-m", "surgecollapse", "run"]
KEYS = {
    "policy": "entropy_cycles",
    "widths": 32,
    "train-samples": 500,
    "every": 10,
    "evaluate-every": 100,
    "monitors": "none",
}


def newest_checkpoint(folder: Path) -> int:
    """Step of the newest checkpoint; −1 without any."""
    return max((int(path.stem[5:]) for path in (folder / "checkpoints").glob("step-*.pt")), default=-1)


def check_whole(path: Path) -> None:
    """SQLite's own check of the file; one without tables yet is whole, too."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def events_until(folder: Path, step: int) -> list[tuple[int, str, str]]:
    """Events up to a step, after SQLite's own check of the file."""
    check_whole(folder / "run.db")
    with closing(sqlite3.connect(folder / "run.db")) as connection:
        return connection.execute(
            "SELECT step, kind, body FROM events WHERE step <= ? AND kind != 'Request' ORDER BY id", (step,)
        ).fetchall()


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint."""
    path = folder / "checkpoints" / f"step-{newest_checkpoint(folder)}.pt"
    return torch.load(path, weights_only=True)["model"]


def train_undisturbed(folder: Path, steps: int) -> float:
    """Train once, with four commands; seconds."""
    began = time.monotonic()
    keys = [word for key, value in KEYS.items() for word in (f"--{key}", str(value))]
    arguments = [*COMMAND, "digits", *keys, "--steps", str(steps), "--checkpoint-every", str(steps // 10)]
    process = subprocess.Popen([*arguments, "--out", str(folder)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (folder / "run.db").is_file():
        assert process.poll() is None, "the run could not start"
        time.sleep(0.02)
    time.sleep(0.2)
    queue = CommandQueue(folder / "run.db")
    for command in (Collapse(fraction=0.3), LearningRate(factor=0.5), Pump(noise_std=0.05), Surge(fraction=0.5)):
        queue.put(command, source="benchmark")
        time.sleep(0.15)
    assert process.wait() == 0
    return time.monotonic() - began


def kill_until_through(
    source: Path, folder: Path, kills: int, longest: float, random_: random.Random, found: Counter[str]
) -> int:
    """Replay ``source`` with up to ``kills`` kills, then let it end; the number of kills that hit."""
    reference, hit = events_until(source, sys.maxsize), 0
    for _ in range(kills):
        begun = (folder / "run.db").is_file() and newest_checkpoint(folder) >= 0
        if not begun and folder.exists():
            shutil.rmtree(folder)  # killed before there was anything to resume
        arguments = ["--resume", str(folder)] if begun else ["--replay", str(source), "--out", str(folder)]
        process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(random_.uniform(0.0, longest))
        if killed := process.poll() is None:
            process.send_signal(signal.SIGKILL)
            hit += 1
        process.wait()
        if not (folder / "run.db").is_file():
            found["before there was a record"] += killed
            continue
        expected = [event for event in reference if event[0] <= newest_checkpoint(folder)]
        if newest_checkpoint(folder) < 0:
            found["before the first checkpoint"] += killed
            if killed:
                check_whole(folder / "run.db")
        else:
            found["after a checkpoint"] += killed
            found["events that a checkpoint had passed"] += len(expected) * killed
            assert events_until(folder, newest_checkpoint(folder)) == expected
            with RunStore(folder / "run.db") as store:
                if store.get("status") == "complete":
                    return hit
    arguments = ["--resume", str(folder)] if newest_checkpoint(folder) >= 0 else ["--replay", str(source)]
    if arguments[0] == "--replay":
        if folder.exists():  # it may have been killed before it made its folder
            shutil.rmtree(folder)
        arguments += ["--out", str(folder)]
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    return hit


def run(kills: int, steps: int, seed: int = 0) -> Counter[str]:
    """Do it as often as it takes for ``kills`` kills; when they came, and what was compared.

    Raises:
        AssertionError: if anything was lost.
    """
    random_, found, hit = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        seconds = train_undisturbed(source, steps)
        while hit < kills:
            folder = Path(place) / f"killed-{found['runs']}"
            hit += kill_until_through(source, folder, kills - hit, 1.3 * seconds, random_, found)
            one, two = final_weights(source), final_weights(folder)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
            assert events_until(folder, sys.maxsize) == events_until(source, sys.maxsize)
            found["runs"] += 1
    found["kills"] = hit
    return found


ROWS = {
    "kills": "kills that hit",
    "before there was a record": "… before there was a record",
    "before the first checkpoint": "… before the first checkpoint",
    "after a checkpoint": "… after a checkpoint",
    "events that a checkpoint had passed": "events that a checkpoint had passed, all there (summed over the kills)",
    "runs": "runs ended and compared: all weights and events the same, bitwise",
}


def table(found: Counter[str], command: str, minutes: float) -> str:
    """The results as a page."""
    facts = environment()
    machine = f"Python {facts['python']}, torch {facts['torch']}, {facts['cores']} cores"
    lines = ["# Runs killed at random moments", "", f"`{command}`; {machine}; {minutes:.0f} minutes.", ""]
    lines += ["Nothing was lost: any loss ends the benchmark with an error.", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {text} | {found[key]:,} |" for key, text in ROWS.items())]) + "\n"


def main() -> None:
    """Kill, compare, print and write ``benchmarks/results/kills.{json,md}``."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    found = run(options.kills, options.steps, options.seed)
    minutes = (time.monotonic() - began) / 60
    command = f"python benchmarks/kills.py --kills {options.kills} --steps {options.steps} --seed {options.seed}"
    page = table(found, command, minutes)
    record = {"command": command, "minutes": minutes, "found": dict(found), "environment": environment()}
    publish(options.out / "kills", record, page)


if __name__ == "__main__":
    main()
