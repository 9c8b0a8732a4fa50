"""Does a study of 1,000 trials stay responsive? Time of a suggestion, of going on with a study, and of its page.

    python benchmarks/long_studies.py

Training is made up, so that what is measured is the search alone: drawing settings, writing the study and showing where
it is. Studies of 10, 100 and 1,000 trials are made, and each sampler goes on for a few trials. Five settings are
searched, one of them a choice. Times are of the processor, on one thread, so that they hold on a busy machine, too;
waiting for the disk is not in them. Written to ``benchmarks/results/long_studies.{json,md}``.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import facts, make_parser, publish, single_thread, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from surgecollapse.tuning.search import Search

SPACE = {
    "lr": "1e-4..1e-1:log", "weight_decay": "1e-3..1.0:log", "dropout": "0.0..0.5", "sparsity": "0.5..0.98",
    "policy": "gmp,rigl",
}  # fmt: skip
SAMPLERS = ("random", "tpe", "cmaes", "gp")
MORE = 4
"""Trials of each sampler; the first one, which loads the sampler, is not counted."""
GOAL_SECONDS = 10.0


class _MadeUp:
    """A pool whose runs take no time; notes how long the search needs for each."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.running: dict[int, Any] = {}
        self.times: list[float] = []

    def __enter__(self) -> _MadeUp:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, cells: Any, stop: Any, look: Any) -> Iterator[Any]:
        """Do these jobs in their order."""
        waiting = list(cells)
        return self.feed(lambda: waiting.pop(0) if waiting else None, stop, look)

    def feed(self, take: Any, stop: Any, look: Any, hear: Any = None) -> Iterator[Any]:
        """Do jobs as they are made."""
        from surgecollapse.compare.pool import Done

        del hear  # there is no pruner
        began = time.process_time()
        while not stop() and (job := take()) is not None:
            self.running = {0: job}
            look()
            sparsity = job.message["config"]["method"].get("sparsity", 0.0)
            row = {"accuracy": 1 - sparsity**8, "test_accuracy": 0.5, "sparsity": sparsity, "seconds": 1.0}
            yield Done(job, row | {"flops": 10.0, "steps": 6, "diverged": False}, None)  # the search keeps the row
            self.times.append(time.process_time() - began)
            began = time.process_time()


def search(folder: Path, sampler: str, trials: int, storage: str | None, pool: _MadeUp, fresh: int = 0) -> Search:
    """A search that goes on with the study in a folder up to so many trials."""
    from surgecollapse.tuning.objectives import choose_objectives
    from surgecollapse.tuning.search import Budget, Search
    from surgecollapse.tuning.settings import RunSpace

    space = RunSpace([{"task": "digits", "steps": 100}], SPACE)
    how: dict[str, Any] = {"sampler": sampler, "storage": storage, "fresh": fresh, "make_pool": lambda *_, **__: pool}
    return Search(space, choose_objectives("accuracy"), folder, budget=Budget(trials=trials), **how)


def fill(folder: Path, storage: str | None, count: int) -> None:
    """Make a study of so many finished trials."""
    import optuna

    from surgecollapse.tuning.storage import counted_trials

    study = search(folder, "random", 1, storage, _MadeUp()).run().study
    domains = search(folder, "random", 1, storage, _MadeUp()).space.distributions
    draws = random.Random(0)
    made = []
    for _ in range(count - len(counted_trials(study))):
        params = {
            name: draws.choice(domain.choices)  # type: ignore[attr-defined]
            if hasattr(domain, "choices")
            else domain.low * (domain.high / domain.low) ** draws.random()  # type: ignore[attr-defined]
            if domain.log  # type: ignore[attr-defined]
            else draws.uniform(domain.low, domain.high)  # type: ignore[attr-defined]
            for name, domain in domains.items()
        }
        used = {name: domain for name, domain in domains.items() if name in params}
        value = 1 - params["sparsity"] ** 8 + draws.gauss(0, 0.02)
        made.append(optuna.create_trial(params=params, distributions=used, value=value, user_attrs={"flops": 1.0}))
    study.add_trials(made)


def measure(size: int, samplers: list[str], database: bool) -> dict[str, Any]:
    """Seconds by what is done with a study of a size, in a journal or in SQLite."""
    from surgecollapse.tuning.page import write_result

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        storage = f"sqlite:///{place}/study.db" if database else None
        fill(folder, storage, size)
        row: dict[str, Any] = {"storage": "SQLite" if database else "journal", "trials": size}
        for number, sampler in enumerate(samplers, 1):
            pool = _MadeUp()
            search(folder, sampler, size + number * MORE, storage, pool).run()
            row[sampler] = statistics.median(pool.times[1:])
        whole = search(folder, "random", 1, storage, _MadeUp(), fresh=2)
        whole.run()
        began = time.process_time()
        outcome = whole.run()  # all is there already
        row["open"] = time.process_time() - began
        write_result(whole, outcome)  # loads what draws
        began = time.process_time()
        write_result(whole, outcome)
        row["page"] = time.process_time() - began
    return row


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def main() -> None:
    """Measure, print and write ``benchmarks/results/long_studies.{json,md}``."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", default="10,100,1000", help="trials of the studies")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    options = parser.parse_args()
    single_thread()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes, samplers = [int(size) for size in options.sizes.split(",")], options.samplers.split(",")
    rows = [measure(size, samplers, database) for database in (False, True) for size in sizes]
    about = facts(optuna=optuna.__version__)
    names = (*samplers, "open", "page")
    worst = max(row[name] for row in rows for name in names)
    cells = [[row["storage"], f"{row['trials']:,}", *(_shown(row[name]) for name in names)] for row in rows]
    lines = ["# Long studies", "", f"`{about['command']}`; Optuna {optuna.__version__}, one thread.", ""]
    lines += ["Processor time of one more trial, by sampler, of opening a study that is complete, and of its page."]
    lines += [f"Goal: at most {GOAL_SECONDS:g} s; {'met' if worst <= GOAL_SECONDS else 'missed'}.", ""]
    lines += table(("study", "trials", *samplers, "opened", "page"), cells)
    publish(options.out / "long_studies", {"facts": about, "goal": GOAL_SECONDS, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
