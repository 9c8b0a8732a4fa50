"""A run read back as tables."""

from __future__ import annotations

import pytest

from surgecollapse.record import RunStore
from surgecollapse.record.frames import load_run

pytest.importorskip("pandas")


def test_tables_have_their_columns_before_anything_was_recorded(tmp_path):
    with RunStore(tmp_path / "run.db", mode="w"):
        pass
    with load_run(tmp_path) as run:
        tables = {name: getattr(run, name)() for name in (
            "measurements", "readings", "layers", "decisions", "interventions", "ledger", "commands"
        )}  # fmt: skip
    assert all(len(table) == 0 for table in tables.values())
    assert {"step", "name", "layer", "value"} == set(tables["measurements"].columns)
    for name, column in {
        "readings": "on_off", "layers": "units", "decisions": "reason", "interventions": "energy_injected",
        "ledger": "live", "commands": "status",
    }.items():  # fmt: skip
        assert {"step", column} <= set(tables[name].columns)
        assert len(set(tables[name].columns)) == len(tables[name].columns)
