"""Collects what the tests show about every place into one table, for the documentation.

A test marked ``@pytest.mark.conformance(column)`` says something about a place: the mark's ``place=``, or else the
``name`` of the parameter that a fixture or the test was called with. With ``--conformance-table FILE`` the outcomes
replace the rows of these places in a Markdown page, and rows of other places stay; a place has what a column says if
every test of that cell passed. The column ``refused`` is the whole row. A test may measure a figure, too:
``record_property("conformance", (column, figure))``.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

COLUMNS = ("heads right", "masks held", "target reached", "entropy read", "resume bitwise", "ranks equal")
REFUSED = "refused"
FIGURES = ("step with a reading, in plain steps",)


class Table:
    """Outcomes by place and column."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cells: dict[str, dict[str, list[str]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the outcome of a marked test."""
        report = yield
        if report.when == "call" or report.outcome != "passed":
            for mark in item.iter_markers("conformance"):
                (column,) = mark.args
                assert column in (*COLUMNS, REFUSED), f"unknown column {column!r}: expected one of {', '.join(COLUMNS)}"
                cells = self._cells.setdefault(_place(item, mark), {})
                cells.setdefault(column, []).append(report.outcome)
                for name, value in report.user_properties:
                    if name == "conformance":
                        figure, shown = value
                        assert figure in FIGURES, f"unknown figure {figure!r}: expected one of {', '.join(FIGURES)}"
                        cells[figure] = [shown]
        return report

    def pytest_sessionfinish(self) -> None:
        """Write the table, in place of the one that the page has."""
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else "| |\n"
        rows = {line.split("|")[1].strip(): line for line in text.splitlines()[2:] if line.startswith("| ")}
        rows.pop("place", None)
        for place, cells in self._cells.items():
            rows[place] = f"| {' | '.join((place, *_row(cells)))} |"
        lines = [f"| {' | '.join(('place', *COLUMNS, *FIGURES))} |", *rows.values()]
        lines.insert(1, "|" + "---|" * (1 + len(COLUMNS) + len(FIGURES)))
        page = re.sub(r"^\|.*\n(\|.*\n)*", lambda _: "\n".join(lines) + "\n", text, count=1, flags=re.MULTILINE)
        self._file.write_text(page, encoding="utf-8")


def _place(item: pytest.Item, mark: pytest.Mark) -> str:
    if "place" in mark.kwargs:
        return str(mark.kwargs["place"])
    params: dict[str, Any] = getattr(item, "callspec").params  # noqa: B009 (items without parameters have none)
    return str(next(iter(params.values())))


def _row(cells: dict[str, list[str]]) -> list[str]:
    """Words for each column."""
    if REFUSED in cells:
        word = "refused" if _shown(cells[REFUSED]) == "yes" else "**not refused**"
        return [word] * len(COLUMNS) + ["–"] * len(FIGURES)
    return [_shown(cells.get(column, [])) for column in COLUMNS] + [cells.get(figure, ["–"])[0] for figure in FIGURES]


def _shown(outcomes: list[str]) -> str:
    if not outcomes or set(outcomes) == {"skipped"}:
        return "–"
    return "**no**" if "failed" in outcomes else "yes"
