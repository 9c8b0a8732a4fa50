"""Which form do the soft threshold and its closest rivals want? An equal search, then ten paired test seeds.

    python benchmarks/soft_forms.py suite --plan                                 # what is missing, and what it costs
    python benchmarks/soft_forms.py suite --data-dir DATA                        # all of it, in the order of worth
    python benchmarks/soft_forms.py search --entry mnist1d-mlp --sparsity 0.9
    python benchmarks/soft_forms.py log --entry mnist1d-mlp --sparsity 0.9       # the search, one line a trial
    python benchmarks/soft_forms.py test --entry mnist1d-mlp --sparsity 0.9
    python benchmarks/soft_forms.py table --entry mnist1d-mlp --sparsity 0.9     # with paired differences
    python benchmarks/soft_forms.py summary                                      # all networks and sparsities

The *search* looks at validation accuracy alone, on seeds that no table uses. Every method has eight forms (exponent,
end of the ramp, number of cycles, allocation, dropout) on one seed; the best two get two seeds more, and the best mean
of three is the method's tuned form. Rows go to ``results/soft_forms/rows.jsonl``. A sparsity that has no search of its
own takes the forms of the one at 90%. ``--set early`` searches among the trials of a question instead.

The *test* trains the tuned forms, the untuned default and the controls on the seeds 0 to 9. Its rows are those of
``surgecollapse compare``, in ``results/compare/soft-ENTRY-SPARSITY``. Methods whose name ends in ``_untuned`` have the
same setting on every net, and those in ``_sam`` take sharpness-aware steps beside it.

The *suite* is all tasks at 90, 95, 98 and 80%: first every method untuned with five seeds, then search and test. A run
that is there is not repeated: the same command goes on where it stopped. Images need ``--data-dir``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

from _harness import RESULTS, command, make_parser, single_thread, table

single_thread()

from _soft_trials import DEFAULT, FORMS, SETS, Settings  # noqa: E402
from _unseen import UNSEEN  # noqa: E402
from sparsity_records import Runs, read  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

from surgecollapse.compare.comparison import Comparison, Outcome  # noqa: E402
from surgecollapse.compare.methods import METHODS, Method  # noqa: E402
from surgecollapse.compare.methods.parts import PARTS  # noqa: E402
from surgecollapse.compare.paired_statistics import mean_interval  # noqa: E402
from surgecollapse.compare.plan import Cell, Plan, identity, make_cell, merged  # noqa: E402
from surgecollapse.compare.rows import Rows, only_writer  # noqa: E402
from surgecollapse.compare.suites import SUITES, Entry  # noqa: E402
from surgecollapse.compare.worker import FAILURES, train_cell  # noqa: E402
from surgecollapse.lab.config import as_mapping  # noqa: E402
from surgecollapse.lab.config.keys import unfit  # noqa: E402
from surgecollapse.lab.references import is_reference  # noqa: E402

FOLDER = RESULTS / "soft_forms"
FIRST_SEED, SEEDS, BEST = 20_000, 3, 2
ALL_SUITES = (*SUITES.values(), UNSEEN)
ENTRIES = {entry.label: entry for suite in reversed(ALL_SUITES) for entry in reversed(suite.entries)}
"""By label; a label that two suites have is that of the first."""


class NotSearchedError(SystemExit):
    """A method's form is not known yet."""


# --- Search -----------------------------------------------------------------------------------------------------------


@lru_cache
def searched(folder: Path) -> Rows:
    """The rows of all searches, read once."""
    return Rows(folder)


class Search:
    """The search on one net at one sparsity, as far as its rows go."""

    def __init__(
        self, entry: Entry, sparsity: float, data_dir: Path | None, forms: Mapping[str, tuple[Settings, ...]] = FORMS
    ) -> None:
        self.entry, self.sparsity, self.data_dir, self.forms = entry, sparsity, data_dir, forms
        self.rows = searched(FOLDER)

    @property
    def methods(self) -> list[str]:
        """Those that can be searched here: a net of one's own has no smaller one, and not every net has dropout."""
        return [name for name in self.forms if fits(self.entry, name)]

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

    def full(self, method: str) -> list[int]:
        """The trials that all seeds have tried."""
        if method not in self.forms:
            return []
        return [trial for trial in self.ranked(method) if len(self.accuracies(method, trial)) == SEEDS]

    def chosen(self, method: str) -> Settings:
        """The form with the best mean here, else that at 90%.

        Raises:
            NotSearchedError: if it has been searched at neither.
        """
        if full := self.full(method):
            return self.forms[method][max(full, key=lambda trial: statistics.fmean(self.accuracies(method, trial)))]
        if self.sparsity != self.entry.tuned_at:
            return Search(self.entry, self.entry.tuned_at, self.data_dir, self.forms).chosen(method)
        raise NotSearchedError(f"{method} on {self.entry.label} has not been searched: run `search` first")

    def missing(self, method: str) -> int:
        """How many runs of the search are missing."""
        tried = [len(self.accuracies(method, trial)) for trial in range(len(self.forms[method]))]
        best = sorted(tried)[-BEST:]
        return tried.count(0) + sum(SEEDS - max(1, count) for count in best)

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
    given = settings.get("policy_options", {}).items()
    options = ", ".join(f"{name}={value if isinstance(value, str) else format(value, 'g')}" for name, value in given)
    how = {"layer": "even", "erk": "ERK", "global": "global"}.get(settings.get("allocation", ""), "")
    how = "LAMP" if settings.get("saliency") == "lamp" else how
    rate = f"lr {settings['lr']:g}" if "lr" in settings else ""
    growth = f"growth {settings['growth']}" if "growth" in settings else ""
    dropout = f"dropout {settings['dropout']:g}" if "dropout" in settings else ""
    return ", ".join(part for part in (how, rate, dropout, options, growth) if part)


# --- Test -------------------------------------------------------------------------------------------------------------

UNTUNED, SAM = "_untuned", "_sam"
TITLES = {
    "soft_threshold": "soft threshold, untuned",
    "soft_threshold_tuned": "soft threshold, tuned",
    "soft_threshold_entropy": "soft threshold, entropy loop",
}
FIRST_PASS = (
    "soft_threshold",
    *(f"{name}{UNTUNED}" for name in ("cyclic_pruning", "gmp", "st3", "gmp_equal_flops", "small_dense", "dense")),
)
TESTED = (
    *FIRST_PASS,
    "soft_threshold_tuned",
    *(name for name in FORMS if name != "soft_threshold"),
    "gmp_equal_flops",
    "rigl_equal_flops",
)
SHARP = tuple(f"{name}{ending}" for name in ("soft_threshold", "cyclic_pruning", "gmp") for ending in (UNTUNED, SAM))
NAMES = tuple(dict.fromkeys([*TESTED, *SHARP, "soft_threshold_entropy"]))


def fits(entry: Entry, name: str) -> bool:
    """Whether a method can be had on a net: one of one's own has no smaller form, and not every net has dropout."""
    own = is_reference(entry.settings.get("model"))
    if name.startswith("small_dense"):
        return not own
    return name != "dropout" or not (own or "dropout" in unfit({**entry.settings, "dropout": 0.1}))


def tested(name: str, search: Search) -> Method:
    """A method with the one setting that it is tested with."""
    plain = name.removesuffix(UNTUNED).removesuffix(SAM)
    base, sparse = METHODS.get(plain, METHODS["soft_threshold"]), plain not in ("dense", "small_dense")
    longer = base.longer
    if name.endswith((UNTUNED, SAM)):
        settings: Settings = DEFAULT if sparse else {}
        settings = {**settings, **(PARTS["sam"].settings if name.endswith(SAM) else {})}
        title = f"{base.title}, {'untuned' if name.endswith(UNTUNED) else 'sharpness-aware'}"
        longer = longer and f"{longer}{UNTUNED}"
    elif name in ("soft_threshold", "soft_threshold_entropy"):
        settings, title = {**DEFAULT, **({"policy": name} if name != "soft_threshold" else {})}, TITLES[name]
    else:
        form = "soft_threshold" if name == "soft_threshold_tuned" else base.longer or name
        settings, title = search.chosen(form), TITLES.get(name, base.title)
    useless = unfit({**search.entry.settings, **settings})
    settings = {key: value for key, value in settings.items() if key not in useless}
    return replace(base, name=name, title=title, settings=merged(base.settings, settings), trials=(), longer=longer)


def folder_of(search: Search) -> Path:
    """Where the rows of the test are."""
    return RESULTS / "compare" / f"soft-{search.entry.label}-{search.sparsity:g}"


def comparison(search: Search, names: Sequence[str], seeds: int) -> Comparison:
    """The test of some methods, as far as the rows go."""
    entry = search.entry
    suite = next(suite for suite in ALL_SUITES if entry in suite.entries)
    plan = Plan(
        suite=replace(suite, entries=(entry,)),  # another one may lack what a method sets
        methods=tuple(tested(name, search) for name in names if fits(entry, name)),
        sparsities=(search.sparsity,),
        seeds=seeds,
        budget="none",
        data_dir=search.data_dir,
    )
    return Comparison(plan, folder_of(search), jobs=1, reference=names[0], command=command())


def test(search: Search, names: Sequence[str], seeds: int) -> Outcome:
    """Train what is missing of the test, and print the table."""
    outcome = comparison(search, names, seeds).run()
    print((folder_of(search) / "table.md").read_text(encoding="utf-8"))
    for run, error in outcome.failures.items():
        print(f"failed: {run}: {error}")
    return outcome


# --- Suite ------------------------------------------------------------------------------------------------------------

WORTH = (
    "figures-resnet",
    "imdb-lstm",
    "kjv-gpt",
    "mnist-cnn",
    "fashion-cnn",
    "mnist-mlp",
    "mnist1d-cnn",
    "mnist1d-mlp",
    "mnist1d-mlp-noise",
    "mnist1d-cnn-noise",
    "reviews-minilm",
)
"""Tasks in the order of worth: what no soft threshold was tested on, and is cheap, comes first."""
LEVELS = (0.9, 0.95, 0.98, 0.8)
FEW = 5
"""Seeds of the untuned pass."""
COSTS = FOLDER / "costs.json"
_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the suite: runs of one task at one sparsity."""

    what: str
    """``untuned``, ``sharp``, ``search`` or ``test``."""
    search: Search

    @property
    def names(self) -> tuple[str, ...]:
        """The methods."""
        names = {"untuned": FIRST_PASS, "sharp": SHARP, "search": tuple(FORMS), "test": TESTED}[self.what]
        return tuple(name for name in names if fits(self.search.entry, name))

    @property
    def seeds(self) -> int:
        """Of the test."""
        return 10 if self.what == "test" else FEW

    @property
    def missing(self) -> int:
        """Runs that have no row."""
        if self.what == "search":
            return sum(self.search.missing(name) for name in self.names)
        longer = [name for name in self.names if "equal_flops" in name]  # their steps may not be known yet
        there = {(row["method"], row["seed"]) for row in Rows(folder_of(self.search)) if "error" not in row}
        absent = sum((name, seed) not in there for name in longer for seed in range(self.seeds))
        others = [name for name in self.names if name not in longer]
        try:
            return absent + comparison(self.search, others, self.seeds).counts()["final_missing"]
        except NotSearchedError:
            return absent + len(others) * self.seeds

    def run(self) -> bool:
        """Train what is missing; whether the suite may go on."""
        if self.what == "search":
            self.search.run(self.names)
            return True
        return test(self.search, self.names, self.seeds).status != "interrupted"


def stages(data_dir: Path | None, entries: Sequence[str], levels: Sequence[float]) -> Iterator[Stage]:
    """The suite in the order of worth."""

    def over(what: str, labels: Sequence[str], sparsity: float) -> Iterator[Stage]:
        for label in labels:
            yield Stage(what=what, search=Search(ENTRIES[label], sparsity, data_dir))

    for sparsity in levels:
        yield from over("untuned", entries, sparsity)
        if 0.9 not in levels:
            yield from over("search", entries, 0.9)
        if sparsity == 0.9:
            yield from over("sharp", [label for label in entries if label.endswith("noise")], sparsity)
            for label in entries:
                yield from over("search", [label], sparsity)
                yield from over("test", [label], sparsity)
        else:
            yield from over("test", entries, sparsity)


def costs(entries: Sequence[str], data_dir: Path | None) -> dict[str, tuple[float, float]]:
    """Processor seconds of a step with the soft threshold, and of a run without its steps, by task.

    A run of a few steps is timed once, and kept. A task whose data are missing has no cost.
    """
    known = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}
    for label in entries:
        if label in known:
            continue
        cell = make_cell(ENTRIES[label], METHODS["soft_threshold"], 0.9, 0, {"steps": _STEPS}, data_dir=data_dir)
        try:
            step, fixed = timed(cell)
        except FAILURES as error:
            print(f"{label} cannot be timed: {error}")
            continue
        known[label] = {"step": round(step, 5), "fixed": round(fixed, 2)}
        COSTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return {label: (found["step"], found["fixed"]) for label, found in known.items()}


def timed(cell: Cell) -> tuple[float, float]:
    """Processor seconds of a median step and of all else in one run."""
    ticks: list[float] = []
    began = time.process_time()
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.process_time()))
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
            if train_cell(cell.message, Path(scratch)) is None:
                raise SystemExit("stopped: the same command goes on")
    finally:
        hook.remove()
    step = statistics.median(after - before for before, after in pairwise(ticks))
    return step, max(0.0, time.process_time() - began - step * len(ticks))


_SHARED = "The untuned runs are part of the test, and counted in both."


def plan_table(every: Sequence[Stage], cost: Mapping[str, tuple[float, float]]) -> list[str]:
    """What is missing, one line a stage, in core-minutes."""
    lines, total = [], 0.0
    for stage in every:
        entry, missing = stage.search.entry, stage.missing
        if not missing:
            continue
        step, fixed = cost.get(entry.label, (None, 0.0))
        minutes = None if step is None else missing * (step * entry.settings["steps"] + fixed) / 60
        total += minutes or 0.0
        told = "–" if minutes is None else f"{minutes:.0f}"
        one = "–" if minutes is None else f"{minutes / missing:.2f}"
        how = f"--entry {entry.label} --sparsity {stage.search.sparsity:g} --only {stage.what}"
        lines.append([entry.title, f"{stage.search.sparsity:.0%}", stage.what, str(missing), one, told, f"`{how}`"])
    heads = ["task", "sparsity", "stage", "runs missing", "core-minutes a run", "core-minutes", "part of the suite"]
    return [
        *table(heads, lines),
        "",
        f"In all {total / 60:.0f} core-hours, without tasks whose data are missing. {_SHARED}",
    ]


# --- Tables -----------------------------------------------------------------------------------------------------------


def found(entry: str, sparsity: float) -> dict[str, Runs]:
    """The test runs of one network at one sparsity, by method: of several folders, the newest."""
    newest: dict[str, Runs] = {}
    for folder in sorted((RESULTS / "compare").iterdir()):
        every = read(folder, dense_at=sparsity) if (folder / "table.csv").is_file() else []
        for one in every:
            newer = one.method not in newest or one.began > newest[one.method].began
            if (one.entry, one.sparsity) == (entry, sparsity) and one.method in {*METHODS, *NAMES} and newer:
                newest[one.method] = one
    return newest


def _minus(mine: Runs, theirs: Runs) -> str:
    """Mean paired difference over common seeds."""
    common = [mine.accuracies[seed] - value for seed, value in theirs.accuracies.items() if seed in mine.accuracies]
    return in_words(common, signed=True)


def paired(entry: str, sparsity: float) -> list[str]:
    """Mean test accuracies with 95% intervals, and those of the soft thresholds minus it over common seeds."""
    runs_of = found(entry, sparsity)
    ours = [name for name in ("soft_threshold", "soft_threshold_tuned") if name in runs_of]
    lines = []
    for name, runs in sorted(runs_of.items(), key=lambda item: -item[1].accuracy):
        minus = ["" if name == own else _minus(runs_of[own], runs) for own in ours]
        mean = in_words(list(runs.accuracies.values()))
        cost = [f"{runs.mean('mean_density'):.3f}", f"{runs.flops:.3f}"]
        lines.append([TITLES.get(name, runs.title), mean, *minus, *cost, str(len(runs.accuracies)), runs.version])
    minus = [f"{TITLES[name].removeprefix('soft threshold, ')} minus it" for name in ours]
    return table(["method", "test accuracy, %", *minus, "mean density", "FLOPs", "n", "version"], lines)


def summary() -> list[str]:
    """One line for each network and sparsity that a soft threshold was tested on."""
    lines = []
    for entry in ENTRIES.values():
        for sparsity in sorted({*entry.sparsities, *LEVELS}):
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
                    in_words(list(mine.accuracies.values())),
                    rival.title,
                    _minus(mine, rival),
                    _minus(mine, dense) if dense else "–",
                    _minus(tuned, rival) if tuned else "–",
                    str(len(mine.accuracies)),
                ]
            )
    heads = ["task", "sparsity", "untuned, %", "best sparse rival", "untuned minus it"]
    return table([*heads, "untuned minus dense + dropout", "tuned minus the rival", "n"], lines)


def in_words(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and half of the 95% interval, as tables have them."""
    if not values:
        return "–"
    found = mean_interval(values)
    return f"{found.mean:{'+' if signed else ''}.2f}" + ("" if found.half is None else f" ± {found.half:.2f}")


def main() -> None:
    """Search, log, test or compare, as far as it has not been done."""
    parser = make_parser(__doc__, out=None, seeds=10)
    parser.add_argument("stage", choices=["suite", "search", "log", "test", "table", "summary"])
    parser.add_argument("--entry", choices=ENTRIES, help="default: mnist1d-mlp; of the suite all")
    parser.add_argument("--sparsity", type=float, help="default: 0.9; of the suite all")
    parser.add_argument("--methods", nargs="*", choices=dict.fromkeys([*SETS["early"], *NAMES]), help="default: all")
    parser.add_argument("--set", choices=SETS, default="forms", help="which trials the search takes")
    parser.add_argument("--plan", action="store_true", help="suite: print what is missing, and what it costs")
    parser.add_argument("--only", choices=["untuned", "sharp", "search", "test"], help="suite: one kind of stage")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    if given.stage == "suite":
        entries = WORTH if given.entry is None else (given.entry,)
        every = stages(given.data_dir, entries, LEVELS if given.sparsity is None else (given.sparsity,))
        chosen = [stage for stage in every if given.only in (None, stage.what)]
        if given.plan:
            print("\n".join(plan_table(chosen, costs(entries, given.data_dir))))
        else:
            for stage in chosen:
                if not stage.run():
                    return
        return
    search = Search(ENTRIES[given.entry or "mnist1d-mlp"], given.sparsity or 0.9, given.data_dir, SETS[given.set])
    if given.stage == "search":
        search.run(given.methods or search.methods)
    elif given.stage == "test":
        test(search, given.methods or TESTED, given.seeds)
    elif given.stage == "summary":
        print("\n".join(summary()))
    elif given.stage == "table":
        print("\n".join(paired(search.entry.label, search.sparsity)))
    else:
        print("\n".join(search.lines()))


if __name__ == "__main__":
    main()
