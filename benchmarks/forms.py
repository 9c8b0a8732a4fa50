"""Which learning rate do the nets of the suite ``full`` want, and how many waves? On validation data alone.

    python benchmarks/forms.py --data-dir DATA --methods gmp surge-collapse --rates .003 .01 .02 --seeds 1
    python benchmarks/forms.py --data-dir DATA    # at the suite's rates: 70 runs, an hour on one core

Gradual pruning and forms of surge-collapse at the sparsity of tuning, on the tuning seed and those after it, which no
report uses. A net's rate is the one with the best mean over gradual pruning and surge-collapse. A finished run is a
row in ``forms/rows.jsonl``, in the form of ``surgecollapse compare``, and is not repeated; tables are beside it.
"""

from __future__ import annotations

import shlex
import statistics
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from _harness import RESULTS, make_parser
from rich.console import Console
from rich.progress import Progress

from surgecollapse.compare.methods import METHODS
from surgecollapse.compare.plan import TUNING_SEED, Cell, identity, make_cell, merged
from surgecollapse.compare.pool import Pool
from surgecollapse.compare.rows import Rows, only_writer
from surgecollapse.compare.suites import SUITES, Entry
from surgecollapse.lab.config import as_mapping
from surgecollapse.record.machine import cores

_COMMON = {"dropout": 0.05, "allocation": "global", "saliency": "lamp"}
_TARGET = {"floor": 0.0, "min_density_ratio": 1.0}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "gmp": ("gmp", {}),
    "surge-collapse": ("cyclic_pruning", {"policy_options": _TARGET}),
    "three waves": ("cyclic_pruning", {"policy_options": {**_TARGET, "cycles": 3}}),
    "two waves": ("cyclic_pruning", {"policy_options": {**_TARGET, "cycles": 2}}),
    "two waves, early": ("cyclic_pruning", {"policy_options": {**_TARGET, "cycles": 2, "last_cycle_start": 0.3}}),
    "one wave": ("cyclic_pruning", {"policy_options": {**_TARGET, "cycles": 1}}),
    "small surges": ("cyclic_pruning", {"policy_options": {**_TARGET, "surge": 0.1}}),
}
"""Methods with one setting each, none deeper than the target."""


def cell(entry: Entry, form: str, rate: float | None, seed: int, data_dir: Path | None) -> Cell:
    """One run."""
    method, own = FORMS[form]
    at = entry if rate is None else replace(entry, settings={**entry.settings, "lr": rate})
    settings = merged(_COMMON, own)
    return make_cell(at, METHODS[method], entry.tuned_at, seed, settings, trial=0, data_dir=data_dir)


def table(found: dict[tuple[str, str, float | None, int], float], titles: dict[float | None, str]) -> str:
    """Mean validation accuracy over seeds: a line for each net and form, a column for each rate."""
    lines = ["| net | form | " + " | ".join(titles.values()) + " |", "|---" * (2 + len(titles)) + "|"]
    for net, form in dict.fromkeys((net, form) for net, form, _, _ in found):
        cells = []
        for rate in titles:
            values = [100 * value for where, value in found.items() if where[:3] == (net, form, rate)]
            cells.append(f"{statistics.mean(values):.2f}" if values else "–")
        lines.append(f"| {net} | {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing; write rows, print the table."""
    known = {entry.label: entry for entry in SUITES["full"].entries}
    parser = make_parser(__doc__, out=RESULTS / "forms", seeds=2)
    parser.add_argument("--entries", nargs="*", choices=known, default=list(known))
    parser.add_argument("--methods", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rates", nargs="*", type=float, help="default: the suite's")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--jobs", type=int, default=cores())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    titles = {rate: f"{rate:g}" for rate in sorted(given.rates)} if given.rates else {None: "validation accuracy, %"}
    seeds = range(TUNING_SEED, TUNING_SEED + given.seeds)
    jobs = {
        (label, form, rate, seed): cell(known[label], form, rate, seed, given.data_dir)
        for seed, label, form, rate in product(seeds, given.entries, given.methods, titles)
    }
    with only_writer(given.out), Progress(console=Console(stderr=True)) as progress, Pool(given.jobs) as pool:
        rows = Rows(given.out)
        missing = [wanted for wanted in jobs.values() if wanted.key not in rows]
        bar = progress.add_task("Training", total=len(missing))
        for done in pool.run(missing, lambda: False, progress.refresh):
            if done.row is None:
                raise SystemExit(f"{done.cell.name}: {done.error}")
            config = identity(as_mapping(done.cell.config))
            rows.append({**done.cell.facts, **done.row, "wall": done.row["seconds"], "config": config})
            progress.advance(bar)
    found = {where: row["accuracy_validation"] for where, at in jobs.items() if (row := rows.get(at.key))}
    flags = f" --rates {' '.join(titles.values())}" if given.rates else ""
    nets = f" --entries {' '.join(given.entries)} --methods {shlex.join(given.methods)}"
    command = f"python benchmarks/forms.py --data-dir DATA{nets}{flags} --seeds {given.seeds}"
    text = f"`{command}`\n\nValidation accuracy in percent, mean over seeds.\n\n{table(found, titles)}\n"
    (given.out / f"{'rates' if given.rates else 'forms'}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
