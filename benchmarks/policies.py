"""The policies side by side on real digits: test accuracy at 90% sparsity, paired seeds, untuned.

    python benchmarks/policies.py --task mnist5k --seeds 5

Every run has the task's own settings (``surgecollapse.lab.config.presets``), and nothing is tuned for any policy: this
says whether they work, not which is best (for that, ``surgecollapse compare``). ``none`` is plain dense training.
``classic`` and ``rules`` are the published rule and its adaptive form; ``cycles`` is AC/DC; ``entropy`` is the default.
A run that is there already is not repeated, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from _harness import facts, make_parser, provenance, publish
from rich.progress import Progress

from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.lab.config import make_config, read_config
from surgecollapse.lab.training.flops import mean_density
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

POLICIES = ("none", "acdc", "entropy_cycles", "entropy_thresholds", "fixed_interval")


def measure(task: str, policy: str, seed: int, sparsity: float, work: Path) -> dict[str, Any]:
    """Train, unless it is done; return test accuracy in percent and mean training density."""
    folder = work / f"{task}-{policy}-{seed}"
    if not (folder / "run.db").is_file():
        target = {} if policy == "none" else {"sparsity": sparsity}
        train(make_config(task=task, policy=policy, seed=seed, **target), folder)
    with RunStore(folder / "run.db") as store:
        final, events = store.get("summary"), store.interventions()
    sizes = {layer.name: layer.size for event in events for layer in event.layers}
    density = mean_density(events, sizes, final["steps"])
    origin = provenance(read_config(folder / "config.toml"))
    return {"accuracy": 100 * final["accuracy"], "density": density, "sparsity": final["sparsity"], **origin}


def interval(values: list[float]) -> str:
    """Mean and 95% interval."""
    found = mean_interval(values)
    return f"{found.mean:.2f}" + ("" if found.half is None else f" ± {found.half:.2f}")


def table(found: dict[str, list[dict[str, Any]]], record: dict[str, Any]) -> str:
    """The results as Markdown."""
    plain = [row["accuracy"] for row in found["none"]]
    lines = [
        f"# Policies on {record['task']} at {record['sparsity']:.0%} sparsity",
        "",
        f"`{record['command']}`",
        "",
        f"{record['cores']} cores, 1 thread a run; python {record['python']}, torch {record['torch']}. Test accuracy",
        f"in percent, mean and 95% interval over {record['seeds']} seeds; the difference to plain training is paired.",
        "Nothing is tuned for any policy.",
        "",
        "| policy | accuracy | minus plain | mean density | final sparsity | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for policy, rows in found.items():
        accuracy = [row["accuracy"] for row in rows]
        difference = "–" if policy == "none" else interval([a - b for a, b in zip(accuracy, plain, strict=True)])
        density = statistics.mean(row["density"] for row in rows)
        each = ", ".join(f"{a:.1f}" for a in accuracy)
        sparsity = rows[0]["sparsity"]
        lines.append(f"| {policy} | {interval(accuracy)} | {difference} | {density:.2f} | {sparsity:.1%} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, print and write ``benchmarks/results/policies-TASK.{json,md}``."""
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--task", default="mnist5k")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--work", type=Path, default=Path("runs/policies"), help="where the runs go")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    with Progress() as progress:
        bar = progress.add_task("policies", total=options.seeds * len(POLICIES))
        for seed in range(options.seeds):
            for policy in POLICIES:
                progress.update(bar, description=f"{policy}, seed {seed}")
                found[policy].append(measure(options.task, policy, seed, options.sparsity, options.work))
                progress.advance(bar)
    record = {
        **facts(),
        "task": options.task,
        "sparsity": options.sparsity,
        "seeds": options.seeds,
        "runs": found,
    }
    publish(options.out / f"policies-{options.task}", record, table(found, record))


if __name__ == "__main__":
    main()
