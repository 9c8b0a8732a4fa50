"""Time and peak memory of one global collapse, as ratios to one plain copy of the same weights.

    python benchmarks/collapse.py --size 100_000_000

Goals: at most 8 copies' time and 4 copies' peak extra memory. The copy of the time goal is the strict one,
into memory that is already there; a copy into fresh memory (``clone``, what most code does) is given beside
it. Peak memory is the rise of the resident set's high-water mark, in a process of its own for each
measurement.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import numpy
import torch
from _harness import RESULTS, described, in_turn, make_parser, medians, origin, over, publish, spread
from torch import Tensor

from surgecollapse.functional import collapse_masks, selection

TIME_GOAL, MEMORY_GOAL = 8.0, 4.0
SPARSITY = 0.9
PATTERNS = ("normal", "nine tenths zeros", "all equal", "misleading sample")
_PIECE = 1 << 20  # weights are made piecewise, so that making them leaves no mark on the peak memory


def make_weights(pattern: str, size: int, tensors: int) -> dict[str, Tensor]:
    """Float32 weights in several tensors of about equal size."""
    generator = torch.Generator().manual_seed(0)
    sizes = [size // tensors + (i < size % tensors) for i in range(tensors)]
    weights = {f"layer{i}": torch.empty(part) for i, part in enumerate(sizes)}
    sampled = torch.from_numpy(selection._sample_positions(size, 0))
    start = 0
    for weight in weights.values():
        for piece in torch.split(weight, _PIECE):
            piece.normal_(generator=generator)
            if pattern == "nine tenths zeros":
                piece.mul_(torch.rand(piece.shape, generator=generator) < 1 - SPARSITY)
            elif pattern == "all equal":
                piece.fill_(1.0)
            elif pattern == "misleading sample":
                # Large wherever the selection looks first, so that it has to look again.
                inside = sampled[(sampled >= start) & (sampled < start + piece.numel())] - start
                piece[inside] += 10.0
            start += piece.numel()
    return weights


def live_of(pattern: str, size: int) -> int:
    """Collapse to the target; nets that are already that sparse are collapsed deeper, to half of what lives."""
    return round(size * (1 - SPARSITY) / (2 if pattern == "nine tenths zeros" else 1))


def time_pattern(pattern: str, size: int, tensors: int, repeats: int) -> dict[str, float]:
    """Time copy, clone and collapse in turn, so that all see the same machine; medians of ratios within a turn."""
    weights, live = make_weights(pattern, size, tensors), live_of(pattern, size)
    target = {name: weight.clone() for name, weight in weights.items()}

    def copy() -> None:
        for name, weight in weights.items():
            target[name].copy_(weight)

    def clone() -> list[Tensor]:
        return [weight.clone() for weight in weights.values()]

    def collapse() -> dict[str, Tensor]:
        return collapse_masks(weights, live)

    counted = sum(int(mask.count_nonzero()) for mask in collapse().values())
    assert counted == live, f"{counted} weights live, {live} wanted"
    turns = in_turn({"copy": copy, "clone": clone, "collapse": collapse}, repeats)
    copies = over(turns, "collapse", "copy")
    return {
        **{f"{name}_s": taken for name, taken in medians(turns).items()},
        "copies": copies["median"],
        "copies_least": copies["least"],
        "copies_most": copies["most"],
        "clones": over(turns, "collapse", "clone")["median"],
    }


def peak_bytes() -> int:
    """High-water mark of this process alone: where there is ``/proc``, ``ru_maxrss`` starts with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_probe(action: str, pattern: str, size: int, tensors: int) -> None:
    """Print the rise of peak memory; runs in a process of its own."""
    tiny = {"a": torch.ones(200_000)}
    collapse_masks(tiny, 20_000)  # what is loaded on the first call is no cost of the collapse
    weights = make_weights(pattern, size, tensors)
    before = peak_bytes()
    if action == "copy":
        result: object = [weight.clone() for weight in weights.values()]
    else:
        result = collapse_masks(weights, live_of(pattern, size))
    print(peak_bytes() - before)
    del result


def extra_memory(action: str, pattern: str, options: argparse.Namespace) -> int:
    """Bytes that an action adds to the peak of a fresh process."""
    command = [sys.executable, __file__, f"--probe={action}", f"--pattern={pattern}", f"--size={options.size}"]
    command += [f"--tensors={options.tensors}", f"--threads={options.threads}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All patterns, with what is needed to repeat the run."""
    results = {}
    # A small copy fits into memory that the process has already.
    copied = max(extra_memory("copy", "normal", options), 4 * options.size)
    for pattern in PATTERNS:
        result = time_pattern(pattern, options.size, options.tensors, options.repeats)
        result["extra_bytes"] = extra_memory("collapse", pattern, options)
        result["memory_copies"] = result["extra_bytes"] / copied
        results[pattern] = result
    return {
        **origin(options.threads, numpy=numpy.__version__),
        "size": options.size,
        "tensors": options.tensors,
        "repeats": options.repeats,
        "copy_bytes": copied,
        "goals": {"copies": TIME_GOAL, "memory_copies": MEMORY_GOAL},
        "patterns": results,
    }


def as_markdown(report: dict) -> str:
    """The report as a table."""
    lines = [
        f"# One global collapse of {report['size']:,} float32 weights in {report['tensors']} tensors",
        *described(report),
        f"Medians of {report['repeats']} turns, least–most in brackets. Goals: ≤ {TIME_GOAL:g} copies' time, against",
        f"a copy into existing memory, and ≤ {MEMORY_GOAL:g} copies' peak extra memory. *All equal* starves all layers",
        "but one, so that each is selected again for its minimum density; *misleading sample* is made against the",
        "selection's own first sample.",
        "",
        "| weights | collapse | copy | time in copies | time in clones | peak memory in copies | goals |",
        "|---|---|---|---|---|---|---|",
    ]
    for pattern, found in report["patterns"].items():
        met = found["copies"] <= TIME_GOAL and found["memory_copies"] <= MEMORY_GOAL
        lines.append(
            f"| {pattern} | {found['collapse_s'] * 1e3:.0f} ms | {found['copy_s'] * 1e3:.0f} ms "
            f"| {spread([found[key] for key in ('copies', 'copies_least', 'copies_most')], 1)} "
            f"| {found['clones']:.1f} | {found['memory_copies']:.2f} | {'met' if met else 'missed'} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, write JSON and Markdown, print the table."""
    parser = make_parser(__doc__, out=RESULTS / "collapse", repeats=5, threads=1)
    parser.add_argument("--size", type=int, default=100_000_000, help="number of weights")
    parser.add_argument("--tensors", type=int, default=10, help="number of tensors they are spread over")
    parser.add_argument("--probe", choices=("copy", "collapse"), help=argparse.SUPPRESS)
    parser.add_argument("--pattern", choices=PATTERNS, default="normal", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.probe:
        memory_probe(options.probe, options.pattern, options.size, options.tensors)
        return
    report = measure(options)
    publish(options.out, report, as_markdown(report))


if __name__ == "__main__":
    main()
