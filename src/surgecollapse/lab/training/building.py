"""From a configuration to its net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from surgecollapse.errors import ConfigError
from surgecollapse.lab.models.registry import Model
from surgecollapse.lab.training.small_dense import with_small_widths

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data


def build_model(config: RunConfig, data: Data) -> nn.Module:
    """Build the model of a configuration for the shape of its data, initialized from ``config.seed`` alone.

    ``init_scale`` is a factor on all parameters, biases too (Liu et al. 2022, arXiv 2210.01117). The global random
    state is left as it was.

    With ``shrink_to_sparsity`` its widths are smaller, see
    :func:`~surgecollapse.lab.training.small_dense.with_small_widths`.

    Raises:
        ConfigError: if the model cannot read this kind of data, or cannot shrink that far.
    """
    check_readable(config, data)
    section = config.model
    if isinstance(section, Model) and section.shrink_to_sparsity:
        section = with_small_widths(section, data)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.run.seed)  # of the CPU: it leaves those of GPUs alone
        model = section.build(data)
    scale_first_weights(model, config.model)
    return model.to(getattr(torch, config.run.precision))


@torch.no_grad()
def scale_first_weights(model: nn.Module, section: Any) -> None:
    """Scale a new model as its section says, in place: every row to a norm, all weights, embeddings and positions.

    Args:
        model: new; ``positions`` is its embedding of positions, if it has one.
        section: may have ``init_row_norm``, ``init_scale``, ``embedding_scale`` and ``position_scale``.

    >>> from types import SimpleNamespace
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> scale_first_weights(model, SimpleNamespace(init_row_norm=10.0, init_scale=0.5))
    >>> model.weight.tolist()
    [[3.0, 4.0]]
    """
    scale, row_norm = getattr(section, "init_scale", 1.0), getattr(section, "init_row_norm", None)
    embeddings, positions = getattr(section, "embedding_scale", 1.0), getattr(section, "position_scale", 1.0)
    for parameter in model.parameters():
        if row_norm is not None:
            norms = parameter.norm(dim=-1, keepdim=True)
            parameter.mul_(torch.where(norms > 0, row_norm / norms, norms))
        if scale != 1.0:  # the first weights of a user's model stay as they are, whatever their type
            parameter.mul_(scale)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            if embeddings != 1.0:
                module.weight.mul_(embeddings)
            if module is getattr(model, "positions", None):
                module.weight.mul_(positions)


def check_readable(config: RunConfig, data: Data) -> None:
    """Check that the model reads this kind of data, and that it can know how many outputs it has.

    Raises:
        ConfigError: if it does not.
    """
    if not config.model.reads:
        return
    *first, last = config.model.reads
    if data.kind not in config.model.reads:
        kinds = f"{', '.join(first)} and {last}" if first else last
        raise ConfigError(
            f"model {config.model.name!r} reads data of kind {kinds}, but task {data.name!r} gives {data.kind}"
        )
    if not data.num_classes and data.kind != "graph" and not data.y_train.is_floating_point():
        how = (
            "set classes" if hasattr(config.data, "classes") else "give the training data set an attribute num_classes"
        )
        raise ConfigError(
            f"model {config.model.name!r} must know the number of classes: {how}, or choose a model of your own"
        )
