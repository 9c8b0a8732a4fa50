"""trackio, on this machine alone: its SQLite files, shown by ``trackio show``."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.trackers.protocol import numbers, plain
from surgecollapse.trackers.registry import tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PROJECT = "surgecollapse"


@tracker("trackio")
class Trackio:
    """A run of trackio's local project ``surgecollapse``, in its own folder (``TRACKIO_DIR``) or the one given.

    Nothing goes to a Hugging Face Space or another server, whatever the environment says.

    Args:
        name: of the run.
        config: its configuration.
        folder: where trackio keeps its files; ``None``: where it always does.

    Raises:
        ModuleNotFoundError: if trackio is not installed.
    """

    package = "trackio"

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path | None) -> None:
        for elsewhere in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL"):
            os.environ.pop(elsewhere, None)
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        if folder is not None:
            os.environ["TRACKIO_DIR"] = str(folder.resolve())
        self._trackio: Any = import_module("trackio")
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.init(
                PROJECT,
                name=name,
                config=plain(config),
                resume="never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._texts: list[str] = []
        self._last = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One entry of the log."""
        self._log(step, dict(values))

    def text(self, step: int, title: str, text: str) -> None:
        """Kept for a report at the end: trackio shows one text, not a text a step."""
        self._texts.append(f"- **step {step}, {title}:** {text}")
        self._last = max(self._last, step)

    def histogram(self, step: int, name: str, edges: NDArray[Any], counts: NDArray[Any]) -> None:
        """As trackio's own."""
        self._log(step, {name: self._trackio.Histogram(np_histogram=(counts, edges))})

    def picture(self, step: int, name: str, path: Path) -> None:
        """As an image."""
        self._log(step, {name: self._trackio.Image(str(path))})

    def back(self, step: int) -> None:
        """Nothing can be taken back; the events say that it happened."""

    def finish(self, summary: Mapping[str, Any]) -> str:
        """Final numbers and the list of events."""
        self._log(self._last, {f"final/{name}": value for name, value in numbers(summary).items()})
        if self._texts:
            self._log(self._last, {"events": self._trackio.Markdown("\n".join(self._texts))})
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()
        kept = os.environ.get("TRACKIO_DIR")
        return f"{f'TRACKIO_DIR={kept} ' if kept else ''}trackio show --project {PROJECT}"

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if values:
            self._last = max(self._last, step)
            self._trackio.log(values, step=step)
