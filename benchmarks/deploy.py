"""What zeros are worth once a net is deployed: bytes of the file, latency and memory, as ratios to the dense layer.

    python benchmarks/deploy.py

Linear layers of 1024², 2048² and 4096² with 80 to 99% zeros at random places, and nets that are trained here on 5,000
MNIST digits and exported in every format. Compared in turn, in one process: `torch.nn.Linear`; CSR as torch makes it
(`to_sparse_csr`, `F.linear`); `surgecollapse.export.CsrLinear`; and the package sparselab, if it is installed or its
folder is given with --sparselab (`pip install --no-deps --target FOLDER sparselab`).

Peak memory is that of a fresh process per form: what the layer holds and what five forward passes with 128 rows need,
above the process before. Goal: a file of at most 1.1 × (bytes of non-zeros + one bit per entry); `to_csr` never slower
than dense, since it keeps dense what is not measured to be faster (ratios under 1 in the table are what it avoids).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import import_module, metadata
from math import ceil
from pathlib import Path
from typing import Any

import torch
from _harness import described, make_parser, origin, publish, quartiles, seconds, spread, table, verdict
from torch import Tensor, nn

from surgecollapse.export import CsrLinear, save_sparse

SIZES = (1024, 2048, 4096)
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
ROWS = (1, 128)
GOAL = 1.1
FORMS = ("dense", "torch CSR", "CsrLinear", "sparselab")


class TorchCsr(nn.Module):
    """A linear layer over torch's own CSR tensor, as its documentation makes it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight.to_sparse_csr(), bias

    def forward(self, x: Tensor) -> Tensor:
        """x·Wᵀ + b."""
        return nn.functional.linear(x, self.weight, self.bias)


def weight_of(size: int, sparsity: float) -> Tensor:
    """A square matrix with exactly that share of zeros at random places."""
    draws = torch.Generator().manual_seed(size)
    weight = torch.randn(size, size, generator=draws) / size**0.5
    weight.view(-1)[torch.randperm(size * size, generator=draws)[: round(sparsity * size * size)]] = 0
    return weight


def sparselab_linear(weight: Tensor, bias: Tensor, sparsity: float) -> nn.Module:
    """The layer of sparselab over our matrix, set as its own constructor sets it."""
    sparselab = import_module("sparselab")
    layer = sparselab.SparseLinear(weight.shape[1], weight.shape[0], sparsity=sparsity)
    layer._csr = sparselab.layout.from_dense(weight)
    layer._values = nn.Parameter(torch.from_numpy(layer._csr.values))
    layer.bias = nn.Parameter(bias)
    return layer


def build(form: str, weight: Tensor, sparsity: float) -> nn.Module:
    """A layer over that matrix in one form."""
    size = len(weight)
    bias = torch.linspace(-1, 1, size)
    if form == "torch CSR":
        return TorchCsr(weight, bias)
    if form == "CsrLinear":
        return CsrLinear(weight, bias)
    if form == "sparselab":
        return sparselab_linear(weight, bias, sparsity).eval()
    layer = nn.Linear(size, size)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer.eval()


def call_seconds(layer: nn.Module, x: Tensor, number: int = 1) -> float:
    """Time of one of ``number`` calls: of the processor with one thread, as the wall clock sees others; else wall."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    return seconds(lambda: layer(x), number, clock)


@torch.inference_mode()
def latency(size: int, sparsity: float, rows: int, forms: list[str], repeats: int) -> dict[str, Any]:
    """Seconds dense over seconds of each form: medians and quartiles of ratios within a turn."""
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(rows))
    weight = weight_of(size, sparsity)
    layers = {form: build(form, weight, sparsity) for form in forms}
    expected = layers["dense"](x)
    difference = {form: float((layer(x) - expected).abs().max()) for form, layer in layers.items()}
    number = {
        form: ceil(1e-3 / max(min(call_seconds(layer, x) for _ in range(3)), 1e-6)) for form, layer in layers.items()
    }
    turns = []
    for turn in range(repeats):
        order = forms[turn % len(forms) :] + forms[: turn % len(forms)]
        turns.append({form: call_seconds(layers[form], x, number[form]) for form in order})
    found: dict[str, Any] = {"size": size, "sparsity": sparsity, "rows": rows, "forms": {}}
    found["dense_us"] = 1e6 * statistics.median(turn["dense"] for turn in turns)
    for form in forms[1:]:
        ratios = quartiles(turn["dense"] / turn[form] for turn in turns)
        found["forms"][form] = {**ratios, "max_difference": difference[form]}
    return found


def resident(key: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


@torch.inference_mode()
def memory(form: str, size: int, sparsity: float) -> int:
    """Bytes that a layer holds and its forward passes need; in a process of its own."""
    trim = ctypes.CDLL("libc.so.6").malloc_trim
    x = torch.randn(128, size)
    build(form, weight_of(64, 0.9), 0.9)(
        torch.randn(128, 64)
    )  # what is loaded on the first call is no cost of the layer
    gc.collect(), trim(0)
    before = resident("VmRSS")
    layer = build(form, weight_of(size, sparsity), sparsity)
    gc.collect(), trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of building is not counted
    for _ in range(5):
        layer(x)
    return resident("VmHWM") - before


def file_sizes(size: int, sparsity: float) -> dict[str, int]:
    """Bytes of a layer saved dense with torch.save, and as a sparse checkpoint."""
    layer, buffer = build("dense", weight_of(size, sparsity), sparsity), io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    with tempfile.TemporaryDirectory() as folder:
        written = save_sparse(layer, Path(folder) / "layer")
    return {"dense": buffer.tell(), "sparse checkpoint": written.bytes, "bound": written.bound}


def trained(sparsity: float, folder: Path) -> list[dict[str, Any]]:
    """Train one net and export it in every format, for one sample and for 128."""
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train
    from surgecollapse.report.export_run import FORMATS, export_run

    run = folder / f"mnist5k-{sparsity}"
    train(make_config(task="mnist5k", sparsity=sparsity, widths=(512, 512), steps=1500), run)
    rows = []
    for form in FORMATS:
        for batch in ROWS:
            try:
                done = export_run(run, form, batch=batch)
            except (ValueError, ImportError) as error:
                rows.append({"sparsity": sparsity, "form": form, "batch": batch, "failed": str(error)[:200]})
                continue
            if done.speedup is None and batch != ROWS[0]:
                continue  # a format that is about size alone
            facts = {key: getattr(done, key) for key in ("bytes", "dense", "bound", "max_difference", "speedup")}
            rows.append({"sparsity": sparsity, "form": form, "batch": batch, "accuracy": done.accuracy, **facts})
    return rows


def child(options: argparse.Namespace, threads: int, *words: str) -> Any:
    """Run this script again for one measurement; what it prints last is JSON."""
    command = [sys.executable, __file__, f"--repeats={options.repeats}", "--child", *words]
    path = os.pathsep.join(part for part in (options.sparselab, os.environ.get("PYTHONPATH")) if part)
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def answer(options: argparse.Namespace) -> Any:
    """One measurement, in the process that was started for it."""
    what, *words = options.child
    if what == "forms":
        return available()
    if what == "latency":
        size, sparsity, forms = int(words[0]), float(words[1]), words[2:]
        return [latency(size, sparsity, rows, forms, options.repeats) for rows in ROWS]
    if what == "memory":
        return memory(words[0], int(words[1]), float(words[2]))
    if what == "files":
        return file_sizes(int(words[0]), float(words[1]))
    with tempfile.TemporaryDirectory() as folder:
        return trained(float(words[0]), Path(folder))


def available() -> dict[str, Any]:
    """Forms that run here, and why one does not."""
    try:
        with torch.inference_mode():
            build("sparselab", weight_of(64, 0.9), 0.9)(torch.ones(2, 64))
        return {"forms": list(FORMS), "sparselab": metadata.version("sparselab")}
    except (ImportError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        return {"forms": list(FORMS[:-1]), "sparselab": f"not compared: {error}"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for, with what is needed to repeat it; the other part is kept from before."""
    found, file = child(options, 1, "forms"), options.out / "deploy.json"
    report: dict[str, Any] = json.loads(file.read_text()) if options.only and file.exists() else {}
    about = {**origin(sparselab=found["sparselab"]), "repeats": options.repeats, "goals": {"file": GOAL}}
    if options.sparselab:
        about["command"] = about["command"].replace(options.sparselab, "FOLDER")
    if options.only != "trained":
        report |= {"layers": about, **measure_layers(options, found["forms"])}
    if options.only != "layers":
        rows = [row for sparsity in (0.9, 0.98) for row in child(options, 1, "trained", str(sparsity))]
        report |= {"nets": about, "trained": rows}
    return report


def measure_layers(options: argparse.Namespace, forms: list[str]) -> dict[str, Any]:
    """Latency, files and memory of single layers."""
    report: dict[str, Any] = {"latency": {}, "load": {}, "files": [], "memory": []}
    for threads in options.threads:
        report["latency"][str(threads)] = [
            row
            for size in options.sizes
            for sparsity in SPARSITIES
            for row in child(options, threads, "latency", str(size), str(sparsity), *forms)
        ]
        report["load"][str(threads)] = os.getloadavg()[2]  # of the last fifteen minutes
    for size in options.sizes:
        dense = child(options, 1, "memory", "dense", str(size), "0.9")
        for sparsity in SPARSITIES:
            words = (str(size), str(sparsity))
            report["files"].append({"size": size, "sparsity": sparsity, **child(options, 1, "files", *words)})
            held = {form: child(options, 1, "memory", form, *words) for form in forms[1:]}
            report["memory"].append({"size": size, "sparsity": sparsity, "dense": dense, **held})
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = ["# Deployed: bytes, latency and memory of sparse layers and nets"]
    if "layers" in report:
        lines += layers_as_markdown(report)
    if "nets" in report:
        lines += ["", "## Trained nets", *described(report["nets"])]
        lines += ["784-512-512-10 on 5,000 MNIST digits, 1,500 steps; speed on one thread.", ""]
        headings = ["zeros", "format", "batch", "file / dense", "file / bound", "largest difference", "accuracy"]
        lines += table([*headings, "speed-up"], [trained_cells(row) for row in report["trained"]])
    return "\n".join([*lines, ""])


def layers_as_markdown(report: dict[str, Any]) -> list[str]:
    """Lines of the tables of single layers."""
    others = list(report["latency"][next(iter(report["latency"]))][0]["forms"])
    lines = described(report["layers"])
    for threads, rows in report["latency"].items():
        clock, turns = "processor" if threads == "1" else "wall", report["layers"]["repeats"]
        lines += [
            f"## Latency, {threads} thread(s)",
            "",
            f"Time of `nn.Linear` over time of each form, {clock} clock: median of {turns} turns (quartiles).",
            "More is faster. Where `CsrLinear` is under 1.05, `to_csr` keeps the dense layer.",
            *caveat(clock, report["load"].get(threads, 0.0), report["layers"]["machine"]["cores"]),
            "",
            *table(["layer", "zeros", "rows", "dense", *others], [latency_cells(row, others) for row in rows]),
            "",
        ]
    lines += ["## Files", "", "Of the dense file, and of non-zeros + 1 bit per entry.", ""]
    headings = ["layer", "zeros", "dense", "ours / dense", "ours / bound", f"goal ≤ {GOAL}"]
    lines += table(headings, [file_cells(row) for row in report["files"]])
    lines += ["", "sparselab 0.2.2 has no file that gives a layer back: its state dict holds values without places."]
    lines += ["", "## Peak memory", "", "Layer and five passes of 128 rows, of what the dense layer takes.", ""]
    cells = [
        [*side(row), f"{row['dense'] / 1e6:.1f} MB", *(f"{row[form] / row['dense']:.2f}" for form in others)]
        for row in report["memory"]
    ]
    return lines + table(["layer", "zeros", "dense", *others], cells)


def caveat(clock: str, load: float, cores: int) -> list[str]:
    """What to think of wall times on a machine that other programs use too."""
    if clock == "processor" or load <= cores:
        return []
    text = f"**Not to be relied on**: other programs ran (load average {load:.1f} on {cores} cores), so that threads"
    return ["", text, "waited for each other for longer than they computed. Measure again on a quiet machine."]


def side(row: dict[str, Any]) -> list[str]:
    """Size and zeros of a layer, as cells."""
    return [f"{row['size']}²", f"{row['sparsity']:.0%}"]


def latency_cells(row: dict[str, Any], others: list[str]) -> list[str]:
    """One line of a table of latencies."""
    found = [row["forms"][form] for form in others]
    ratios = [spread([f[key] for key in ("ratio", "quarter", "three_quarters")]) for f in found]
    return [*side(row), str(row["rows"]), f"{row['dense_us']:.0f} µs", *ratios]


def file_cells(row: dict[str, Any]) -> list[str]:
    """One line of the table of files."""
    ours = row["sparse checkpoint"]
    first = [*side(row), f"{row['dense'] / 1e6:.1f} MB"]
    met = verdict(ours, GOAL * row["bound"])
    return [*first, f"{ours / row['dense']:.3f}", f"{ours / row['bound']:.3f}", met]


def trained_cells(row: dict[str, Any]) -> list[str]:
    """One line of the table of trained nets."""
    first = [f"{row['sparsity']:.0%}", row["form"], str(row["batch"])]
    if "failed" in row:
        return [*first, row["failed"], "", "", "", ""]
    sizes = [f"{row['bytes'] / row['dense']:.3f}", f"{row['bytes'] / row['bound']:.3f}"]
    accuracy = " → ".join(f"{share:.2%}" for share in row["accuracy"])
    speedup = "–" if row["speedup"] is None else f"{row['speedup']:.2f}"
    return [*first, *sizes, f"{row['max_difference']:.1e}", accuracy, speedup]


def main() -> None:
    """Measure, write JSON and Markdown, print the tables."""
    parser = make_parser(__doc__, repeats=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides of the square layers")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="numbers of threads, one process each")
    parser.add_argument("--sparselab", default="", help="folder that holds the package sparselab")
    parser.add_argument("--only", choices=("layers", "trained"), help="measure one part, keep the other of a file")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        warnings.filterwarnings("ignore", message=".*beta state.*")
        print(json.dumps(answer(options)))
        return
    report = measure(options)
    publish(options.out / "deploy", report, as_markdown(report))


if __name__ == "__main__":
    main()
