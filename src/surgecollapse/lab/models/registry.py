"""The models by name. A new model is a new file in this package, with ``@model("its-name")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from surgecollapse.lab.references import label
from surgecollapse.lab.section import Section
from surgecollapse.plugins import Registry

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data

MOST_WIDTH = 1_000_000
"""Of one hidden layer."""
WIDTHS = (
    "Hidden widths; channels of the cnn, and of the first stage of the resnet; model and MLP width of transformer, "
    "decoder and gpt; embedding and state of the lstm; the two convolutions and the hidden layer of the gnn."
)


class AnyModel(Section):
    """The section ``model`` of any model, also of a user's own."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Kinds of :class:`~surgecollapse.lab.data.dataset.Data` that it reads; none: only the net itself says."""
    pairs_of_tokens: ClassVar[bool] = False
    """Whether it reads modular arithmetic as two one-hots side by side, and not as tokens."""
    has_embeddings: ClassVar[bool] = False
    has_positions: ClassVar[bool] = False

    name: str = Field(description="Architecture.")

    @property
    def label(self) -> str:
        """What the model is called in titles."""
        return label(self.name)

    def build(self, data: Data) -> nn.Module:
        """Return a new net for the shape of the data; torch's global generator is seeded."""
        raise NotImplementedError


class Model(AnyModel):
    """A model of the library: the architecture and its first weights. A subclass has the keys of one model."""

    needs_width: ClassVar[bool] = True
    width_multiple: ClassVar[int] = 1
    """The first width is a multiple of it."""

    widths: tuple[int, ...] = Field(description=WIDTHS)
    init_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on all initial weights; large ones delay generalization."
    )
    init_row_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Bring every row of the initial weights to this norm, before any factor; vectors are one row.",
    )
    shrink_to_sparsity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Train a smaller dense network: the widths are scaled so that it has as many weights as this one "
        "has open at that sparsity; 0: the widths as given.",
    )

    @field_validator("widths")
    @classmethod
    def _possible(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if not widths and cls.needs_width:
            name = next((name for name, kind in MODELS.items() if kind is cls), cls.__name__)
            raise ValueError(f"widths must name at least one width for model {name!r}")
        if any(not 1 <= width <= MOST_WIDTH for width in widths):
            raise ValueError(f"widths must be from 1 to {MOST_WIDTH}, got {list(widths)}")
        return widths

    @property
    def width_and_hidden(self) -> tuple[int, int]:
        """The first two widths; the second is by default four times the first."""
        width, hidden = (*self.widths, 4 * self.widths[0])[:2]
        return width, hidden


class WithDropout(Model):
    """A model with dropout."""

    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate after each hidden activation.")


class WithActivation(WithDropout):
    """A model whose activation can be chosen."""

    activation: Literal["relu", "gelu"] = Field("relu", description="Activation function.")

    @property
    def style(self) -> dict[str, Any]:
        """Activation and dropout as arguments of the nets."""
        return {"activation": self.activation, "dropout": self.dropout}


class WithEmbeddings(WithDropout):
    """A model with a table of tokens."""

    has_embeddings = True
    embedding_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial embedding tables."
    )


class WithPositions(WithEmbeddings, WithActivation):
    """A model with attention over learned positions."""

    has_positions = True
    width_multiple = 4
    widths: tuple[int, ...] = Field((128, 512), description=WIDTHS)
    position_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial table of positions, beside that."
    )

    @property
    def shape(self) -> dict[str, Any]:
        """Activation, dropout and both widths as arguments of the nets."""
        width, hidden = self.width_and_hidden
        return {**self.style, "width": width, "hidden": hidden}


model: Registry[type[Model]] = Registry("models", "model", "surgecollapse.lab.models")
"""Decorator that gives a model its name, and the mapping of all named ones."""
MODELS = model
"""The models that have a name, in files and on the command line."""
