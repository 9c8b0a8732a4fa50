"""The models of the published experiments, small enough to read.

Activations are modules, so that readings find them; the output layer is the last linear layer, so that it is
left unpruned by default; token and position tables are embeddings for the same reason.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.lab.config import ConfigError
from surgecollapse.lab.config.model import (
    AutoregressiveModel,
    CNNModel,
    DecoderModel,
    GNNModel,
    GPTModel,
    LSTMModel,
    MLPModel,
    TransformerModel,
)
from surgecollapse.lab.models.decoder import Decoder
from surgecollapse.lab.models.gnn import GraphNet
from surgecollapse.lab.models.gpt import GPT
from surgecollapse.lab.models.lstm import LSTMClassifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.registry import Data

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Module):
    """Linear layers with an activation and dropout between them; inputs of any shape are flattened.

    Args:
        inputs: values per sample.
        widths: hidden widths; none of them makes a linear classifier.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate after each hidden activation.
        bias: whether the linear layers have biases.

    >>> MLP(4, (8, 8), 3)(torch.zeros(2, 2, 2)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=bias), _ACTIVATIONS[activation](), *_dropout(dropout)]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class SmallCNN(nn.Module):
    """3×3 convolutions, each with an activation and 2×2 pooling; a linear head reads all places.

    Args:
        shape: channels, height and width of an image; both sides at least 2 to the number of layers.
        channels: output channels of each convolution.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate before the head.

    >>> SmallCNN((1, 8, 8), (4, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(shape[1:]) < 2 ** len(channels):
            raise ConfigError(f"{len(channels)} layers of the cnn need sides ≥ {2 ** len(channels)}, got {shape[1:]}")
        layers: list[nn.Module] = []
        width = shape[0]
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, padding=1), _ACTIVATIONS[activation](), nn.MaxPool2d(2)]
            width = out
        side = math.prod(length // 2 ** len(channels) for length in shape[1:])
        self.body = nn.Sequential(*layers, nn.Flatten(), *_dropout(dropout))
        self.head = nn.Linear(width * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, h, w)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class SeriesCNN(nn.Module):
    """Convolutions of length 5, then 3, all with stride 2, each with an activation; a linear head reads all places.

    The frame of the convolutional net that came with MNIST-1D (Greydanus and Kobak, arXiv 2011.14439), whose three
    layers have 25 channels.

    Args:
        shape: channels and length of a series; the length at least 4 times 2 to the number of layers.
        channels: output channels of each convolution.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate after each activation.

    >>> SeriesCNN((1, 40), (25, 25, 25), 10)(torch.zeros(2, 1, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        channels: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, length = shape
        if length < 4 * 2 ** len(channels):
            raise ConfigError(
                f"{len(channels)} layers of the cnn need a length ≥ {4 * 2 ** len(channels)}, got {length}"
            )
        layers: list[nn.Module] = []
        for i, out in enumerate(channels):
            kernel = 3 if i else 5
            layers += [
                nn.Conv1d(width, out, kernel, stride=2, padding=1),
                _ACTIVATIONS[activation](),
                *_dropout(dropout),
            ]
            width, length = out, (length + 2 - kernel) // 2 + 1
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(width * length, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of series (n, channels, length)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class OneLayerTransformer(nn.Module):
    """One causal block without LayerNorm: h = e + attention(e), h + MLP(h), linear head on the last position.

    The architecture of Nanda et al. (2301.05217): width 128, 4 heads, MLP 512, ReLU, learned positions,
    untied head without bias. Deviation: attention has no biases, and the tables start at N(0,
    1/width). Only the last position is computed, as no other enters the loss: it sees them all.

    Args:
        vocabulary: number of different tokens.
        length: tokens in a sample.
        classes: outputs.
        width: width of the residual stream, a multiple of ``heads``.
        hidden: width of the MLP.
        heads: attention heads.
        activation: ``relu`` or ``gelu``.
        dropout: rate after the MLP's activation.

    >>> OneLayerTransformer(7, 4, 5, width=8, hidden=16)(torch.zeros(2, 4, dtype=torch.int64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        classes: int,
        *,
        width: int = 128,
        hidden: int = 512,
        heads: int = 4,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"the transformer's width must be a multiple of its {heads} heads, got {width}")
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), _ACTIVATIONS[activation](), *_dropout(dropout), nn.Linear(hidden, width)
        )
        self.head = nn.Linear(width, classes, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) that follow token rows (n, length)."""
        embedded = self.tokens(x) + self.positions.weight[: x.shape[1]]
        last = embedded[:, -1:]
        attended, _ = self.attention(last, embedded, embedded, need_weights=False)
        stream = (last + attended)[:, 0]
        return self.head(stream + self.mlp(stream))  # type: ignore[no-any-return]


class AutoregressiveMLP(nn.Module):
    """The published project's "auto-regressive" net: one fully connected ReLU layer of 256 units, then a
    linear head.

    As published (CogNetSys/stabilai, model architecture) the class is a plain two-layer perceptron on a
    vector. Our reading for token tasks: it sees the sequence so far as one-hots, side by side, and gives the
    logits of the next token; vectors and images enter as they are.

    Args:
        inputs: values of a vector or image, or the number of tokens in a sample.
        classes: outputs.
        hidden: width.
        vocabulary: number of different tokens; 0 for vectors and images.
        activation: ``relu`` or ``gelu``.
        dropout: rate after the activation.

    >>> AutoregressiveMLP(4, 5, vocabulary=7)(torch.zeros(2, 4, dtype=torch.int64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        hidden: int = 256,
        vocabulary: int = 0,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.hidden = nn.Linear(inputs * max(vocabulary, 1), hidden)
        self.activation = nn.Sequential(_ACTIVATIONS[activation](), *_dropout(dropout))
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of the next token, or of the class."""
        if self.vocabulary:
            x = nn.functional.one_hot(x, self.vocabulary).to(self.hidden.weight.dtype)
        return self.head(self.activation(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


def build_model(config: RunConfig, data: Data) -> nn.Module:
    """Build the model of a configuration for the shape of its data, initialised from ``config.seed`` alone.

    ``init_scale`` is a factor on all parameters, biases too (Liu et al. 2022, arXiv 2210.01117). The global random
    state is left as it was.

    Raises:
        ConfigError: if the model cannot read this kind of data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.run.seed)  # of the CPU: it leaves those of GPUs alone
        model = _construct(config, data)
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


def _construct(config: RunConfig, data: Data) -> nn.Module:
    size, chosen = math.prod(data.input_shape), config.model
    width, hidden = (*chosen.widths, 4 * sum(chosen.widths[:1]))[:2] if chosen.widths else (0, 0)
    if isinstance(chosen, GNNModel) and data.kind == "graph":
        return GraphNet((*chosen.widths, *chosen.widths[-1:] * 2)[:3])
    if isinstance(chosen, LSTMModel) and data.kind == "tokens":
        return LSTMClassifier(
            data.vocabulary,
            data.num_classes,
            embedding=width,
            hidden=hidden,
            dropout=chosen.dropout,
            readout=chosen.readout,
        )
    if isinstance(chosen, LSTMModel | GNNModel):
        raise _misfit(config, data)
    style: dict[str, Any] = {"activation": chosen.activation, "dropout": chosen.dropout}
    if isinstance(chosen, MLPModel) and data.kind not in ("tokens", "text", "graph"):
        return MLP(size, chosen.widths, data.num_classes, bias=chosen.bias, **style)
    if isinstance(chosen, CNNModel) and data.kind == "image":
        channels, height, length = data.input_shape
        return SmallCNN((channels, height, length), chosen.widths, data.num_classes, **style)
    if isinstance(chosen, CNNModel) and data.kind == "series":
        channels, length = data.input_shape
        return SeriesCNN((channels, length), chosen.widths, data.num_classes, **style)
    if isinstance(chosen, AutoregressiveModel) and data.kind not in ("text", "graph"):
        return AutoregressiveMLP(size, data.num_classes, hidden=width, vocabulary=data.vocabulary, **style)
    style |= {"width": width, "hidden": hidden}
    if isinstance(chosen, TransformerModel) and data.kind == "tokens":
        return OneLayerTransformer(data.vocabulary, data.input_shape[0], data.num_classes, **style)
    if isinstance(chosen, DecoderModel) and data.kind == "tokens":
        economy = "last" if chosen.dropout else "prefixes"
        return Decoder(data.vocabulary, data.input_shape[0], economy=economy, **style)
    if isinstance(chosen, GPTModel) and data.kind == "text":
        return GPT(data.vocabulary, data.input_shape[0], **style)
    raise _misfit(config, data)


def _misfit(config: RunConfig, data: Data) -> ConfigError:
    """The error for a model that cannot read the data."""
    reads = {
        "mlp": "vectors, series, images and pairs",
        "cnn": "images and series",
        "autoregressive": "all but text and graphs",
        "gpt": "text",
        "gnn": "graphs",
    }.get(config.model.name, "tokens")
    return ConfigError(f"model {config.model.name!r} reads {reads}, but task {data.name!r} gives {data.kind}")


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []
