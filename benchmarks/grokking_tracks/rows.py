"""Rows of finished runs: a configuration is written once, in the first row of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _harness import append_row, read_rows

OWN = ("seed", "data_dir", "device", "threads")
"""Keys in which runs of one kind may differ."""


def shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs of one kind have in common."""
    return {name: value for name, value in config.items() if name not in OWN}


def add_row(file: Path, row: Mapping[str, Any], kind: Sequence[str]) -> None:
    """Write a run down, without its configuration if the first row with the same values of ``kind`` has it."""
    before = config_of([other for other in read_rows(file) if all(other[key] == row[key] for key in kind)])
    known = before is not None and before == shared(row["config"])
    append_row(file, {name: value for name, value in row.items() if not (known and name == "config")})


def config_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The configuration of rows of one kind, which the first of them has; ``None`` without rows."""
    return next((shared(row["config"]) for row in rows if "config" in row), None)
