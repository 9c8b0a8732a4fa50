"""Which form do the soft threshold and its closest rivals want? An equal search, then ten paired test seeds.

    python benchmarks/soft_forms.py search --entry mnist1d-mlp --sparsity 0.9
    python benchmarks/soft_forms.py log --entry mnist1d-mlp --sparsity 0.9       # the search, one line a trial
    python benchmarks/soft_forms.py test --entry mnist1d-mlp --sparsity 0.9
    python benchmarks/soft_forms.py table --entry mnist1d-mlp --sparsity 0.9     # with paired differences
    python benchmarks/soft_forms.py summary                                      # all networks and sparsities

The *search* looks at validation accuracy alone, on seeds that no table uses. Every method has eight forms (exponent,
end of the ramp, number of cycles, allocation, dropout) on one seed; the best two get two seeds more, and the best mean
of three is the method's tuned form. Rows go to ``results/soft_forms/rows.jsonl``.

The *test* trains the tuned forms, the untuned default and the controls on the seeds 0 to 9. Its rows are those of
``surgecollapse compare``, in ``results/compare/soft-ENTRY-SPARSITY``. A run that is there is not repeated: the same
command goes on where it stopped. Images need ``--data-dir``.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from _harness import RESULTS, command, make_parser, single_thread, table

single_thread()

from sparsity_records import Runs, read  # noqa: E402

from surgecollapse.compare.comparison import Comparison  # noqa: E402
from surgecollapse.compare.methods import METHODS, Method  # noqa: E402
from surgecollapse.compare.methods.trials import EVEN, GLOBAL, LAMP  # noqa: E402
from surgecollapse.compare.paired_statistics import mean_interval  # noqa: E402
from surgecollapse.compare.plan import Cell, Plan, identity, make_cell, merged  # noqa: E402
from surgecollapse.compare.rows import Rows, only_writer  # noqa: E402
from surgecollapse.compare.suites import SUITES, Entry  # noqa: E402
from surgecollapse.compare.worker import train_cell  # noqa: E402
from surgecollapse.lab.config import as_mapping  # noqa: E402

FOLDER = RESULTS / "soft_forms"
FIRST_SEED, SEEDS, BEST = 20_000, 3, 2
ERK = {"allocation": "erk", "saliency": "magnitude"}
Settings = Mapping[str, Any]


def _form(how: Settings, dropout: float = 0.1, **options: Any) -> Settings:
    return {"dropout": dropout, **how, "policy_options": options}


FORMS: dict[str, tuple[Settings, ...]] = {
    "soft_threshold": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(ERK),
        _form(EVEN, p=3.0),
        _form(LAMP, p=3.0),
        _form(EVEN, 0.2),
        _form(EVEN, end_at=0.75, freeze_at=0.9),
    ),
    "gmp": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(ERK),
        _form(EVEN, 0.2),
        _form(EVEN, 0.2, end_at=0.5),
        _form(EVEN, 0.2, end_at=0.9),
        _form(EVEN, start_at=0.0, end_at=0.5),
    ),
    "cyclical_pruning": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(EVEN, 0.2),
        _form(EVEN, cycles=2),
        _form(EVEN, cycles=8),
        _form(EVEN, prune_fraction=0.5),
        _form(LAMP, cycles=2),
    ),
    "st3": (
        _form(EVEN, threshold_every=10),
        _form(LAMP, threshold_every=10),
        _form(GLOBAL, threshold_every=10),
        _form(ERK, threshold_every=10),
        _form(EVEN, 0.2, threshold_every=10),
        _form(EVEN, 0.05, threshold_every=10),
        _form(EVEN, threshold_every=10, end_at=0.75),
        _form(EVEN, threshold_every=10, start_at=0.0),
    ),
    "small_dense": tuple({"lr": lr, "dropout": rate} for lr in (3e-3, 1e-2, 2e-2, 3e-2) for rate in (0.0, 0.05)),
}
"""The trials of the search. ST-3 takes masks anew every ten steps, like the soft threshold, not in every step."""


def _grown(dropout: float, allocation: str = "layer", **options: Any) -> Settings:
    return {"dropout": dropout, "policy_options": {"allocation": allocation, **options}}


EARLY: dict[str, tuple[Settings, ...]] = {
    "soft_threshold": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.3),
        _form(EVEN, 0.2, end_at=0.1),
        _form(EVEN, 0.3, end_at=0.1),
    ),
    "set": (_grown(0.2), _grown(0.3), _grown(0.1), _grown(0.2, drop_fraction=0.5)),
    "gmp": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.3),
        _form(EVEN, 0.2, start_at=0.0, end_at=0.1),
        _form(EVEN, 0.3, start_at=0.0, end_at=0.1),
    ),
    "cyclic_pruning": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.3),
        _form(EVEN, 0.2, dense_until=0.01),
        _form(EVEN, 0.3, dense_until=0.01),
    ),
}
"""The trials of one question: is it *early* sparsity that puts SET ahead at 80% on the MLP of MNIST-1D?"""
SETS = {"forms": FORMS, "early": EARLY}


# --- Search -----------------------------------------------------------------------------------------------------------


class Search:
    """The search on one net at one sparsity, as far as its rows go."""

    def __init__(
        self, entry: Entry, sparsity: float, data_dir: Path | None, forms: Mapping[str, tuple[Settings, ...]] = FORMS
    ) -> None:
        self.entry, self.sparsity, self.data_dir, self.forms = entry, sparsity, data_dir, forms
        self.rows = Rows(FOLDER)

    def cell(self, method: str, trial: int, number: int) -> Cell:
        """One run: a form on one of the seeds."""
        form, seed = self.forms[method][trial], FIRST_SEED + number
        return make_cell(self.entry, METHODS[method], self.sparsity, seed, form, trial=trial, data_dir=self.data_dir)

    def accuracies(self, method: str, trial: int) -> list[float]:
        """Validation accuracies in percent, seed by seed."""
        cells = [self.cell(method, trial, number) for number in range(SEEDS)]
        return [100 * row["accuracy_validation"] for at in cells if (row := self.rows.get(at.key)) is not None]

    def ranked(self, method: str) -> list[int]:
        """The trials that have a row, best first seed first."""
        there = [trial for trial in range(len(self.forms[method])) if self.accuracies(method, trial)]
        return sorted(there, key=lambda trial: -self.accuracies(method, trial)[0])

    def chosen(self, method: str) -> Settings:
        """The form with the best mean among those that all seeds have tried."""
        full = [trial for trial in self.ranked(method) if len(self.accuracies(method, trial)) == SEEDS]
        if not full:
            raise SystemExit(f"{method} on {self.entry.label} has not been searched: run `search` first")
        return self.forms[method][max(full, key=lambda trial: statistics.fmean(self.accuracies(method, trial)))]

    def run(self, methods: Sequence[str]) -> None:
        """Train what is missing."""
        with only_writer(FOLDER), tempfile.TemporaryDirectory() as scratch:
            for method in methods:
                for trial in range(len(self.forms[method])):
                    self._train(method, trial, 0, Path(scratch))
                for trial in islice(self.ranked(method), BEST):
                    for i in range(1, SEEDS):
                        self._train(method, trial, i, Path(scratch))

    def _train(self, method: str, trial: int, number: int, scratch: Path) -> None:
        at = self.cell(method, trial, number)
        if at.key in self.rows:
            return
        row = train_cell(at.message, scratch)
        if row is None:
            raise SystemExit("stopped: the same command goes on")
        self.rows.append({**at.facts, **row, "wall": row["seconds"], "config": identity(as_mapping(at.config))})
        print(f"{at.name}, seed {at.seed}: {100 * row['accuracy_validation']:.2f}", flush=True)

    def lines(self) -> list[str]:
        """The log: one line a trial."""
        lines = []
        for method in self.forms:
            for trial in self.ranked(method):
                values = self.accuracies(method, trial)
                mean = f"{statistics.fmean(values):.2f}" if len(values) == SEEDS else "–"
                each = ", ".join(f"{value:.2f}" for value in values)
                place = f"{self.entry.label}, {self.sparsity:g}"
                lines.append([place, method, _words(self.forms[method][trial]), each, mean])
        return table(["net, sparsity", "method", "form", "validation accuracy by seed, %", "mean"], lines)


def _words(settings: Settings) -> str:
    """A form in a few words."""
    options = ", ".join(f"{name}={value:g}" for name, value in settings.get("policy_options", {}).items())
    how = {"layer": "even", "erk": "ERK", "global": "global"}.get(settings.get("allocation", ""), "")
    how = "LAMP" if settings.get("saliency") == "lamp" else how
    rate = f"lr {settings['lr']:g}" if "lr" in settings else ""
    return ", ".join(part for part in (how, rate, f"dropout {settings['dropout']:g}", options) if part)


# --- Test -------------------------------------------------------------------------------------------------------------

DEFAULT: Settings = _form(GLOBAL)
"""The untuned default, one setting for all nets. It was frozen before any test figure of a soft threshold was seen."""
CONTROLS: dict[str, Settings] = {
    "cyclic_pruning": {"dropout": 0.1, **EVEN, "policy_options": {"floor": 0.6}},
    "rigl": {"dropout": 0.1, "policy_options": {"allocation": "layer"}},
    "dropout": {"dropout": 0.35},
}
"""What the tuning of version 0.1 chose on the MLP of MNIST-1D, over eight trials of each."""
TITLES = {
    "soft_threshold": "soft threshold, untuned",
    "soft_threshold_tuned": "soft threshold, tuned",
    "soft_threshold_entropy": "soft threshold, entropy loop",
}
TESTED = ("soft_threshold", "soft_threshold_tuned", "soft_threshold_entropy", *list(FORMS)[1:], *CONTROLS)


def tested(name: str, search: Search) -> Method:
    """A method with the one setting that it is tested with."""
    base = METHODS.get(name, METHODS["soft_threshold"])
    if name == "soft_threshold":
        settings = DEFAULT
    elif name == "soft_threshold_tuned":
        settings = search.chosen("soft_threshold")
    elif name == "soft_threshold_entropy":
        settings = {**DEFAULT, "policy": name}
    else:
        settings = CONTROLS[name] if name in CONTROLS else search.chosen(name)
    return replace(
        base, name=name, title=TITLES.get(name, base.title), settings=merged(base.settings, settings), trials=()
    )


def test(search: Search, names: Sequence[str], seeds: int) -> None:
    """Train what is missing of the test, and print the table."""
    entry = search.entry
    plan = Plan(
        suite=next(suite for suite in SUITES.values() if entry in suite.entries),
        entries=(entry,),
        methods=tuple(tested(name, search) for name in names),
        sparsities=(search.sparsity,),
        seeds=seeds,
        budget="none",
        data_dir=search.data_dir,
    )
    folder = RESULTS / "compare" / f"soft-{entry.label}-{search.sparsity:g}"
    Comparison(plan, folder, jobs=1, reference=names[0], command=command()).run()
    print((folder / "table.md").read_text(encoding="utf-8"))


def found(entry: str, sparsity: float) -> dict[str, Runs]:
    """The test runs of one network at one sparsity, by method: of several folders, the newest."""
    newest: dict[str, Runs] = {}
    for folder in sorted((RESULTS / "compare").iterdir()):
        every = read(folder, dense_at=sparsity) if (folder / "table.csv").is_file() else []
        for one in every:
            newer = one.method not in newest or one.began > newest[one.method].began
            if (one.entry, one.sparsity) == (entry, sparsity) and one.method in {*METHODS, *TESTED} and newer:
                newest[one.method] = one
    return newest


def _minus(mine: Runs, theirs: Runs) -> str:
    """Mean paired difference over common seeds."""
    common = [mine.accuracies[seed] - value for seed, value in theirs.accuracies.items() if seed in mine.accuracies]
    return _interval(common, signed=True)


def paired(entry: str, sparsity: float) -> list[str]:
    """Mean test accuracies with 95% intervals, and those of the soft thresholds minus it over common seeds."""
    runs_of = found(entry, sparsity)
    ours = [name for name in ("soft_threshold", "soft_threshold_tuned") if name in runs_of]
    lines = []
    for name, runs in sorted(runs_of.items(), key=lambda item: -item[1].accuracy):
        minus = ["" if name == own else _minus(runs_of[own], runs) for own in ours]
        mean = _interval(list(runs.accuracies.values()))
        cost = [f"{runs.mean('mean_density'):.3f}", f"{runs.flops:.3f}"]
        lines.append([TITLES.get(name, runs.title), mean, *minus, *cost, str(len(runs.accuracies)), runs.version])
    minus = [f"{TITLES[name].removeprefix('soft threshold, ')} minus it" for name in ours]
    return table(["method", "test accuracy, %", *minus, "mean density", "FLOPs", "n", "version"], lines)


def summary() -> list[str]:
    """One line for each network and sparsity that a soft threshold was tested on."""
    lines = []
    for entry in {entry.label: entry for suite in SUITES.values() for entry in suite.entries}.values():
        for sparsity in entry.sparsities:
            runs_of = found(entry.label, sparsity)
            mine = runs_of.get("soft_threshold")
            if mine is None:
                continue
            rivals = [name for name in runs_of if name not in TITLES and runs_of[name].mean("mean_density") < 1]
            rival = runs_of[max(rivals, key=lambda name: runs_of[name].accuracy)]
            dense, tuned = runs_of.get("dropout"), runs_of.get("soft_threshold_tuned")
            lines.append(
                [
                    entry.title,
                    f"{sparsity:.0%}",
                    _interval(list(mine.accuracies.values())),
                    rival.title,
                    _minus(mine, rival),
                    _minus(mine, dense) if dense else "–",
                    _minus(tuned, rival) if tuned else "–",
                    str(len(mine.accuracies)),
                ]
            )
    heads = ["task", "sparsity", "untuned, %", "best sparse rival", "untuned minus it"]
    return table([*heads, "untuned minus dense + dropout", "tuned minus the rival", "n"], lines)


def _interval(values: Sequence[float], *, signed: bool = False) -> str:
    if not values:
        return "–"
    found = mean_interval(values)
    return f"{found.mean:{'+' if signed else ''}.2f}" + ("" if found.half is None else f" ± {found.half:.2f}")


def main() -> None:
    """Search, log, test or compare, as far as it has not been done."""
    entries = {entry.label: entry for suite in SUITES.values() for entry in suite.entries}
    parser = make_parser(__doc__, out=None, seeds=10)
    parser.add_argument("stage", choices=["search", "log", "test", "table", "summary"])
    parser.add_argument("--entry", choices=entries, default="mnist1d-mlp")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--methods", nargs="*", choices=dict.fromkeys([*FORMS, *EARLY, *TESTED]), help="default: all")
    parser.add_argument("--set", choices=SETS, default="forms", help="which trials the search takes")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    search = Search(entries[given.entry], given.sparsity, given.data_dir, SETS[given.set])
    if given.stage == "search":
        search.run(given.methods or list(search.forms))
    elif given.stage == "test":
        test(search, given.methods or TESTED, given.seeds)
    elif given.stage == "summary":
        print("\n".join(summary()))
    elif given.stage == "table":
        print("\n".join(paired(given.entry, given.sparsity)))
    else:
        print("\n".join(search.lines()))


if __name__ == "__main__":
    main()
