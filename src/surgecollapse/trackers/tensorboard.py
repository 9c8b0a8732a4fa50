"""TensorBoard's event files: scalars, histograms, figures, hparams, and a layout that shows the state at once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgecollapse.trackers.protocol import numbers, plain
from surgecollapse.trackers.registry import tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CHARTS = {
    "loss": ("loss/",),
    "accuracy": ("accuracy/",),
    "sparsity": ("sparsity", "reading/sparsity"),
    "entropy": ("reading/entropy", "reading/on_off", "reading/target_entropy"),
    "entropy by layer": ("layer_entropy/",),
    "on/off entropy by layer": ("layer_on_off/",),
    "energy": ("energy/weights", "gradient_norm", "reading/grad_norm"),
    "dimension and rank": ("dimension/", "rank/"),
    "sharpness": ("curvature/sharpness", "curvature/threshold"),
    "Grokfast and ⊥Grad": ("grokfast/", "orthograd/"),
}
"""Charts of the layout, in their order: their series, or how the names of these begin."""
_ENOUGH = "accuracy/validation"
"""Once this is there, so are the others that a run records."""


@tracker("tensorboard")
class TensorBoard:
    """Event files in a folder of the run, for ``tensorboard --logdir``; what an earlier export left there goes.

    Args:
        name: of the run.
        config: its configuration.
        folder: where to write.

    Raises:
        ModuleNotFoundError: if tensorboardX is not installed.
    """

    package = "tensorboardX"

    @staticmethod
    def place(run: Path) -> Path:
        """Where its files of a run are by default."""
        return run / "tensorboard"

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        tensorboard: Any = import_module("tensorboardX")
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._folder, self._config = folder, {"run": name, **plain(config)}
        self._writer = tensorboard.SummaryWriter(str(folder), flush_secs=2)
        self._seen: set[str] = set()
        self._laid_out = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._seen.update(values)
        if not self._laid_out and _ENOUGH in values:
            self._lay_out()

    def text(self, step: int, title: str, text: str) -> None:
        """In the tab of texts."""
        self._writer.add_text(title, text, step)

    def histogram(self, step: int, name: str, edges: NDArray[Any], counts: NDArray[Any]) -> None:
        """By its counts; the sums that TensorBoard wants are those of the ranges' middles."""
        if not counts.sum():
            return
        middles = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            name,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def picture(self, step: int, name: str, path: Path) -> None:
        """As an image."""
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def back(self, step: int) -> None:
        """Have later points taken away, by the mark with which a restarted writer does that."""
        proto: Any = import_module("tensorboardX.proto.event_pb2")
        mark = proto.Event(session_log=proto.SessionLog(status=proto.SessionLog.START))
        self._writer.file_writer.add_event(mark, step + 1)

    def finish(self, summary: Mapping[str, Any]) -> str:
        """Hparams with the final numbers, and the layout."""
        reached = {f"final/{name}": value for name, value in numbers(summary).items()}
        if reached:
            self._writer.add_hparams(self._config, reached, name="hparams")
        if not self._laid_out:
            self._lay_out()
        self._writer.close()
        return f"tensorboard --logdir {self._folder}"

    def _lay_out(self) -> None:
        """Group what there is by :data:`CHARTS`; TensorBoard heeds the first layout of a run."""
        charts = {title: [tag for tag in sorted(self._seen) if _in(tag, wanted)] for title, wanted in CHARTS.items()}
        self._writer.add_custom_scalars({"state": {k: ["Multiline", tags] for k, tags in charts.items() if tags}})
        self._laid_out = True


def _in(tag: str, wanted: tuple[str, ...]) -> bool:
    return any(tag.startswith(name) if name.endswith("/") else tag == name for name in wanted)
