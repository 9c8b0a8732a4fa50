"""Collects what the tests show about every place into one table, for the documentation.

A test marked ``@pytest.mark.conformance(column)`` says something about a place: the mark's ``place=``, or else the
``name`` of the parameter that a fixture or the test was called with. With ``--conformance-table FILE`` the outcomes
replace these cells of the table in a Markdown page, and other cells stay, so that it can be written in several runs. A
place has what a column says if every test of that cell passed. The column ``refused`` is the whole row. A test may
measure a figure, too: ``record_property("conformance", (column, figure))``.
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
        """Write what was seen into the table that the page has."""
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else "| |\n"
        head = ("place", *COLUMNS, *FIGURES)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        there = {row[0]: dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}
        for place, found in self._cells.items():
            there[place] = there.get(place, {}) | _row(found)
        rows = [head, *((place, *(row.get(column, "–") for column in head[1:])) for place, row in there.items())]
        written = [f"| {' | '.join(row)} |" for row in rows]
        written.insert(1, "|" + "---|" * len(head))
        page = re.sub(r"^\|.*\n(\|.*\n)*", lambda _: "\n".join(written) + "\n", text, count=1, flags=re.MULTILINE)
        self._file.write_text(page, encoding="utf-8")


def _place(item: pytest.Item, mark: pytest.Mark) -> str:
    if "place" in mark.kwargs:
        return str(mark.kwargs["place"])
    params: dict[str, Any] = getattr(item, "callspec").params  # noqa: B009 (items without parameters have none)
    return str(next(iter(params.values())))


def _row(cells: dict[str, list[str]]) -> dict[str, str]:
    """Words for the columns that were seen."""
    if REFUSED in cells:
        word = "refused" if _shown(cells[REFUSED]) == "yes" else "**not refused**"
        return dict.fromkeys(COLUMNS, word)
    return {
        column: found[0] if column in FIGURES else _shown(found)
        for column, found in cells.items()
        if column in FIGURES or set(found) != {"skipped"}
    }


def _shown(outcomes: list[str]) -> str:
    if set(outcomes) == {"skipped"}:
        return "–"
    return "**no**" if "failed" in outcomes else "yes"
