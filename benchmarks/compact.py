"""What compaction is worth on trained nets: how many units die, and size and latency without them.

    python benchmarks/compact.py

Nets for the 8×8 digits of scikit-learn, trained here by ``surgecollapse.lab.training.run.train`` with the policy
``entropy``: single weights at 90 and 98%, where a unit dies only if all its weights happen to, and ``pattern="unit"``
at 90%, where whole units are collapsed. Latency is that of the dense trained net over the smaller one, timed in turn on
one thread. The outputs must agree to float rounding, or compaction refuses. Under three minutes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _harness import facts, make_parser, provenance, publish, single_thread, spread, table
from torch import Tensor, nn

from surgecollapse.export import compact_model
from surgecollapse.export.measure import interleaved_ratios
from surgecollapse.lab.config import make_config
from surgecollapse.lab.training.evaluation import load_checkpointed_run
from surgecollapse.lab.training.run import train

CASES: tuple[tuple[str, float, str | None], ...] = (
    ("mlp", 0.9, None),
    ("mlp", 0.98, None),
    ("mlp", 0.9, "unit"),
    ("cnn", 0.9, None),
    ("cnn", 0.98, None),
    ("cnn", 0.9, "unit"),
)
ROWS = (1, 128)


def measure(model: str, sparsity: float, pattern: str | None, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train one net, compact it, and time both."""
    given = {} if pattern is None else {"pattern": pattern}
    config = make_config(task="digits", model=model, sparsity=sparsity, steps=steps, seed=seed, **given)
    summary = train(config, folder).summary
    run = load_checkpointed_run(folder)
    run.store.close()
    x = run.data.x_validation
    result = compact_model(run.model, x[: max(ROWS)])
    aligned = compact_model(run.model, x[: max(ROWS)], multiple_of=16)
    with torch.inference_mode():
        latency, rounded = (
            {rows: ratios(run.model, smaller.model, x[:rows]) for rows in ROWS} for smaller in (result, aligned)
        )
    return {
        "model": model,
        "sparsity": sparsity,
        "pattern": pattern,
        **provenance(config),
        "accuracy": summary["accuracy"],
        "layers": {layer.name: layer.units for layer in result.layers},
        "parameters": result.parameters,
        "multiplications": result.multiplications,
        "bytes": result.bytes,
        "max_difference": result.max_difference,
        "latency": latency,
        "latency_multiple_of_16": rounded,
    }


def ratios(before: nn.Module, after: nn.Module, x: Tensor) -> list[float]:
    """Seconds before over after: quartiles."""
    return quartiles(interleaved_ratios(lambda: before(x), lambda: after(x), 51))


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile."""
    return [round(value, 3) for value in statistics.quantiles(values, n=4)]


def as_markdown(record: dict[str, Any]) -> str:
    """The results as a page."""
    head = ["model", "sparsity", "pattern", "test accuracy", "hidden units", "parameters", "multiplications", "bytes"]
    head += ["latency, batch 1", "batch 128", "largest difference", "batch 128, multiple of 16"]
    lines = [
        "# Compaction of trained nets",
        "",
        f"`{record['command']}`: {record['steps']:,} steps on the digits, seed {record['seed']};",
        f"Python {record['python']}, torch {record['torch']}, one thread of {record['cores']} cores, "
        f"{record['seconds']:.0f} s.",
        "Sizes are of the smaller net over the trained one. Latency is of the trained net over the smaller one: median",
        "and quartiles; above 1, the smaller net is faster; the last is with `multiple_of=16`.",
        "",
    ]
    rows = []
    for run in record["runs"]:
        hidden = list(run["layers"].values())[:-1]
        before, after = (sum(pair[side] for pair in hidden) for side in (0, 1))
        ratios = [f"{new / old:.2f}" for old, new in (run[key] for key in ("parameters", "multiplications", "bytes"))]
        timed = [*run["latency"].values(), run["latency_multiple_of_16"][ROWS[-1]]]
        *times, aligned = [spread((median, low, high)) for low, median, high in timed]
        cells = [run["model"], f"{run['sparsity']:.0%}", run["pattern"] or "–", f"{run['accuracy']:.1%}"]
        rows.append([*cells, f"{before} → {after}", *ratios, *times, f"{run['max_difference']:.1e}", aligned])
    return "\n".join([*lines, *table(head, rows)])


def main() -> None:
    """Measure all cases, print and write ``benchmarks/results/compact.{json,md}``."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    single_thread()
    start, runs = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            runs.append(measure(*case, options.steps, options.seed, Path(folder) / str(number)))
    record = {
        **facts(),
        "steps": options.steps,
        "seed": options.seed,
        "seconds": time.monotonic() - start,
        "runs": runs,
    }
    publish(options.out / "compact", record, as_markdown(record))


if __name__ == "__main__":
    main()
