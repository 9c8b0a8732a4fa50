"""The page at the end of a search, the best settings as TOML, and the command that runs them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.compare.table import plus_minus
from surgecollapse.errors import counted
from surgecollapse.lab.config import as_toml
from surgecollapse.record.machine import machine
from surgecollapse.record.whole_files import write_whole
from surgecollapse.tuning.finalists import DEFAULT
from surgecollapse.tuning.objectives import values_of_rows
from surgecollapse.tuning.storage import REASON, counted_trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from surgecollapse.compare.paired_statistics import Interval
    from surgecollapse.report.markup import Section, Table
    from surgecollapse.tuning.finalists import Finalist
    from surgecollapse.tuning.objectives import Objective
    from surgecollapse.tuning.search import Outcome, Search

_MOST_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What fresh seeds say of one finalist and one objective."""

    validation: Interval | None
    minus_default: Interval | None
    """Paired difference over common seeds."""
    test: Interval | None
    seeds: int


def verdict(finalist: Finalist, default: Finalist | None, objective: Objective) -> Verdict:
    """Means with Student's 95% intervals on fresh seeds; a diverged run counts in none."""
    own = _by_seed(finalist, objective)
    others = {} if default is None or default is finalist else _by_seed(default, objective)
    both = sorted(own.keys() & others.keys())
    tested = [row[objective.test] for row in finalist.rows if objective.test and row.get(objective.test) is not None]
    return Verdict(
        validation=mean_interval(list(own.values())) if own else None,
        minus_default=mean_interval([own[seed] - others[seed] for seed in both]) if both else None,
        test=mean_interval(tested) if tested else None,
        seeds=len(own),
    )


def _by_seed(finalist: Finalist, objective: Objective) -> dict[int, float]:
    found = {}
    for row in finalist.rows:
        try:
            found[int(row["seed"])] = values_of_rows([objective], [row])[0]
        except ArithmeticError:
            continue
    return found


def run_command(path: Path) -> str:
    """The command that trains a finalist.

    >>> run_command(Path("runs/tune-digits/best.toml"))
    'surgecollapse run --config runs/tune-digits/best.toml'
    """
    return shlex.join(["surgecollapse", "run", "--config", str(path)])


def write_result(search: Search, outcome: Outcome, command: str = "") -> dict[str, Path]:
    """Write ``NAME.toml`` for each finalist but the default, and the page with its pictures.

    Returns:
        The files by finalist, and the page under ``page``, if matplotlib is there to draw it.

    Raises:
        OSError: if the folder cannot be written.
    """
    written: dict[str, Path] = {}
    for finalist in outcome.finalists:
        if finalist.name != DEFAULT:
            written[finalist.name] = search.out / f"{finalist.name.replace(' ', '-')}.toml"
            write_whole(written[finalist.name], as_toml(finalist.config))
    try:
        from surgecollapse.report.markup import page_html
        from surgecollapse.report.style import save_png
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2", "markupsafe"):
            raise
        return written
    sections = _sections(search, outcome, written)
    written["page"] = search.out / "index.html"
    experiment = search.space.base.data.task
    write_whole(written["page"], page_html(f"Tuning: {experiment}", _lead(search, outcome), sections, _foot(command)))
    for picture in (picture for section in sections for picture in section.pictures):
        save_png(picture.figure, search.out / f"{picture.name}.png")
    return written


def _lead(search: Search, outcome: Outcome) -> str:
    trials = counted_trials(outcome.study)
    states = [(TrialState.COMPLETE, "complete"), (TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")]
    counts = ", ".join(f"{n} {word}" for state, word in states if (n := sum(t.state is state for t in trials)))
    goals = " and ".join(f"{objective.direction} {objective.title}" for objective in search.objectives)
    seeds = f"{search.seeds} seed{'s' * (search.seeds > 1)} a trial"
    return f"{len(trials)} trials ({counts or 'none'}), {seeds}: {goals} on the validation set."


def _foot(command: str) -> str:
    facts = machine()
    versions = f"surgecollapse {facts['surgecollapse']}, torch {facts['torch']}, python {facts['python']}"
    return (f"Made by `{command}`. " if command else "") + f"{versions}. Search by Optuna, pictures by matplotlib."


def _sections(search: Search, outcome: Outcome, written: Mapping[str, Path]) -> list[Section]:
    from surgecollapse.report.markup import Section
    from surgecollapse.tuning import pictures

    trials, space = counted_trials(outcome.study), search.space.distributions
    result = Section("result", "Result on fresh seeds", _explained(search, written))
    if outcome.finalists:
        result.before = _result_table(search, outcome)
        result.tables.append(_settings_table(search, outcome.finalists))
    else:
        result.missing.append("Nothing was trained on fresh seeds: no trial is complete, or `--fresh 0`.")
    numbers = {f.number: f.name for f in outcome.finalists if f.number is not None}
    found = Section("search", "Search")
    if len(search.objectives) > 1:
        found.add(pictures.front(outcome.study, search.objectives, numbers), "No trial is complete: there is no front.")
    detail = Section("settings", "Settings")
    for place, objective in enumerate(search.objectives):
        found.add(pictures.history(trials, objective, place), "No trial is complete.")
        shares = pictures.importances(outcome.study, space, place)
        few = f"Importances need {pictures.LEAST_TRIALS} complete trials with different values."
        found.add(pictures.importance_bars(shares, objective, place), few)
        order = {name: space[name] for name in [*shares, *(name for name in space if name not in shares)]}
        detail.add(pictures.slices(trials, order, objective, place), "No trial is complete: there are no slices.")
    detail.add(pictures.parallel(trials, space, search.objectives[0]), "Parallel coordinates need two complete trials.")
    return [result, found, detail, _trials_section(search, trials)]


def _explained(search: Search, written: Mapping[str, Path]) -> str:
    commands = " ".join(f"`{run_command(path)}`" for name, path in written.items() if name != "page")
    text = (
        "The settings were trained again on seeds that no trial had, beside the experiment's own settings (default). "
        "So the luck of the best trial is gone. Means with Student's 95% interval. The test set is seen here first."
    )
    if search.fresh < 10:
        text += f" With {counted(search.fresh, 'seed')} this shows, and claims nothing."
    return text + (f" To train: {commands}." if commands else "")


def _result_table(search: Search, outcome: Outcome) -> Table:
    from surgecollapse.report.markup import Table

    default = next((f for f in outcome.finalists if f.name == DEFAULT), None)
    heads, rows = ["settings", "trial", "seeds"], []
    for objective in search.objectives:
        heads += [f"{objective.title}, validation", "minus default"]
        heads += [f"{objective.title}, test"] if objective.test else []
    for finalist in outcome.finalists:
        found = [verdict(finalist, default, objective) for objective in search.objectives]
        row = [finalist.name, "–" if finalist.number is None else str(finalist.number), str(found[0].seeds)]
        for objective, said in zip(search.objectives, found, strict=True):
            row += [_shown(said.validation), _shown(said.minus_default, sign=True)]
            row += [_shown(said.test)] if objective.test else []
        rows.append(row)
    return Table(heads=heads, rows=rows, left=["settings"], label="Result on fresh seeds")


def _shown(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "–"
    digits = 4 if abs(interval.mean) < 10 else 1
    return plus_minus(interval, sign=sign, digits=digits)


def _settings_table(search: Search, finalists: Sequence[Finalist]) -> Table:
    from surgecollapse.report.markup import Table

    chosen = [finalist for finalist in finalists if finalist.name != DEFAULT]
    rows = [
        [name, *(_value(f.params.get(name)) for f in chosen)] for name in search.space.distributions
    ]  # fmt: skip
    return Table(
        heads=["setting", *(f.name for f in chosen)], rows=rows, left=["setting"], label="Settings", opened=True
    )


def _value(value: Any) -> str:
    """A setting as a table shows it.

    >>> _value(0.000123456789), _value("rigl"), _value(None)
    ('0.0001235', 'rigl', '–')
    """
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _trials_section(search: Search, trials: Sequence[FrozenTrial]) -> Section:
    from surgecollapse.report.markup import Section, Table

    part = Section("trials", "Trials")
    names = list(search.space.distributions)
    heads = ["trial", "state", *(objective.name for objective in search.objectives), *names, "reason"]
    rows = []
    for trial in trials[-_MOST_ROWS:]:
        complete = trial.state is TrialState.COMPLETE
        values = [f"{v:.5g}" for v in trial.values or ()] if complete else ["–"] * len(search.objectives)
        own = [_value(trial.params.get(name)) for name in names]
        reason = str(trial.user_attrs.get(REASON, ""))
        rows.append([str(trial.number), trial.state.name.lower(), *values, *own, reason])
    note = f"The last {_MOST_ROWS} are listed; the study has all." if len(trials) > _MOST_ROWS else ""
    table = Table(heads=heads, rows=rows, left=["state", "reason"], label=f"All {len(trials):,} trials", note=note)
    if rows:
        part.tables.append(table)
    else:
        part.missing.append("No trial has ended.")
    return part
