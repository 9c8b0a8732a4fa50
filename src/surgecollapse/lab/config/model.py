"""The section ``model``: the architecture and its first weights. The name decides which keys there are."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from surgecollapse.lab.config.section import Section

MOST_WIDTH = 1_000_000
"""Of one hidden layer."""
_NAME = "Architecture."
_WIDTHS = (
    "Hidden widths; channels of the cnn; model and MLP width of transformer, decoder and "
    "gpt; embedding and state of the lstm; the two convolutions and the hidden layer of the gnn."
)


class AnyModel(Section):
    """What every model has."""

    needs_width: ClassVar[bool] = True
    has_embeddings: ClassVar[bool] = False
    has_positions: ClassVar[bool] = False

    name: str = Field(description=_NAME)
    widths: tuple[int, ...] = Field(description=_WIDTHS)
    init_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on all initial weights; large ones delay generalization."
    )

    @field_validator("widths")
    @classmethod
    def _possible(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if not widths and cls.needs_width:
            name = get_args(cls.model_fields["name"].annotation)[0]
            raise ValueError(f"widths must name at least one width for model {name!r}")
        if any(not 1 <= width <= MOST_WIDTH for width in widths):
            raise ValueError(f"widths must be from 1 to {MOST_WIDTH}, got {list(widths)}")
        return widths


class _WithDropout(AnyModel):
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate after each hidden activation.")


class _WithActivation(_WithDropout):
    activation: Literal["relu", "gelu"] = Field("relu", description="Activation function.")


class _WithPositions(_WithActivation):
    has_embeddings = has_positions = True
    widths: tuple[int, ...] = Field((128, 512), description=_WIDTHS)
    embedding_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial embedding tables."
    )
    position_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial table of positions, beside that."
    )


class MLPModel(_WithActivation):
    """Linear layers; without widths a linear classifier."""

    needs_width = False
    name: Literal["mlp"] = Field(description=_NAME)
    widths: tuple[int, ...] = Field((256, 256), description=_WIDTHS)
    bias: bool = Field(True, description="Whether the linear layers of the mlp have biases.")


class CNNModel(_WithActivation):
    """Convolutions of images or series."""

    name: Literal["cnn"] = Field(description=_NAME)
    widths: tuple[int, ...] = Field((16, 32), description=_WIDTHS)


class AutoregressiveModel(_WithActivation):
    """One hidden layer over the tokens so far."""

    name: Literal["autoregressive"] = Field(description=_NAME)
    widths: tuple[int, ...] = Field((256,), description=_WIDTHS)


class TransformerModel(_WithPositions):
    """One block without normalization."""

    name: Literal["transformer"] = Field(description=_NAME)


class DecoderModel(_WithPositions):
    """Two blocks over tokens."""

    name: Literal["decoder"] = Field(description=_NAME)


class GPTModel(_WithPositions):
    """Blocks over characters."""

    name: Literal["gpt"] = Field(description=_NAME)


class LSTMModel(_WithDropout):
    """Two recurrent layers over words."""

    has_embeddings = True
    name: Literal["lstm"] = Field(description=_NAME)
    widths: tuple[int, ...] = Field((64, 128), description=_WIDTHS)
    embedding_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial embedding tables."
    )
    readout: Literal["last", "mean"] = Field(
        "last", description="lstm: its head reads the last state, or the mean over all of them."
    )


class GNNModel(AnyModel):
    """Convolutions of graphs."""

    name: Literal["gnn"] = Field(description=_NAME)
    widths: tuple[int, ...] = Field((32, 16, 32), description=_WIDTHS)


Model = Annotated[
    MLPModel | CNNModel | TransformerModel | AutoregressiveModel | DecoderModel | LSTMModel | GPTModel | GNNModel,
    Field(discriminator="name"),
]
