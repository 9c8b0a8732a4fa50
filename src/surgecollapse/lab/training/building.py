"""From a configuration to its net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from surgecollapse.errors import ConfigError

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data


def build_model(config: RunConfig, data: Data) -> nn.Module:
    """Build the model of a configuration for the shape of its data, initialized from ``config.seed`` alone.

    ``init_scale`` is a factor on all parameters, biases too (Liu et al. 2022, arXiv 2210.01117). The global random
    state is left as it was.

    Raises:
        ConfigError: if the model cannot read this kind of data.
    """
    check_readable(config, data)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.run.seed)  # of the CPU: it leaves those of GPUs alone
        model = config.model.build(data)
    embeddings = getattr(config.model, "embedding_scale", 1.0)
    positions = getattr(config.model, "position_scale", 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(config.model.init_scale)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.mul_(embeddings)
                if module is getattr(model, "positions", None):
                    module.weight.mul_(positions)
    return model.to(getattr(torch, config.run.precision))


def check_readable(config: RunConfig, data: Data) -> None:
    """Check that the model reads this kind of data.

    Raises:
        ConfigError: if it does not.
    """
    *first, last = config.model.reads
    if data.kind not in config.model.reads:
        kinds = f"{', '.join(first)} and {last}" if first else last
        raise ConfigError(
            f"model {config.model.name!r} reads data of kind {kinds}, but task {data.name!r} gives {data.kind}"
        )
