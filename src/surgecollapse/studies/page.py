"""The page of a study: question, conclusion, setting, tables, plot, limits, and what to type."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.studies.registry import Rows, Study, Table

_INTERVALS = (
    "± is half of Student's 95% interval over seeds, or over the paired differences. Intervals are not corrected for "
    "the number of comparisons."
)


def markdown(study: Study, rows: Rows, total: int, *, image: str = "", command: str = "") -> str:
    """The page as Markdown.

    Args:
        study: which one.
        rows: finished runs.
        total: number of runs of the whole study.
        image: path of the plot, as the page links it.
        command: what to type for more.
    """
    parts = [f"# {study.title}", f"**Question.** {study.question}"]
    if study.conclusion:
        parts += ["## Conclusion", study.conclusion]
    parts += ["## Setting", study.setting]
    if rows:
        parts += ["## Results", _filled(_INTERVALS), *(part for table in study.tables(rows) for part in _table(table))]
    else:
        parts += ["No run is finished yet."]
    if image:
        parts += [f"![{study.title}]({image})"]
    if study.limits:
        parts += ["## Limits", "\n".join(_filled(limit, "- ") for limit in study.limits)]
    parts += [
        "## Repeat it",
        _provenance(rows, total),
        f"```console\n{command or f'surgecollapse study {study.name}'}\n```",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.headings) + " |", "|" + "---|" * len(table.headings)]
    lines += ["| " + " | ".join(line) + " |" for line in table.lines]
    return [f"**{table.title}**", "\n".join(lines), *([_filled(table.note)] if table.note else [])]


def _provenance(rows: Rows, total: int) -> str:
    machines = sorted({_machine(row["machine"]) for row in rows if "machine" in row})
    seconds = sum(processor_seconds(row) for row in rows)
    where = "".join(f" Run with {machine}." for machine in machines)
    done = f"{len(rows)} of {total} runs, {seconds / 3600:.1f} hours of one process."
    return _filled(f"{done}{where} What is finished is kept; the command goes on:")


def processor_seconds(row: Mapping[str, Any]) -> float:
    """What a run took of one core; of rows that were written before this was measured, its time by the clock.

    >>> processor_seconds({"seconds": 9.0, "processor_seconds": 2.0}), processor_seconds({"seconds": 3.0})
    (2.0, 3.0)
    """
    return float(row.get("processor_seconds", row.get("seconds", 0.0)))


def _filled(text: str, bullet: str = "") -> str:
    indent = " " * len(bullet)
    return textwrap.fill(text, 120, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False)


def _machine(facts: Mapping[str, object]) -> str:
    return f"surgecollapse {facts['surgecollapse']}, torch {facts['torch']}, {facts['processor']}"


def draw(study: Study, rows: Rows, path: Path) -> bool:
    """Write the plot; says whether there is one."""
    if study.plot is None or not rows:
        return False
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": study.name, "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 9}):
        figure = study.plot(rows)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return True


def grouped(rows: Rows, *keys: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Rows by the values of some settings, in the order in which they first occur.

    >>> rows = [{"config": {"method": m, "seed": s}} for s in (0, 1) for m in "ab"]
    >>> [(key, len(found)) for key, found in grouped(rows, "method").items()]
    [(('a',), 2), (('b',), 2)]
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row["config"].get(key) for key in keys), []).append(row)
    return found


def method_name(method: str) -> str:
    """How a page writes a method.

    >>> method_name("rigl"), method_name("set"), method_name("small_dense"), method_name("s2sam_rigl")
    ('RigL', 'SET', 'small dense', 'RigL + S²-SAM')
    """
    if method.startswith("s2sam_"):
        return f"{method_name(method.removeprefix('s2sam_'))} + S²-SAM"
    return {"rigl": "RigL", "set": "SET", "gmp": "GMP"}.get(method, method.replace("_", " "))


def interval(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """Mean and half the width of the 95% interval, as a cell; the mean alone where there is one value.

    >>> interval([1.0, 2.0, 3.0]), interval([0.5], digits=1, scale=100)
    ('2.00 ± 2.48', '50.0')
    """
    found = mean_interval([scale * value for value in values])
    return f"{found.mean:.{digits}f}" + ("" if found.half is None else f" ± {found.half:.{digits}f}")


def paired_difference(
    rows: Rows, reference: Rows, value: str, *, digits: int = 2, scale: float = 1.0, pair: Sequence[str] = ("seed",)
) -> str:
    """Mean difference of what was measured, over the runs of equal seeds (and ``pair``), with its interval.

    The interval is over seeds: differences of one seed are averaged first. – without any pair.

    >>> a, b = ([{"config": {"seed": s}, "x": x + s} for s in range(2)] for x in (3.0, 1.0))
    >>> paired_difference(a, b, "x")
    '+2.00 ± 0.00'
    """
    theirs = {_pair(row, pair): float(row[value]) for row in reference}
    by_seed: dict[object, list[float]] = {}
    for row in rows:
        if (key := _pair(row, pair)) in theirs:
            by_seed.setdefault(row["config"].get("seed"), []).append(float(row[value]) - theirs[key])
    if not by_seed:
        return "–"
    gaps = [statistics.fmean(values) for values in by_seed.values()]
    return ("+" if sum(gaps) >= 0 else "") + interval(gaps, digits, scale)


def chosen(rows: Rows, knob: str, score: Callable[[Mapping[str, Any]], float], *, others: bool = False) -> Rows:
    """Of the rows of one method: those at the value of a setting that has the highest mean score.

    Only seeds that have rows of every value count, each as often as its rows. Every value counts that any row has; a
    row without the setting is at its default.

    Args:
        rows: of one method.
        knob: name of the setting.
        score: of a row, from what its result is not judged by.
        others: if true, choose for each seed by the other seeds, so that the score may be the result itself.

    >>> rows = [{"config": {"seed": s, "rate": r}, "x": x} for s, r, x in [(0, 1, 5), (0, 2, 4), (1, 1, 1), (1, 2, 2)]]
    >>> [row["x"] for row in chosen(rows, "rate", lambda row: row["x"])]
    [5, 1]
    >>> [row["x"] for row in chosen(rows, "rate", lambda row: row["x"], others=True)]
    [4, 1]
    """
    values = list(grouped(rows, knob))
    by_seed = {seed: grouped(of_seed, knob) for (seed,), of_seed in grouped(rows, "seed").items()}
    whole = {
        seed: by_value
        for seed, by_value in by_seed.items()
        if len(by_value) == len(values) and len({len(found) for found in by_value.values()}) == 1
    }
    found: list[Mapping[str, Any]] = []
    for seed in whole:
        judges = [by_value for other, by_value in whole.items() if not others or other != seed]
        if not judges:
            continue
        means = {
            value: statistics.fmean(score(row) for by_value in judges for row in by_value[value]) for value in values
        }
        found += whole[seed][max(means, key=lambda value: means[value])]
    return found


def _pair(row: Mapping[str, Any], pair: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row["config"].get(key) for key in pair)
