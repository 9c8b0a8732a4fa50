"""What a decision costs in data-parallel training: bytes, messages and memory, measured at two ranks, then on paper.

    python benchmarks/scaling.py

Two processes (gloo) train a small MLP under the default policy. Counted are all messages of a reading, and the bytes
of masks and growth signal, with whole weights and with ``fully_shard``. Timed are steps with the controller in turn
with steps without it, and the pooling of readings among them. Each count must equal the formulas below, which then give
the cost for Llama-2-7B on 64 GPUs. That part is arithmetic and was never run.

Formulas, for sites of u₁ … uₛ units, N prunable weights of b bytes each, W ranks:

* a reading: one all-reduce of 8·(Σ(6 + 2uᵢ) + 6) bytes; a decision that acts: one more of that size for the
  activation energy before, one after each change, and 16 bytes for each depth whose confidence is measured;
* masks: b bytes a weight (1 with ``attach(compile=True)``); growth signal: max(4, b) bytes a weight;
* sharded: one W-th of both; a threshold takes one histogram of 2¹⁶ counts of 8 bytes for each 16 bits of a key, two for
  float32, and as many again where only some of several equal weights are taken (counted by a test);
* a ring all-reduce of B bytes: 2(W − 1)·α + 2·B·(W − 1)/(W·β) seconds, with latency α and bandwidth β.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from _harness import described, make_parser, origin, publish, single_thread, table

single_thread()

import torch  # noqa: E402
from torch import distributed, multiprocessing, nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from surgecollapse import Readings, attach  # noqa: E402
from surgecollapse.events import Aim, Decision, Freeze, SetNoise, Threshold  # noqa: E402
from surgecollapse.observe.pooling import Pool  # noqa: E402
from surgecollapse.record import MemoryRecorder  # noqa: E402

STEPS, EVERY, WIDTHS = 300, 10, (64, 256, 256, 256, 10)
LATENCY, BANDWIDTH = 10e-6, 50e9
"""Assumed of a cluster: seconds a hop, bytes a second (a 400 Gb/s link)."""
SELECTED = 28e6 / 11.7e-3
"""Weights a second among which an H200 finds the threshold, see ``results/gpu.md``."""


def reading_bytes(units: list[int]) -> int:
    """Bytes of the one message of a reading."""
    return 8 * (sum(6 + 2 * u for u in units) + 6)


def all_reduce_seconds(size: float, ranks: int) -> float:
    """Time of a ring all-reduce."""
    return 2 * (ranks - 1) * (LATENCY + size / (ranks * BANDWIDTH))


@dataclass(frozen=True)
class Net:
    """A net on paper."""

    name: str
    prunable: int
    units: list[int]
    bytes_each: int


def llama() -> Net:
    """Llama-2-7B in bfloat16: 32 blocks of attention (4 × 4096²) and a gated MLP (3 × 4096 × 11,008)."""
    wide, hidden, blocks = 4096, 11_008, 32
    units = [*[wide] * 4, hidden, hidden, wide] * blocks
    return Net("Llama-2-7B, bfloat16", blocks * (4 * wide * wide + 3 * wide * hidden), units, 2)


def worker(rank: int, size: int, folder: str) -> None:
    """One rank of the measurement."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    messages: Counter[int] = Counter()
    spent = {"messages": 0.0, "pooling": 0.0}
    real, read = distributed.all_reduce, Pool.read

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        messages[tensor.numel() * tensor.element_size()] += 1
        began = time.perf_counter()
        done = real(tensor, *args, **kwargs)
        spent["messages"] += time.perf_counter() - began
        return done

    def timed(pool: Pool, *args: Any) -> Any:
        began = time.perf_counter()
        done = read(pool, *args)
        spent["pooling"] += time.perf_counter() - began
        return done

    def made(wrap: Any = DistributedDataParallel) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        parts = [part for pair in pairwise(WIDTHS) for part in (nn.Linear(*pair), nn.ReLU())]
        model = wrap(nn.Sequential(*parts[:-1]))
        return model, torch.optim.AdamW(model.parameters(), 1e-3)

    own = torch.Generator().manual_seed(rank)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        x, y = torch.randn(64, WIDTHS[0], generator=own), torch.randint(WIDTHS[-1], (64,), generator=own)
        began = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        return time.perf_counter() - began

    plain, pruned = made(), made()
    memory_of = MemoryRecorder()
    controller = attach(*pruned, 0.9, STEPS, readings=Readings(every=EVERY), recorders=[memory_of])
    distributed.all_reduce, Pool.read = counted, timed  # type: ignore[method-assign, assignment]
    seconds: dict[str, list[float]] = {"plain": [], "step": [], "reading": []}
    memory: dict[str, int] = {}
    for number in range(1, STEPS + 1):
        seconds["plain"].append(step(*plain))
        seconds["reading" if number % EVERY == 0 else "step"].append(step(*pruned))
        most(memory, controller, "")
    distributed.all_reduce, Pool.read = real, read  # type: ignore[method-assign]
    sharded = made(lambda net: fully_shard(net, mesh=init_device_mesh("cpu", (size,))))
    parts = attach(*sharded, 0.9, STEPS // 3, readings=Readings(every=EVERY))
    for _ in range(STEPS // 3):
        step(*sharded)
        most(memory, parts, "sharded ")
    still = SetNoise | Threshold | Aim | Freeze
    acting = sum(any(not isinstance(a, still) for a in made.actions) for made in memory_of.of(Decision))
    changes = len(controller.readings) + acting + sum(event.pruned + event.grown > 0 for event in controller.events)
    prunable = sum(mask.numel() for mask in controller.masks.values())
    if rank == 0:
        times = {name: statistics.median(values) for name, values in seconds.items()}
        shares = {name: value / sum(seconds["plain"]) for name, value in spent.items()}
        found = {"messages": dict(messages), "seconds": times, "memory": memory, "prunable": prunable, "shares": shares}
        torch.save({**found, "expected": changes}, f"{folder}/found")
    distributed.barrier()
    distributed.destroy_process_group()


def most(memory: dict[str, int], controller: Any, kind: str) -> None:
    """Note the most bytes of masks and growth signal that a process has held."""
    components = controller._components
    for name, tensors in (("masks", components.weights.all_held()), ("signal", components.signal.values)):
        found = sum(t.numel() * t.element_size() for t in tensors.values())
        memory[kind + name] = max(memory.get(kind + name, 0), found)


def on_paper(net: Net, ranks: int) -> list[tuple[str, str, str]]:
    """Rows of the table: what, without sharding, sharded over all ranks."""
    message = reading_bytes(net.units)
    masks, signal = net.prunable * net.bytes_each, net.prunable * max(4, net.bytes_each)

    def gigabytes(size: float) -> str:
        return f"{size / 1e9:.2f} GB"

    histograms = 2 * 2**16 * 8
    return [
        ("masks, bytes on each GPU", gigabytes(masks), gigabytes(masks / ranks)),
        ("masks with `compile=True`", gigabytes(net.prunable), gigabytes(net.prunable / ranks)),
        ("growth signal", gigabytes(signal), gigabytes(signal / ranks)),
        ("message of a reading", f"{message / 1e6:.1f} MB", f"{message / 1e6:.1f} MB"),
        ("time of a message", *(f"{1e3 * all_reduce_seconds(message, ranks):.1f} ms",) * 2),
        ("selection of the weights", *(f"{net.prunable / n / SELECTED:.2f} s" for n in (1, ranks))),
        ("messages of the selection", "none", f"2 histograms, {histograms / 1e6:.2f} MB"),
        ("their time", "–", f"{1e3 * 2 * all_reduce_seconds(histograms / 2, ranks):.1f} ms"),
    ]


def page(found: dict[str, Any], report: dict[str, Any]) -> str:
    """The results as Markdown."""
    seconds = found["seconds"]
    lines = ["# Cost of decisions in data-parallel training", *described(report), "Measured at two ranks:", ""]
    lines += table(
        ("what", "measured", "formula"),
        [
            ("bytes of a reading's message", f"{found['largest']:,}", f"{found['formula']:,}"),
            ("messages of that size", str(found["counts"][0]), str(found["counts"][1])),
            *(
                (f"{name}, bytes a weight", f"{found['memory'][name] / found['prunable']:.2f}", formula)
                for name, formula in (
                    ("masks", "4.00"),
                    ("signal", "4.00"),
                    ("sharded masks", "2.00"),
                    ("sharded signal", "2.00"),
                )
            ),
            *(
                (f"{what}, a reading in {EVERY} steps, share of plain steps", f"{found['shares'][name]:.1%}", "–")
                for what, name in (("pooling", "pooling"), ("all messages", "messages"))
            ),
            ("step without a reading, over a plain step", f"{seconds['step'] / seconds['plain']:.2f}", "–"),
            ("step with a reading, over a plain step", f"{seconds['reading'] / seconds['plain']:.2f}", "–"),
        ],
    )
    net, ranks = llama(), 64
    lines += ["", f"On paper: {net.name}, {net.prunable / 1e9:.2f} billion prunable weights, {ranks} GPUs,"]
    lines += [f"latency {1e6 * LATENCY:.0f} µs, bandwidth {BANDWIDTH / 1e9:.0f} GB/s. It was not run.", ""]
    return "\n".join(lines + table(("what", "data-parallel", "sharded (FSDP)"), on_paper(net, ranks)))


def main() -> None:
    """Measure, check the formulas, and write ``benchmarks/results/scaling.{json,md}``."""
    options = make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(worker, (2, folder), nprocs=2)
        found = torch.load(Path(folder) / "found")
    hidden = list(WIDTHS[1:-1])
    formula = reading_bytes(hidden)
    found["largest"], found["formula"] = max(found["messages"]), formula
    found["counts"] = (found["messages"][formula], found["expected"])
    found["messages"] = {str(size): count for size, count in found["messages"].items()}
    publish(options.out / "scaling", {**(report := origin(1)), **found}, page(found, report))


if __name__ == "__main__":
    main()
