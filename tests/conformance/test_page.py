"""The published table has every architecture, and nothing that failed."""

from __future__ import annotations

from pathlib import Path

from conformance.architectures import ARCHITECTURES
from conformance_table import COLUMNS, FIGURES

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_published_table_has_every_architecture_and_no_failure():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert tuple(head) == ("place", *COLUMNS, *FIGURES)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table.keys() >= ARCHITECTURES.keys()
    assert not any("no" in cell for cells in table.values() for cell in list(cells.values())[1:])
    for name in ARCHITECTURES:
        alone = [column for column in COLUMNS if column != "ranks equal"]
        assert all(table[name][column] == "yes" for column in alone), name
