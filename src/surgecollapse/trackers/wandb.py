"""Weights & Biases, offline: files that ``wandb sync`` uploads if and when a person wants that."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.trackers.protocol import numbers, plain
from surgecollapse.trackers.registry import tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@tracker("wandb")
class Wandb:
    """An offline run in a folder; no request leaves the machine.

    Every entry carries its ``step`` as a value of its own, which the charts have as their axis: W&B's own step may
    only rise, and a run that was rolled back has steps twice.

    Args:
        name: of the run.
        config: its configuration.
        folder: W&B puts its folder ``wandb`` into it.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
    """

    package = "wandb"

    @staticmethod
    def place(run: Path) -> Path:
        """Where its files of a run are by default."""
        return run.parent

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        os.environ["WANDB_MODE"], os.environ["WANDB_ERROR_REPORTING"] = "offline", "false"
        self._wandb: Any = import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        quiet = self._wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run = self._wandb.init(
            project="surgecollapse", name=name, config=plain(config), dir=str(folder), mode="offline", settings=quiet
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._rows: list[list[Any]] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One entry of the log."""
        self._run.log({"step": step, **values})

    def text(self, step: int, title: str, text: str) -> None:
        """A row of the table of events."""
        self._rows.append([step, title, text])

    def histogram(self, step: int, name: str, edges: NDArray[Any], counts: NDArray[Any]) -> None:
        """As W&B's own."""
        self._run.log({"step": step, name: self._wandb.Histogram(np_histogram=(counts, edges))})

    def picture(self, step: int, name: str, path: Path) -> None:
        """As an image."""
        self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def back(self, step: int) -> None:
        """Nothing can be taken back; the events say that it happened."""

    def finish(self, summary: Mapping[str, Any]) -> str:
        """The final numbers as the run's summary, and the table of events."""
        self._run.log({"events": self._wandb.Table(columns=["step", "event", "text"], data=self._rows)})
        self._run.summary.update({f"final/{name}": value for name, value in numbers(summary).items()})
        place = Path(self._run.dir).parent
        self._run.finish()
        return f"offline run of W&B in {place}; to upload it: wandb sync {place}"
