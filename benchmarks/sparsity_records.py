"""Write the page of sparsity records from the rows of comparisons, or train one of its rows again.

    python benchmarks/sparsity_records.py                                # write docs/records-sparsity.md
    python benchmarks/sparsity_records.py --rerun ID --seeds 1           # train the first seed of a record
    python benchmarks/sparsity_records.py --rerun ID --data-dir DATA     # all of its seeds; data files lie in DATA

For each task and sparsity, gradual pruning is the first record; a method that has a higher mean test accuracy than the
record before it, in the order in which the comparisons were begun, is the next one. p is that of a one-sided paired t
test over the common seeds. The id of a record is a hash of its configuration, sparsity and folder.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from _harness import RESULTS, json_lines, make_parser
from _unseen import UNSEEN
from rich.console import Console

from surgecollapse.compare.methods import ABLATIONS, METHODS
from surgecollapse.compare.methods.registry import current_name
from surgecollapse.compare.plan import identity
from surgecollapse.compare.results import LEAST_SEEDS
from surgecollapse.compare.suites import SUITES

ALL_SUITES = {**SUITES, UNSEEN.name: UNSEEN}
FOLDERS = RESULTS / "compare"
PAGE = Path(__file__).parents[1] / "docs" / "records-sparsity.md"
FIRST = "gmp"
SIGNIFICANT = 0.05
_OWN = ("seed", "sparsity")
Task = tuple[str, int, float]
"""Label of the net, steps of its dense training, sparsity."""
_OLD_NAMES = {"recipe": "default", "soft_threshold_tuned": "soft_threshold"}
"""Methods by the names under which they are registered."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All reported runs of one method in one folder, on one net and at one sparsity."""

    folder: str
    began: str
    suite: str
    entry: str
    sparsity: float
    method: str
    version: str
    config: Mapping[str, Any]
    """As it was written, without seed and sparsity."""
    rows: Mapping[int, Mapping[str, Any]]
    """By seed."""

    @property
    def id(self) -> str:
        """Names the record on the command line."""
        return _hash([self.folder, self.entry, self.sparsity, self.method, self.config])[:8]

    @property
    def accuracies(self) -> dict[int, float]:
        """In percent, by seed."""
        return {seed: 100 * float(row["accuracy"]) for seed, row in self.rows.items()}

    @property
    def accuracy(self) -> float:
        """Mean, in percent."""
        return statistics.fmean(self.accuracies.values())

    def mean(self, name: str) -> float:
        """Mean of a number of the rows."""
        return statistics.fmean(float(row[name]) for row in self.rows.values())

    @property
    def steps(self) -> int:
        """Of the task's dense training, whatever the number of this method's."""
        known = ALL_SUITES[self.suite].entries if self.suite in ALL_SUITES else ()
        settings = {entry.label: entry.settings for entry in known}
        return int(settings.get(self.entry, {}).get("steps", self.mean("steps")))

    @property
    def flops(self) -> float:
        """Mean training FLOPs over those of dense training."""
        return statistics.fmean(float(r["flops_training"]) * float(r["steps"]) for r in self.rows.values()) / self.steps

    @property
    def title(self) -> str:
        """Of the method, as tables have it."""
        name = _OLD_NAMES.get(self.method, self.method)
        plain = name.removesuffix("_untuned").removesuffix("_sam")
        known = METHODS.get(plain) or ABLATIONS.get(plain)
        how = {"_untuned": ", untuned", "_sam": ", sharpness-aware"}.get(name.removeprefix(plain), "")
        return self.method if known is None else f"{known.title}{how}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record, and how sure it is."""

    runs: Runs
    before: Runs | None

    @property
    def p(self) -> float | None:
        """Of a one-sided paired t test against the record before; ``None`` with fewer than two common seeds."""
        if self.before is None:
            return None
        ours, theirs = self.runs.accuracies, self.before.accuracies
        return p_value([ours[seed] - theirs[seed] for seed in ours if seed in theirs])

    @property
    def doubts(self) -> list[str]:
        """Why it may not hold; empty for a record without a doubt."""
        found = []
        if len(self.runs.rows) < LEAST_SEEDS:
            found.append(f"under {LEAST_SEEDS} seeds")
        if self.before is not None and (self.p is None or self.p >= SIGNIFICANT):
            found.append(f"p ≥ {SIGNIFICANT:g}" if self.p is not None else "no common seeds")
        return found


def p_value(differences: Sequence[float]) -> float | None:
    """Probability of a mean this far above zero or farther, if the differences are normal around zero.

    >>> round(p_value([1.0, 2.0, 3.0]), 4), p_value([1.0])
    (0.0371, None)
    """
    from scipy import stats

    if len(differences) < 2:
        return None
    spread = statistics.stdev(differences)
    mean = statistics.fmean(differences)
    if spread == 0.0:
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / spread * len(differences) ** 0.5, len(differences) - 1))


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read(folder: Path, *, dense_at: float | None = None) -> list[Runs]:
    """What a folder of ``surgecollapse compare`` reports, in the order of its rows.

    Methods that end dense are left out, or stand at the sparsity ``dense_at``. Where a method has rows of several
    configurations, as after another tuning, those that its table reports are taken.
    """
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shared: dict[str, Mapping[str, Any]] = {}
    found: dict[tuple[str, float, str], dict[str, list[Mapping[str, Any]]]] = {}
    known: dict[str, str] = {}
    for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "base" in row:
            shared[row["base"]] = row["config"]
            continue
        sparsity = dense_at if row.get("sparsity") is None else row["sparsity"]
        if "error" in row or row["trial"] is not None or sparsity is None:
            continue
        written = shared.get(row["config"].get("base"), row["config"])
        plain = {key: value for key, value in written.items() if key not in (*_OWN, "base")}
        text = json.dumps(plain, sort_keys=True)
        if text not in known:
            known[text] = _hash(identity(plain))
        place = (row["entry"], sparsity, current_name(row["method"]))
        found.setdefault(place, {}).setdefault(known[text], []).append({**row, "config": plain})
    reported = _reported(folder)
    return [
        Runs(
            folder=folder.name,
            began=about["sessions"][0]["began"],
            suite=about["suite"],
            entry=entry,
            sparsity=sparsity,
            method=method,
            version=rows[0]["version"],
            config=rows[0]["config"],
            rows={row["seed"]: row for row in sorted(rows, key=lambda row: row["seed"])},
        )
        for (entry, sparsity, method), configs in found.items()
        for rows in [_that_of_table(list(configs.values()), reported.get((entry, sparsity, method)))]
    ]


def _reported(folder: Path) -> dict[tuple[str, float, str], float]:
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return {
            (line["entry"], float(line["sparsity"]), current_name(line["method"])): float(line["accuracy"])
            for line in csv.DictReader(file)
        }


def _that_of_table(configs: Sequence[list[Mapping[str, Any]]], accuracy: float | None) -> Sequence[Mapping[str, Any]]:
    def far(rows: Sequence[Mapping[str, Any]]) -> float:
        mean = 100 * statistics.fmean(row["accuracy"] for row in rows)
        return abs(mean - accuracy) if accuracy is not None else -len(rows)

    return min(configs, key=far)


def ladders(every: Sequence[Runs]) -> dict[Task, list[Record]]:
    """The records of each task, in the order in which they were set."""
    order = [*METHODS, *ABLATIONS]

    def when(runs: Runs) -> tuple[Any, ...]:
        name = _OLD_NAMES.get(runs.method, runs.method)
        first = runs.method == FIRST and runs.began == begun[runs.entry, runs.steps, runs.sparsity]
        return (not first, runs.began, order.index(name) if name in order else len(order), runs.method)

    begun: dict[Task, str] = {}
    for runs in every:
        if runs.method == FIRST:
            task = (runs.entry, runs.steps, runs.sparsity)
            begun[task] = min(runs.began, begun.get(task, runs.began))
    found: dict[Task, list[Record]] = {}
    for runs in sorted(every, key=when):
        ladder = found.setdefault((runs.entry, runs.steps, runs.sparsity), [])
        if not ladder or runs.accuracy > ladder[-1].runs.accuracy:
            ladder.append(Record(runs=runs, before=ladder[-1].runs if ladder else None))
    return dict(sorted(found.items(), key=lambda item: (_place(item[0][0]), *item[0][1:])))


def _titles() -> dict[str, str]:
    return {entry.label: entry.title for suite in ALL_SUITES.values() for entry in suite.entries}


def _place(entry: str) -> int:
    return list(_titles()).index(entry) if entry in _titles() else len(_titles())


CONTROLS = {"equal FLOPs": ("gmp_equal_flops", "rigl_equal_flops"), "small dense": ("small_dense",)}
"""Columns of a table, and the methods whose best stands there; an untuned one counts where no tuned one was run."""
RUNNER = "python benchmarks/soft_forms.py suite --entry {entry} --sparsity {sparsity:g}"


def controls(every: Sequence[Runs], task: Task) -> dict[str, Runs]:
    """The best runs of the controls of a task, by column, as far as they were run."""
    here = [runs for runs in every if (runs.entry, runs.steps, runs.sparsity) == task]
    found = {}
    for column, names in CONTROLS.items():
        tuned = [runs for runs in here if runs.method in names]
        those = tuned or [runs for runs in here if runs.method.removesuffix("_untuned") in names]
        if those:
            found[column] = max(those, key=lambda runs: runs.accuracy)
    return found


_HEAD = """\
# Sparsity records

The best mean test accuracy that this repository has for each task and sparsity, and the records before it. The script
`benchmarks/sparsity_records.py` writes this page from the rows of [comparisons](howto/compare.md).

- **First record**: gradual pruning, where it was run. A later one is a method with a higher mean, in the order in which
  the comparisons were begun.
- **p** is one-sided and paired over common seeds, against the record before.
- **Minus equal FLOPs** and **minus small dense** are paired mean differences over common seeds. Equal FLOPs: the better
  of gradual pruning and RigL, trained for as long as costs the FLOPs of the soft threshold. Small dense: a dense
  network of as many weights. Where a control was not run, the line under the table has the command.
- **FLOPs** of training and **density** are relative to dense training, for an engine that skips zeros.
- **Doubts**: fewer than {least} seeds, or p of {significant} or more. Test accuracy chose the records, which favors
  them.
- **Again**: `python benchmarks/sparsity_records.py --rerun ID` trains the seeds of a record and compares. Images and
  texts need `--data-dir`.
"""


def page(found: Mapping[Task, Sequence[Record]], every: Sequence[Runs]) -> str:
    """The page in Markdown, from the records and all runs."""
    lines = [_HEAD.format(least=LEAST_SEEDS, significant=SIGNIFICANT)]
    for (entry, steps, sparsity), ladder in found.items():
        lines += [f"## {_titles().get(entry, entry)}, {steps:,} steps, {100 * sparsity:g}% sparse", ""]
        lines += [
            "| method | accuracy, % | n | p | "
            + "".join(f"minus {column} | " for column in CONTROLS)
            + "FLOPs | density | begun | version | id | doubts |",
            "|" + "---|" * (10 + len(CONTROLS)),
        ]
        beside = controls(every, (entry, steps, sparsity))
        lines += [_line(record, beside) for record in ladder]
        lines += ["", *_missing(beside, entry, sparsity), *_details(ladder)]
    return "\n".join(lines).rstrip() + "\n"


def _missing(beside: Mapping[str, Runs], entry: str, sparsity: float) -> list[str]:
    """What trains the controls that were not run."""
    absent = [column for column in CONTROLS if column not in beside]
    if not absent:
        return []
    return [f"Not run: {', '.join(absent)}. `{RUNNER.format(entry=entry, sparsity=sparsity)}` trains them.", ""]


def _minus(runs: Runs, control: Runs | None) -> str:
    """Mean paired difference to a control."""
    if control is None:
        return "–"
    if control.method == runs.method:
        return "itself"
    theirs = control.accuracies
    common = [value - theirs[seed] for seed, value in runs.accuracies.items() if seed in theirs]
    return f"{statistics.fmean(common):+.2f}" if common else "–"


def _line(record: Record, beside: Mapping[str, Runs]) -> str:
    runs, p = record.runs, record.p
    cells = [
        runs.title,
        f"{runs.accuracy:.2f}",
        str(len(runs.rows)),
        "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}",
        *(_minus(runs, beside.get(column)) for column in CONTROLS),
        f"{runs.flops:.3f}",
        f"{runs.mean('mean_density'):.3f}",
        runs.began[:10],
        runs.version,
        f"`{runs.id}`",
        ", ".join(record.doubts) or "–",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _details(ladder: Sequence[Record]) -> Iterator[str]:
    """Command and full configuration of each record, folded away."""
    for record in ladder:
        runs = record.runs
        yield f'<details markdown="1"><summary>{runs.title}: command and configuration</summary>'
        yield ""
        yield "```console"
        yield f"python benchmarks/sparsity_records.py --rerun {runs.id}"
        yield "```"
        yield ""
        yield f"Rows: `benchmarks/results/compare/{runs.folder}/rows.jsonl`, method `{runs.method}`."
        yield ""
        yield "```json"
        yield from json_lines({**runs.config, "sparsity": runs.sparsity})
        yield "```"
        yield ""
        yield "</details>"
        yield ""


def everything(folder: Path = FOLDERS) -> list[Runs]:
    """The runs of all folders that have rows of this form."""
    return [runs for path in sorted(folder.glob("*/rows.jsonl")) for runs in read(path.parent)]


def configuration(runs: Runs, seed: int, data_dir: Path | None = None) -> dict[str, Any]:
    """Keys of the run of one seed, by the names of this version."""
    from surgecollapse.lab.config import as_mapping, make_config

    keys = identity({**runs.config, "seed": seed, "sparsity": runs.sparsity})
    task = data_dir / str(keys["task"]) if data_dir is not None else None
    folder = task if task is not None and task.is_dir() else data_dir
    never = {"evaluate_every": 10**9, "checkpoint_every": 10**9, "monitors": "none", "data_dir": folder}
    return dict(as_mapping(make_config(**{**keys, **never})))


def rerun(runs: Runs, seeds: int | None, data_dir: Path | None, console: Console) -> None:
    """Train a record again, seed by seed, and say how far it is from its rows."""
    from surgecollapse.compare.worker import train_cell

    with tempfile.TemporaryDirectory() as scratch:
        for seed, row in list(runs.rows.items())[:seeds]:
            new = train_cell(configuration(runs, seed, data_dir), Path(scratch))
            if new is None:
                return
            now, then = 100 * new["accuracy"], 100 * float(row["accuracy"])
            console.print(f"seed {seed}: {now:.3f}% now, {then:.3f}% in the row, {now - then:+.3f}", highlight=False)


def main() -> int:
    """Write the page, or train a record again."""
    parser = make_parser(__doc__, out=None)
    parser.add_argument("--rerun", metavar="ID", help="id of the record to train again")
    parser.add_argument("--seeds", type=int, help="how many of its seeds; default: all")
    parser.add_argument("--data-dir", type=Path, help="folder of data files, as surgecollapse compare takes it")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    given = parser.parse_args()
    every = everything()
    if given.rerun is None:
        given.page.write_text(page(ladders(every), every), encoding="utf-8")
        return 0
    chosen = [runs for runs in every if runs.id == given.rerun]
    if not chosen:
        parser.error(f"no record {given.rerun!r}: expected an id of {PAGE.name}")
    rerun(chosen[0], given.seeds, given.data_dir, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
