"""Progress measures of a recorded run on modular addition or subtraction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from surgecollapse.analysis.progress import Progress, progress
from surgecollapse.errors import ConfigError
from surgecollapse.lab.tasks.modular import Modular
from surgecollapse.lab.training.evaluation import predict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data


def questions(x: Tensor, modulus: int) -> tuple[Tensor, Tensor]:
    """The two residues a and b of each sample, from tokens ``a op b =`` or two one-hots.

    >>> questions(torch.tensor([[3, 5, 1, 6]]), 5), questions(torch.tensor([[0.0, 1, 0, 1, 0, 0]]), 3)
    ((tensor([3]), tensor([1])), (tensor([1]), tensor([0])))
    """
    if x.is_floating_point():
        return x[:, :modulus].argmax(dim=1), x[:, modulus:].argmax(dim=1)
    return x[:, 0], x[:, 2]


def modular_progress(
    model: nn.Module, config: RunConfig, data: Data, frequencies: Sequence[int] | None = None
) -> Progress:
    """Train, test, restricted and excluded loss of a net on all questions (see :mod:`surgecollapse.analysis.progress`).

    Args:
        model: trained on ``data``.
        config: the run's.
        data: modular addition or subtraction, with an odd modulus.
        frequencies: key frequencies; default: the five strongest of this net.

    Raises:
        ConfigError: if the task is another.
    """
    chosen = config.data
    if not isinstance(chosen, Modular) or chosen.operation not in ("add", "sub"):
        what = f"{chosen.task} {getattr(chosen, 'operation', '')}".rstrip()
        raise ConfigError(
            f"progress measures are of modular add and sub, this run is {what}: other tasks have other circuits"
        )
    p = chosen.modulus
    logits = torch.empty(0)
    labels, training = torch.zeros(p, p, dtype=torch.int64), torch.zeros(p, p, dtype=torch.bool)
    sets = ((data.x_train, data.y_train), (data.x_validation, data.y_validation), (data.x_test, data.y_test))
    for number, (x, y) in enumerate(sets):
        answers = predict(model, x)
        if number == 0:
            logits = answers.new_zeros(p, p, answers.shape[1])
        a, b = questions(x, p)
        logits[a, b], labels[a, b], training[a, b] = answers, y, number == 0
    return progress(logits.numpy(), labels.numpy(), training.numpy(), frequencies, operation=chosen.operation)
