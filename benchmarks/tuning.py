"""Does tuning pay? The untuned settings, random search and TPE, at the same number of trials.

    python benchmarks/tuning.py

TPE draws its first ten trials at random, so that fewer than that would compare nothing. A search trains in this
process, on one thread. For each task and seed, both searches have as many trials on the same data, and see training and
validation data alone. What each found, and the settings as they are, are then trained on two seeds that no trial had,
and tested. A seed of the study is the seed of the split, of the nets and of the sampler. Rows go to
``results/tuning.jsonl``; what is there already is not run again. Ranges are the library's own
(``surgecollapse/tuning/priors.toml``).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from _harness import append_row, facts, make_parser, publish, read_rows, single_thread, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SPACES = {
    "rates": ("lr", "weight_decay", "dropout"),
    "method": ("policy.surge", "policy.floor", "policy.cycles", "min_density"),
    "thresholds": ("policy.collapse", "policy.reopen", "policy.noise_energy_budget", "policy.plateau"),
}
"""What is searched. ``thresholds`` is of the policy ``entropy_thresholds``, the others of the default policy."""
FRESH = 2


class _Here:
    """A pool without processes: the runs are short, and starting one costs as much as several of them.

    The two searches of a seed share their first draws, and the untuned settings. Equal runs are trained once.
    """

    trained: ClassVar[dict[str, Any]] = {}

    def __init__(self, *_: Any, **__: Any) -> None:
        self.running: dict[int, Any] = {}
        self._scratch = tempfile.TemporaryDirectory()

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def run(self, cells: Sequence[Any], stop: Callable[[], bool], look: Callable[[], None]) -> Iterator[Any]:
        """Do these jobs in their order."""
        waiting = list(cells)
        return self.feed(lambda: waiting.pop(0) if waiting else None, stop, look)

    def feed(self, take: Any, stop: Any, look: Any, hear: Any = None) -> Iterator[Any]:
        """Do jobs as they are made; an error of one that Optuna is to know of is its result."""
        from surgecollapse.compare.pool import Done
        from surgecollapse.tuning.worker import train_run

        del hear  # there is no pruner
        while not stop() and (job := take()) is not None:
            look()
            try:
                if job.key not in self.trained:
                    self.trained[job.key] = train_run(job.message, Path(self._scratch.name))
                yield Done(job, self.trained[job.key], None)
            except (ValueError, RuntimeError, MemoryError) as error:
                yield Done(job, None, str(error))


def search(task: str, space: str, sampler: str, seed: int, options: Any) -> list[dict[str, Any]]:
    """One search, and its rows: of the untuned settings and of the best."""
    import optuna

    from surgecollapse.tuning.objectives import choose_objectives
    from surgecollapse.tuning.pictures import importances
    from surgecollapse.tuning.priors import prior
    from surgecollapse.tuning.search import Budget, Search
    from surgecollapse.tuning.settings import RunSpace

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base: dict[str, Any] = {"task": task, "steps": options.steps, "seed": seed, "sparsity": options.sparsity}
    base["every"] = max(1, options.steps // 20)
    if space == "thresholds":
        base["policy"] = "entropy_thresholds"
    domains = {name: prior(name) for name in SPACES[space]}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        space_of_runs, budget = RunSpace([base], domains), Budget(trials=options.trials)
        how: dict[str, Any] = {"budget": budget, "fresh": FRESH, "sampler": sampler, "seed": seed}
        how["make_pool"] = _Here
        made = Search(space_of_runs, choose_objectives("accuracy"), Path(folder), **how)
        outcome = made.run()
        for finalist in outcome.finalists:
            tests = [row["test_accuracy"] for row in finalist.rows]
            found.append(
                {
                    "task": task, "space": space, "sampler": sampler if finalist.number is not None else "default",
                    "seed": seed, "trials": options.trials, "steps": options.steps, "sparsity": options.sparsity,
                    "test_accuracy": statistics.fmean(tests), "params": dict(finalist.params),
                    "validation_best": outcome.study.best_value if finalist.number is not None else None,
                    "importances": importances(outcome.study, made.space.distributions, 0),
                }
            )  # fmt: skip
    return found


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each task and space: mean test accuracy, and paired differences from the untuned settings."""
    from surgecollapse.compare.paired_statistics import mean_interval
    from surgecollapse.compare.table import plus_minus

    cells = []
    for task, space, trials, steps in dict.fromkeys((r["task"], r["space"], r["trials"], r["steps"]) for r in rows):
        own = [r for r in rows if (r["task"], r["space"], r["trials"], r["steps"]) == (task, space, trials, steps)]
        by = {name: {r["seed"]: 100 * r["test_accuracy"] for r in own if r["sampler"] == name}
              for name in ("default", "random", "tpe")}  # fmt: skip
        seeds = sorted(set.intersection(*(set(values) for values in by.values())))
        if not seeds:
            continue

        def minus(one: str, other: str, by: Any = by, seeds: Any = seeds) -> str:
            return plus_minus(mean_interval([by[one][seed] - by[other][seed] for seed in seeds]), sign=True)

        means = [f"{statistics.fmean(by[name][seed] for seed in seeds):.2f}" for name in by]
        cells.append([task, space, str(trials), str(steps), str(len(seeds)), *means, minus("tpe", "default"),
                      minus("tpe", "random")])  # fmt: skip
    heads = ("task", "space", "trials", "steps", "seeds", "untuned", "random", "TPE", "TPE − untuned", "TPE − random")
    return table(heads, cells)


def mattered(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Mean share of the variance that each setting explains, by task and space."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for name, share in row["importances"].items() if row["sampler"] != "default" else ():
            found.setdefault((row["task"], row["space"], name), []).append(share)
    cells = [[*key, f"{statistics.fmean(shares):.2f}", str(len(shares))] for key, shares in found.items()]
    return table(("task", "space", "setting", "share of variance", "searches"), cells)


def main() -> None:
    """Run what is missing and write the table."""
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--tasks", default="digits,mnist1d,dummy", help="comma-separated")
    parser.add_argument("--spaces", default="rates", help=f"comma-separated: {', '.join(SPACES)}")
    parser.add_argument("--trials", type=int, default=15, help="of each search")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of each run")
    options = parser.parse_args()
    single_thread()
    file = options.out / "tuning.jsonl"
    keys = ("task", "space", "sampler", "seed", "trials", "steps", "sparsity")
    there = {tuple(row[key] for key in keys) for row in read_rows(file)}
    for seed in range(options.seeds):
        for task in options.tasks.split(","):
            for space in options.spaces.split(","):
                for sampler in ("random", "tpe"):
                    if (task, space, sampler, seed, options.trials, options.steps, options.sparsity) in there:
                        continue
                    for row in search(task, space, sampler, seed, options):
                        # Both searches train the untuned settings; the rows are the same.
                        if row["sampler"] != "default" or sampler == "random":
                            append_row(file, json.loads(json.dumps(row)))
    rows = read_rows(file)
    text = ["# Does tuning pay?", "", *(__doc__ or "").splitlines()[4:], ""]
    text += ["Test accuracy in percent, mean over the seeds of the study. Differences are paired, with Student's 95%"]
    text += ["interval.", "", *lines(rows)]
    text += ["", "What mattered (fANOVA, where a search has ten complete trials):", "", *mattered(rows)]
    publish(options.out / "tuning", facts(rows=len(rows)), "\n".join(text))


if __name__ == "__main__":
    main()
