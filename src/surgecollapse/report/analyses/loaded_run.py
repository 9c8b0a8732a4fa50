"""One run as analyses see it: its nets at several times, and samples to show them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from surgecollapse.analysis.representations import Representations, represent
from surgecollapse.lab.nets.decoder import Decoder
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.checkpoint import load_weights, must_fit, step_checkpoints
from surgecollapse.lab.training.evaluation import load_checkpointed_run
from surgecollapse.lab.training.optim import make_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data

MOST_UNITS = 2_048
"""Units of a layer that are looked at; of larger ones a random part, the same at all times."""


class LoadedRun:
    """A run that was read for analyses.

    Args:
        directory: the run directory.
        name: what it is called on the page.
        samples: rows of the training and of the validation data that nets are shown, evenly spaced.
        times: most nets on the way, evenly spaced among the checkpoints; the initial and the last one are among them.
        parts: of a run of one's own loop, see :func:`~surgecollapse.lab.training.evaluation.load_checkpointed_run`.

    Raises:
        FileNotFoundError: if the directory holds no run, or its data files are gone.
        ValueError: if a file of it is damaged or too new, or no checkpoint was written yet.
    """

    def __init__(
        self, directory: Path, name: str, *, samples: int = 512, times: int = 40, parts: Mapping[str, str] | None = None
    ) -> None:
        run = load_checkpointed_run(directory, parts=parts)
        self.directory, self.name, self.samples = directory, name, samples
        self.config: RunConfig = run.config
        self.data: Data = run.data
        self.model: nn.Module = _traceable(run.model)
        """The net of the newest checkpoint."""
        self.step = run.step
        self.broken = run.broken
        """Parameters of that net that are not finite, with the number of such values."""
        self.masks = run.masks
        """Of that net, true where a weight is open; empty where none is held at zero."""
        with run.store as store:
            self.curve = store.measurements("accuracy/validation")
            self.training_curve = store.measurements("accuracy/train")
            self.loss_curve = store.measurements("loss/validation")
        paths = {int(path.stem.removeprefix("step-")): path for path in step_checkpoints(directory / "checkpoints")}
        self._paths: dict[int, Path | None] = {0: None, **dict(sorted(paths.items()))}
        every = list(self._paths)
        chosen = torch.linspace(0, len(every) - 1, min(max(2, times), len(every))).round().long().tolist()
        self.steps = tuple(every[index] for index in dict.fromkeys(chosen))
        """Of the nets, ascending from 0."""

    def nets(self) -> Iterator[tuple[int, nn.Module]]:
        """The net at each of the steps; one and the same module with other weights each time."""
        model = _traceable(build_model(self.config, self.data)).eval()
        for step in self.steps:
            path = self._paths[step]
            if path is not None:
                with must_fit(path.parent):
                    model.load_state_dict(load_weights(path))
            yield step, model

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Samples and labels ``(n,)`` that the net did not train on."""
        return self._some(self.data.x_validation, self.data.y_validation)

    @cached_property
    def training(self) -> tuple[Tensor, Tensor]:
        """Samples and labels ``(n,)`` that it did train on."""
        return self._some(self.data.x_train, self.data.y_train)

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Training samples, their labels as the loss takes them, and the loss of the run."""
        rows = self._rows(self.data.x_train)
        return self.data.x_train[rows], self.data.y_train[rows], make_loss(self.config, self.data)

    @cached_property
    def history(self) -> list[Representations]:
        """What the nets make of the validation samples."""
        return [thin(represent(net, self.validation[0])) for _, net in self.nets()]

    def _some(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        return x[rows], y[rows, -1] if y.ndim == 2 else y[rows]

    def _rows(self, x: Tensor) -> Tensor:
        return torch.linspace(0, len(x) - 1, min(self.samples, len(x))).round().long()


def thin(found: Representations) -> Representations:
    """Keep at most :data:`MOST_UNITS` units of each layer, always the same ones of layers of one size."""
    layers = {}
    for name, x in found.layers.items():
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:MOST_UNITS]
        layers[name] = x[:, order.sort().values] if x.shape[1] > MOST_UNITS else x
    return Representations(layers, found.features, found.head, found.outputs)


def _traceable(model: nn.Module) -> nn.Module:
    """One row for each sample in every layer: nothing that samples share is computed once for all."""
    if isinstance(model, Decoder) and model.economy == "prefixes":
        model.economy = "last"
    return model


def undetermined(run: LoadedRun) -> str:
    """What is said of a number at the end of training that is not finite."""
    return f"not determined: not finite are {', '.join(run.broken)}" if run.broken else "not determined: too few values"
