"""What recording and looking for commands cost a training step.

    python benchmarks/recording.py

A loop of steps of 10 ms records as a run does (a loss every step, a reading every 50, an intervention every hundred)
and looks for commands after every step, while another connection asks for one now and then. Counted is the processor
time of the whole process, the writing thread's included, over the time of the steps; the steps sleep, so that nothing
else uses the processor, and what sleeping itself takes is measured first and taken off. Beside it the wall time that
the training thread spends in these calls.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from _harness import make_parser

from surgecollapse.commands import Pump
from surgecollapse.controller.command_loop import CommandLoop
from surgecollapse.events import Intervention, LayerChange, LayerReading, Reading
from surgecollapse.record import CommandQueue, RunStore

STEP = 0.010


def reading(step: int) -> Reading:
    """Of eight layers."""
    layers = tuple(
        LayerReading(layer=f"body.{i}", entropy=0.5, on_off=0.9, energy=1.0, dead=0.0, units=256, rows=128)
        for i in range(8)
    )
    return Reading(step=step, layers=layers, entropy=0.5, on_off=0.9, loss=1.0, grad_norm=1.0)


def intervention(step: int) -> Intervention:
    """On eight layers."""
    layers = tuple(
        LayerChange(name=f"body.{i}.weight", size=65536, live=6554, energy_before=9.0, energy_after=8.0)
        for i in range(8)
    )
    return Intervention(
        step=step, kind="collapse", phase="sparse", reason="because", sparsity_before=0.0, sparsity_after=0.9,
        layers=layers,
    )  # fmt: skip


def measure(steps: int) -> dict[str, float]:
    """Shares of a step of 10 ms: processor time, wall time of the calls, and the worst single step in ms."""
    with tempfile.TemporaryDirectory() as place, RunStore(Path(place) / "run.db", mode="w") as store:
        store.set("status", "running")
        command_loop = CommandLoop(store.record)
        command_loop.handlers["pump"] = lambda command: f"{command.noise_std:g}"
        command_loop.open(CommandQueue(store.path))
        calls, worst, asked = 0.0, 0.0, 0.0
        began = time.process_time()
        for _ in range(steps):
            time.sleep(STEP)
        asleep = time.process_time() - began
        began = time.process_time()
        for step in range(1, steps + 1):
            time.sleep(STEP)
            if step % 200 == 0:
                before = time.process_time()
                CommandQueue(store.path).put(Pump(noise_std=step), source="benchmark")
                asked += time.process_time() - before  # another process pays for it
            entered = time.perf_counter()
            store.measure(step, "loss/train", 1.0)
            if step % 50 == 0:
                store.record(reading(step))
            if step % 100 == 0:
                store.record(intervention(step))
            command_loop.boundary(step)
            spent = time.perf_counter() - entered
            calls, worst = calls + spent, max(worst, spent)
        processor = time.process_time() - began - asked - asleep
        return {
            "processor_share": processor / (steps * STEP),
            "wall_share": calls / (steps * STEP),
            "worst_ms": 1e3 * worst,
        }


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__, out=None)
    parser.add_argument("--steps", type=int, default=2000)
    sys.stdout.write(json.dumps(measure(parser.parse_args().steps), indent=2) + "\n")


if __name__ == "__main__":
    main()
