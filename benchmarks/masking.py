"""Where a controller's time goes on every step of a 25-million-parameter transformer.

    python benchmarks/masking.py

Eight decoder blocks of width 512 (25.2 M prunable weights) on batches of 1,024 tokens, one thread. A step with its
masks multiplies the gradient once before the optimizer and the weight once after it; while a surge may be near, it also
takes the gradient into the growth average. Each part is timed alone, against the plain step and against the machine's
limit: copying as many bytes as the part must move (gradient or weight in and out, mask in: three passes over the
weights). Goal: re-masking ≤ 1% of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from overhead import Decoder, Scripted, stepper

import surgecollapse

GOAL = 0.01


def milliseconds(part: Callable[[], object], repeats: int) -> float:
    """Median processor time of one call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        part()
        times.append(1e3 * (time.process_time() - began))
    return statistics.median(times)


def measure(repeats: int) -> dict[str, Any]:
    """Times of the step and of the parts, in milliseconds."""
    torch.manual_seed(0)
    model = Decoder(width=512, layers=8, length=128)
    x, y = torch.randint(0, 99, (128, 8)), torch.randint(0, 97, (8,))
    step, optimizer = stepper(model, x, y)
    with surgecollapse.attach(model, optimizer, sparsity=0.9, policy=Scripted(2), minimum_density=0.0) as controller:
        for _ in range(3):
            step()
        assert controller.sparsity > 0.4, "the collapse was not carried out"
        engine = controller._engine
        params = engine.weights.params
        size = sum(p.numel() for p in params.values())
        source = torch.zeros(3 * size // 2)  # read and written: as many bytes as three passes over the weights
        target = torch.zeros_like(source)
        engine.signal.update(params)
        step()
        found = {
            "weights": size,
            "mask_gradients": milliseconds(engine.weights.mask_gradients, repeats),
            "mask_weights": milliseconds(engine.weights.apply, repeats),
            "growth_average": milliseconds(lambda: engine.signal.update(params), repeats),
            "copy": milliseconds(lambda: target.copy_(source), repeats),
        }
    plain, _ = stepper(model, x, y)
    found["step"] = milliseconds(plain, max(3, repeats // 4))
    return found


def main() -> None:
    """Measure, print and write ``benchmarks/results/masking.{json,md}``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.repeats)
    masking = found["mask_gradients"] + found["mask_weights"]
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "goal": GOAL,
        **found,
    }
    share = {name: found[name] / found["step"] for name in ("mask_gradients", "mask_weights", "growth_average")}
    rows = [
        f"| {title} | {found[name]:.1f} ms | {100 * share[name]:.2f}% | {found[name] / found['copy']:.2f} |"
        for name, title in (
            ("mask_gradients", "gradient × mask, every step"),
            ("mask_weights", "weight × mask, every step"),
            ("growth_average", "growth average, the last 22 steps before a reading of a sparse phase"),
        )
    ]
    met = "met" if masking <= GOAL * found["step"] else "missed"
    text = "\n".join(
        [
            f"# Masks on a transformer with {found['weights']:,} prunable weights, 1,024 tokens a batch",
            "",
            f"`{record['command']}`",
            "",
            f"{record['cores']} cores, {options.threads} thread(s); python {record['python']}, torch {record['torch']}.",  # noqa: E501
            f"Medians of processor time over {options.repeats} turns. A plain step takes {found['step']:.0f} ms;",
            f"a copy of the bytes that a mask multiply moves takes {found['copy']:.1f} ms.",
            "",
            "| part | time | share of a plain step | in copies of its bytes |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Re-masking: {100 * masking / found['step']:.2f}% of a step (goal ≤ {100 * GOAL:.0f}%: {met}).",
            "In dense phases there is no mask and nothing of this is done.",
        ]
    )
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "masking.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "masking.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
