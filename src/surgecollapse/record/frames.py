"""A finished or running run as pandas tables and NumPy arrays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.errors import counted
from surgecollapse.events import Decision, Intervention, LayerChange, LayerReading, Reading
from surgecollapse.record.commands import CommandQueue, QueuedCommand
from surgecollapse.record.plot import plot_run
from surgecollapse.record.store import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    import pandas as pd
    from numpy.typing import NDArray

    from surgecollapse.record.store import Series


class Run:
    """What one run recorded; made by :func:`load_run`. Tables need pandas, :meth:`series` and :meth:`arrays` do not.

    Args:
        path: the run directory, or its ``run.db``.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the file is no run store, or is written by a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        place = Path(path)
        self.path = place / "run.db" if place.is_dir() else place
        self.store = RunStore(self.path)

    def __enter__(self) -> Run:
        """Open already; returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    @property
    def meta(self) -> dict[str, Any]:
        """Run-level values: ``config``, ``environment``, ``data``, ``status``, ``summary``, ``checkpoints`` …"""
        return self.store.meta()

    @property
    def modified_by_user(self) -> bool:
        """Whether a user changed the run while it trained."""
        return self.store.modified_by_user

    def __str__(self) -> str:
        done, readings = len(list(self.store.interventions())), list(self.store.readings())
        parts = [f"{self.path.parent.name}: {self.store.get('status', 'recorded')}"]
        if readings:
            last = readings[-1]
            parts.append(f"step {last.step} at the last reading, {last.sparsity:.1%} of the prunable weights zero")
        return ", ".join([*parts, counted(done, "intervention")])

    def __repr__(self) -> str:
        return f"<Run {self}>"

    def plot(self) -> Any:
        """Draw sparsity, entropy and interventions over the steps; a matplotlib figure, which a notebook shows.

        Raises:
            ImportError: without matplotlib, with what to install.
        """
        return plot_run(self.store.readings(), self.store.interventions())

    def series(self, name: str, layer: str | None = None) -> Series:
        """Steps and values of one measured series, as arrays."""
        return self.store.measurements(name, layer)

    def arrays(self, name: str) -> list[tuple[int, NDArray[Any]]]:
        """Recorded arrays of one name with their steps."""
        return self.store.arrays(name)

    def measurements(self) -> pd.DataFrame:
        """All numbers, long: ``step, name, layer, value``."""
        rows = []
        for name, layer in self.store.names():
            steps, values = self.store.measurements(name, layer)
            pairs = zip(steps.tolist(), values.tolist(), strict=True)
            rows += [{"step": step, "name": name, "layer": layer, "value": value} for step, value in pairs]
        return _table(rows, ["step", "name", "layer", "value"])

    def readings(self) -> pd.DataFrame:
        """One row a reading, without its layers."""
        return _table((_without(asdict(event), "layers") for event in self.store.readings()), _columns(Reading))

    def layers(self) -> pd.DataFrame:
        """One row for every layer of every reading, with its ``step``."""
        return _table(
            ({"step": event.step, **asdict(layer)} for event in self.store.readings() for layer in event.layers),
            ["step", *_columns(LayerReading)],
        )

    def decisions(self) -> pd.DataFrame:
        """One row a decision."""
        rows = ({"step": step, **_without(asdict(event), "step")} for step, event in self.store.decisions())
        return _table(rows, ["step", *_columns(Decision, but=("step",))])

    def interventions(self) -> pd.DataFrame:
        """One row an intervention with its energy ledger, without its layers."""
        rows = (_without(asdict(event), "layers") for event in self.store.interventions())
        return _table(rows, _columns(Intervention))

    def ledger(self) -> pd.DataFrame:
        """One row for every layer of every intervention, with ``step`` and ``kind``."""
        rows = (
            {"step": event.step, "kind": event.kind, **asdict(layer)}
            for event in self.store.interventions()
            for layer in event.layers
        )
        return _table(rows, ["step", "kind", *_columns(LayerChange)])

    def commands(self) -> pd.DataFrame:
        """One row for everything that people asked for, and what became of it."""
        queue = CommandQueue(self.path)
        try:
            return _table((asdict(asked) for asked in queue.all()), _columns(QueuedCommand))
        finally:
            queue.close()


def load_run(path: str | Path) -> Run:
    """Read a run directory, finished or not, into pandas tables and NumPy arrays.

    Args:
        path: the run directory, or its ``run.db``.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the file is no run store, or is written by a newer version.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.db"
    >>> with RunStore(path, mode="w") as store:
    ...     store.measure(1, "loss/train", 0.5)
    ...     store.measure(2, "loss/train", 0.25)
    >>> with load_run(path) as run:
    ...     run.series("loss/train").values.tolist(), run.modified_by_user
    ([0.5, 0.25], False)
    """
    return Run(path)


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def _columns(record: type, but: tuple[str, ...] = ("layers",)) -> list[str]:
    """Names of the fields, so that an empty table has its columns, too."""
    return [name for name in record.__dataclass_fields__ if name not in but]  # type: ignore[attr-defined]


def _table(rows: Iterable[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ImportError("tables need pandas: pip install pandas, or use series() and arrays()") from error
    return pd.DataFrame(list(rows), columns=columns)
