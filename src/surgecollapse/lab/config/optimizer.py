"""The section ``optimizer``: how weights move, and how fast. The name decides which keys there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from surgecollapse.lab.section import Section

if TYPE_CHECKING:
    from typing import Self

_NAME = "Optimizer; muon moves hidden matrices by Muon, the rest by AdamW."
_MOMENTUM = "Momentum of sgd, rmsprop and muon; first beta of adam, adamw and lion."
_BETA2 = "Second beta of adam(w), lion and muon; smoothing of rmsprop."


class AnyOptimizer(Section):
    """What every optimizer has."""

    name: str = Field(description=_NAME)
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Peak learning rate.")
    weight_decay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Weight decay (decoupled in adamw, lion and muon, else L2)."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description=_MOMENTUM)
    embedding_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on the learning rate of embedding tables."
    )
    position_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on that of the table of positions."
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="Learning rate after the warm-up: constant, or down to zero."
    )
    warmup: int = Field(0, ge=0, description="Steps of linear warm-up.")
    lr_hold_steps: int = Field(
        0, ge=0, description="Step until which cosine and linear keep the peak rate before they fall."
    )

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.lr_hold_steps and self.schedule == "constant":
            raise ValueError(f"lr_hold_steps = {self.lr_hold_steps} has no effect with schedule = 'constant': drop it")
        return self


class _Adaptive(AnyOptimizer):
    beta2: float = Field(0.999, ge=0, lt=1, description=_BETA2)
    eps: float = Field(
        1e-8, gt=0, allow_inf_nan=False, description="Added to the denominator of adam(w): gradients far below it rest."
    )


class AdamWOptimizer(_Adaptive):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field(description=_NAME)


class AdamOptimizer(_Adaptive):
    """Adam with an L2 term."""

    name: Literal["adam"] = Field(description=_NAME)


class SGDOptimizer(AnyOptimizer):
    """Stochastic gradient descent with Nesterov momentum."""

    name: Literal["sgd"] = Field(description=_NAME)


class RMSpropOptimizer(AnyOptimizer):
    """RMSprop."""

    name: Literal["rmsprop"] = Field(description=_NAME)
    beta2: float = Field(0.999, ge=0, lt=1, description=_BETA2)


class MuonOptimizer(AnyOptimizer):
    """Muon for hidden matrices, AdamW for the rest."""

    name: Literal["muon"] = Field(description=_NAME)
    momentum: float = Field(0.95, ge=0, lt=1, description=_MOMENTUM)
    beta2: float = Field(0.95, ge=0, lt=1, description=_BETA2)
    muon_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on the learning rate of hidden matrices under muon."
    )
    muon_tokens: bool = Field(False, description="Whether muon moves the table of tokens, too, and not AdamW.")
    muon_beta1: float = Field(0.9, ge=0, lt=1, description="First beta of the AdamW beside muon.")
    decay_vectors: bool = Field(
        True, description="Whether weight decay beside muon is for biases and gains of norms, too."
    )


class LionOptimizer(AnyOptimizer):
    """Steps along the sign of an interpolated momentum; rates are a third to a tenth of AdamW's."""

    name: Literal["lion"] = Field(description=_NAME)
    beta2: float = Field(0.99, ge=0, lt=1, description=_BETA2)


Optimizer = Annotated[
    AdamWOptimizer | AdamOptimizer | SGDOptimizer | RMSpropOptimizer | MuonOptimizer | LionOptimizer,
    Field(discriminator="name"),
]
