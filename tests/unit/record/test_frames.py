"""A run read back as tables."""

from __future__ import annotations

import pytest

from surgecollapse.events import Intervention, Reading
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


def test_a_run_says_in_one_line_how_far_it_is_and_draws_itself(tmp_path):
    pytest.importorskip("matplotlib")
    with RunStore(tmp_path / "run.db", mode="w") as store:
        store.set("status", "complete")
        store.record(Reading(step=50, sparsity=0.25, entropy=0.5))
        store.record(
            Intervention(
                step=50, kind="collapse", phase="sparse", reason="test", sparsity_before=0.25, sparsity_after=0.5
            )
        )
    with load_run(tmp_path) as run:
        assert str(run) == (
            f"{tmp_path.name}: complete, step 50 at the last reading, 25.0% of the prunable weights zero, "
            "1 intervention"
        )
        assert repr(run) == f"<Run {run}>"
        figure = run.plot()
        above, below = figure.axes
        assert figure._repr_png_().startswith(b"\x89PNG")  # as notebooks ask, without pyplot
        assert above.get_ylabel() == "sparsity"
        assert below.lines[0].get_ydata().tolist() == [0.5]
