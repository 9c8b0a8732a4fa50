"""The scores of a run's network: on training, validation and test samples."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from surgecollapse.lab.data.dataset import training_sample
from surgecollapse.lab.data.streamed import StreamedData
from surgecollapse.lab.training.evaluation import predict, score_stream
from surgecollapse.lab.training.forecasts import prediction_confidence
from surgecollapse.lab.training.optim import loss_name
from surgecollapse.lab.training.outputs import right_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.training.attachments import Attached
    from surgecollapse.torch_utils.distributed import Ranks

_FORECAST_PARTS = ("train", "validation")


class Evaluator:
    """Measures accuracy and loss, with averaged weights where the run has them. The first rank measures for all.

    Args:
        config: the run.
        model: its network.
        data: its samples.
        loss: takes logits and labels.
        attached: what is attached to the network.
        ranks: the processes of the run.
        note: takes the name and value of a measurement.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        data: Data,
        loss: Callable[[Tensor, Tensor], Tensor],
        attached: Attached,
        ranks: Ranks,
        note: Callable[[str, float], None],
    ) -> None:
        self._config, self._model, self._data, self._loss = config, model, data, loss
        self._attached, self._ranks, self._note = attached, ranks, note

    def training(self) -> tuple[float, float]:
        """Accuracy and loss on a sample of the training data."""
        data, some = self._data, training_sample(self._data)
        return self._agreed(lambda: self._score(data.x_train[some], data.y_train[some], "train"))

    def recorded(self, part: Literal["validation", "test"]) -> tuple[float, float]:
        """Accuracy in [0, 1] and loss, recorded; where the loss is in nats per character, also in bits.

        Of data that is streamed, the validation score is that of some of it.
        """
        accuracy, loss = self._agreed(lambda: self._score_part(part, whole=part == "test"))
        self._note(f"accuracy/{part}", accuracy)
        self._note(f"loss/{part}", loss)
        for name, bits in self.bits(loss).items():
            self._note(f"{name}/{part}", bits)
        return accuracy, loss

    def validation(self) -> tuple[float, float]:
        """Accuracy and loss on the whole validation set."""
        return self._agreed(lambda: self._score_part("validation", whole=True))

    def now(self) -> tuple[float, float]:
        """Accuracy and loss on the validation data, not recorded."""
        return self._agreed(lambda: self._score_part("validation", whole=False, told=False))

    def bits(self, loss: float) -> dict[str, float]:
        """The loss in bits per character, by name, where it is in nats per character; else nothing."""
        in_nats = self._data.kind == "text" and loss_name(self._config, self._data).startswith("cross_entropy")
        return {"bits_per_character": loss / math.log(2)} if in_nats else {}

    def _agreed(self, scores: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        found: tuple[float, float] = self._ranks.from_first(scores() if self._ranks.first else None)
        return found

    def _score_part(
        self, part: Literal["validation", "test"], *, whole: bool, told: bool = True
    ) -> tuple[float, float]:
        data, averaged = self._data, self._attached.averaged
        if not isinstance(data, StreamedData):
            watched = "" if (part == "validation" and whole) or not told else part
            return self._score(getattr(data, f"x_{part}"), getattr(data, f"y_{part}"), watched)
        with nullcontext() if averaged is None else averaged.applied():
            most = None if whole else data.validation_samples
            return score_stream(self._model, data, part, self._loss, self._config.run.batch_size, most)

    def _score(self, x: Tensor, y: Tensor, part: str = "") -> tuple[float, float]:
        """Accuracy in [0, 1], over all positions of text, and loss."""
        averaged = self._attached.averaged
        with nullcontext() if averaged is None else averaged.applied():
            logits = predict(self._model, x)
        if self._config.run.forecast != "none" and part in _FORECAST_PARTS:
            for name, value in prediction_confidence(logits, part).items():
                self._note(name, value)
        return right_share(logits, y, self._data.tolerance), self._loss(logits, y).item()
