"""The section ``run``: how long, on what, towards which goal, and what is kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from surgecollapse.controller.rules import Rule
from surgecollapse.errors import unknown
from surgecollapse.lab.references import absolute, is_reference
from surgecollapse.lab.section import Section
from surgecollapse.plugins import offered

if TYPE_CHECKING:
    from typing import Self

FORECASTS = ("none", "slope")
_NO_LONGER = ("train", "unlabeled", "labeled")
"""Learned detectors of version 0.1, which do not beat the slope."""
LOSSES = ("cross_entropy", "cross_entropy_float64", "stablemax", "mse", "auto")
MOST_THREADS = 1_024
"""More threads than any machine has cores; torch crashes on numbers far above that."""


class RuleSection(Section):
    """One rule of ``[[rules]]``."""

    when: str = Field(description="A series and a condition, as in: loss is nan for 3 readings.")
    do: str = Field(description="A command, as in: pump noise_std=0.1; stop; or alert.")

    @model_validator(mode="after")
    def _reads(self) -> Self:
        self.rule()
        return self

    def rule(self) -> Rule:
        """The rule, read."""
        return Rule(self.when, self.do)


class Run(Section):
    """The course of a run."""

    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything that is random.")
    split_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of the data: of the split, and of what is generated or drawn; default: seed. With it, runs "
        "of different seeds have the same test set.",
    )
    steps: int | None = Field(None, ge=1, le=10**12, description="Optimizer steps; or give epochs.")
    epochs: float | None = Field(None, gt=0, le=1e9, description="Passes over the training data; or give steps.")
    batch_size: int = Field(64, ge=0, description="Samples in a batch; 0 takes all of them.")
    scale_partial_batches: bool = Field(
        False, description="Weigh the loss of a batch that is short of batch_size (each epoch's last) by its size."
    )
    loss: str = Field(
        "cross_entropy",
        description="Loss: cross_entropy; cross_entropy_float64 and stablemax resist softmax collapse; mse is on "
        "one-hot targets; auto: cross_entropy for classes, mse for numbers; or your own, as file.py:name, called with "
        "outputs and targets.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weigh classes in the loss by their inverse frequency."
    )
    precision: Literal["float32", "float64"] = Field("float32", description="Precision of weights and data.")
    mixed_precision: Literal["none", "bfloat16"] = Field(
        "none",
        description="bfloat16: forward passes of training steps run under torch.autocast; weights, optimizer and "
        "evaluations stay in float32.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute the activations inside each block of the model again in the backward pass, which saves "
        "memory and changes no result.",
    )

    early_stopping: int = Field(
        0,
        ge=0,
        description="Stop after that many evaluations without improvement, once the mask is final; 0: never.",
    )
    stop_at_accuracy: float | None = Field(
        None, gt=0, le=1, description="Stop once three evaluations on end reach this validation accuracy."
    )
    until: Literal["end", "grokked"] = Field(
        "end", description="grokked: stop once three evaluations on end reach 95% validation accuracy."
    )
    forecast: str = Field(
        "none",
        description="Raise an alarm when the net is about to generalize, by the slope of the validation loss (slope), "
        "or will not; calibrated on small perceptrons. There 1% of the runs that did not grok had a false alarm, on "
        "small transformers 19%. Or a detector that a package offers.",
    )
    give_up: bool = Field(
        False, description="Stop when the forecast says that the net will not generalize; takes a forecast."
    )

    stop_when_diverged: bool = Field(
        True, description="Stop when three recorded training losses on end are not finite; the run is then diverged."
    )
    rules: tuple[RuleSection, ...] = Field(
        (),
        description="What is done once a condition holds: tables of when and do, in a file as [[rules]]; as a flag, "
        "WHEN => DO, with semicolons between rules.",
    )

    evaluate_every: int = Field(100, ge=1, description="Steps between two evaluations.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(
        2,
        ge=0,
        description="Newest checkpoints that are kept beside the best; 0 keeps all, as analyses over time need.",
    )
    gradient_trace_every: int = Field(
        0,
        ge=0,
        description="Steps between two records of sixteen entries of each weight matrix and of its gradient, whose "
        "slow and fast parts the report shows; 0: none.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Where it trains; cuda is the GPU that CUDA_VISIBLE_DEVICES names first. Small nets are quicker on "
        "a CPU.",
    )
    threads: int = Field(
        1, ge=1, le=MOST_THREADS, description="Threads of torch; results are reproducible for a fixed number only."
    )

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, loss: str) -> str:
        if is_reference(loss):
            return absolute(loss)
        if loss not in LOSSES:
            raise ValueError(unknown("loss", loss, LOSSES) + ". Your own: file.py:name")
        return loss

    @field_validator("forecast")
    @classmethod
    def _is_known(cls, forecast: str) -> str:
        if forecast in _NO_LONGER:
            raise ValueError(
                f"forecast {forecast!r} is no longer there: the slope of the validation loss beats it; use 'slope'"
            )
        if forecast not in FORECASTS and forecast not in offered("detectors"):
            raise ValueError(unknown("forecast", forecast, [*FORECASTS, *offered("detectors")]))
        return forecast

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and only one of them")
        if self.mixed_precision != "none" and self.precision != "float32":
            raise ValueError(f"mixed_precision = 'bfloat16' is over float32 weights, not {self.precision}: drop one")
        if self.give_up and self.forecast == "none":
            raise ValueError("give_up = true needs a forecast: choose slope")
        if self.until == "grokked" and self.stop_at_accuracy is not None:
            raise ValueError("until = 'grokked' and stop_at_accuracy are two goals: drop one")
        return self

    @property
    def data_seed(self) -> int:
        """Seed of the data.

        >>> Run(steps=1, seed=3).data_seed, Run(steps=1, seed=3, split_seed=0).data_seed
        (3, 0)
        """
        return self.seed if self.split_seed is None else self.split_seed

    def total_steps(self, train_size: int) -> int:
        """Optimizer steps of the whole run, given the number of training samples.

        >>> Run(epochs=2, batch_size=64).total_steps(100)
        4
        """
        if self.steps is not None:
            return self.steps
        batch = min(self.batch_size or train_size, train_size)
        return max(1, round((self.epochs or 0) * math.ceil(train_size / batch)))
