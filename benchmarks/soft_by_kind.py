"""Is the soft threshold the best sparse method once its form follows the kind of network? On seeds of no other table.

    python benchmarks/soft_by_kind.py --entry mnist1d-mlp mnist-mlp --data-dir DATA    # train what is missing
    python benchmarks/soft_by_kind.py --table

The untuned form of ``soft_forms.py`` is one setting for all networks. Here there are two, frozen in ``BY_KIND`` before
the seeds from 10 on were run: one for networks with convolutions, one for all others. Rivals are the sparse methods
that have test rows of a task, with the settings of those rows, best first; beside them stands dense training with tuned
dropout. All train on the seeds 10 to 19. A finished run is a row of ``results/soft_forms/by_kind.jsonl``, and is never
repeated.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _harness import RESULTS, append_row, make_parser, read_rows, single_thread, table

single_thread()

from _soft_trials import BY_KIND, kind  # noqa: E402
from soft_forms import ENTRIES, found, in_words  # noqa: E402
from sparsity_records import Runs, configuration  # noqa: E402

from surgecollapse import __version__  # noqa: E402
from surgecollapse.compare.methods import METHODS  # noqa: E402
from surgecollapse.compare.plan import identity, make_cell  # noqa: E402
from surgecollapse.compare.worker import train_cell  # noqa: E402
from surgecollapse.lab.config import as_mapping, make_config  # noqa: E402
from surgecollapse.lab.config.keys import unfit  # noqa: E402

ROWS = RESULTS / "soft_forms" / "by_kind.jsonl"
OWN, DENSE = "soft_threshold", "dropout"
FIRST, SEEDS, RIVALS = 10, 10, 4
TASKS = (
    "mnist1d-mlp",
    "mnist1d-cnn",
    "mnist1d-mlp-noise",
    "mnist1d-cnn-noise",
    "mnist-mlp",
    "mnist-cnn",
    "fashion-cnn",
    "kjv-gpt",
    "imdb-lstm",
)


def rivals(entry: str, sparsity: float, count: int = RIVALS) -> list[Runs]:
    """The best sparse methods of the landed tables, and dense training with dropout."""
    here = {name: runs for name, runs in found(entry, sparsity).items() if name in METHODS and name != OWN}
    sparse = sorted((name for name in here if METHODS[name].sparse), key=lambda name: -here[name].accuracy)
    return [here[name] for name in (*sparse[:count], *([DENSE] if DENSE in here else []))]


def configurations(
    entry: str, sparsity: float, seed: int, data_dir: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Methods and keys of their runs with one seed."""
    settings = BY_KIND[kind(ENTRIES[entry].settings)]
    useless = unfit({**ENTRIES[entry].settings, **settings})
    form = {key: value for key, value in settings.items() if key not in useless}
    yield OWN, make_cell(ENTRIES[entry], METHODS[OWN], sparsity, seed, form, data_dir=data_dir).message
    for runs in rivals(entry, sparsity):
        yield runs.method, configuration(runs, seed, data_dir)


def run(entries: Sequence[str], sparsity: float, seeds: range, data_dir: Path | None, out: Path) -> None:
    """Train what has no row yet, seed by seed."""
    done = {(row["entry"], row["sparsity"], row["method"], row["seed"]) for row in read_rows(out)}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            for entry in entries:
                for method, values in configurations(entry, sparsity, seed, data_dir):
                    if (entry, sparsity, method, seed) in done:
                        continue
                    new = train_cell(values, Path(scratch))
                    if new is None:
                        raise SystemExit("stopped: the same command goes on")
                    row = {"entry": entry, "sparsity": sparsity, "method": method, "seed": seed, **new}
                    config = identity(as_mapping(make_config(**values)))
                    append_row(out, {**row, "version": __version__, "config": config})
                    print(f"{entry}, {sparsity:.0%}, {method}, seed {seed}: {100 * new['accuracy']:.2f}", flush=True)


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Accuracy of each method by task and sparsity, and the soft threshold minus it over common seeds."""
    by: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
    for row in rows:
        task = by.setdefault((row["entry"], row["sparsity"]), {})
        task.setdefault(row["method"], {})[row["seed"]] = 100 * row["accuracy"]
    told = []
    for (entry, sparsity), methods in by.items():
        own = methods.get(OWN, {})
        for method, values in sorted(methods.items(), key=lambda item: -statistics.fmean(item[1].values())):
            common = [own[seed] - value for seed, value in values.items() if seed in own]
            minus = "" if method == OWN else in_words(common, signed=True)
            mean = in_words(list(values.values()))
            told.append([ENTRIES[entry].title, f"{sparsity:.0%}", METHODS[method].title, mean, minus, str(len(values))])
    return table(["task", "sparsity", "method", "test accuracy, %", "soft threshold minus it", "n"], told)


def main() -> int:
    """Train, or print the table."""
    parser = make_parser(__doc__, out=ROWS, seeds=SEEDS)
    parser.add_argument("--entry", nargs="*", choices=list(ENTRIES), default=list(TASKS), help="default: all tasks")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--first-seed", type=int, default=FIRST, help="at least 10: those below are in other tables")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--table", action="store_true", help="print what is landed")
    given = parser.parse_args()
    if given.first_seed < FIRST:
        parser.error(f"--first-seed must be at least {FIRST}, got {given.first_seed}")
    if given.table:
        print("\n".join(lines(read_rows(given.out))))
        return 0
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    run(given.entry, given.sparsity, seeds, given.data_dir, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
