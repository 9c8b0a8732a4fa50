"""The keys of a run, what each of them takes, and its defaults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator

from surgecollapse.lab.config.checks import check_effects, check_pattern, check_together, refuse_lookalikes
from surgecollapse.lab.config.filling import filled
from surgecollapse.plugins import offered

if TYPE_CHECKING:
    from typing import Self

TaskName = Literal[
    "digits", "mnist1d", "mnist5k", "mnist", "fashion-mnist", "modular", "parity", "dummy", "imdb", "kjv", "qm9"
]
ModelName = Literal["mlp", "cnn", "transformer", "autoregressive", "decoder", "lstm", "gpt", "gnn"]
PolicyName = Literal[
    "none",
    "no_op",
    "fixed_interval",
    "entropy_thresholds",
    "acdc",
    "entropy_cycles",
    "cyclic_pruning",
    "one_shot",
    "gmp",
    "granet",
    "static",
    "set",
    "rigl",
    "redo",
]

ForecastName = Literal["none", "train", "unlabelled", "labelled"]

MOST_THREADS = 1_024
"""More threads than any machine has cores; torch crashes on numbers far above that."""


def _or_offered(kind: str) -> WrapValidator:
    """Take one of our words, else the name of what a package offers."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            if isinstance(value, str) and value in offered(kind):
                return value
            raise

    return WrapValidator(check)


class RunConfig(BaseModel):
    """One training run.

    Keys that are not given take the preset of the task (and of the model and the optimizer, where they are not the
    task's own).

    Raises:
        ConfigError: through :func:`make_config` and :func:`read_config`; the constructor itself raises
            pydantic's ``ValidationError``.

    >>> config = RunConfig(task="digits", sparsity=0.8)
    >>> config.model, config.widths, config.policy
    ('mlp', (256, 256), 'entropy_cycles')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Annotated[TaskName, _or_offered("tasks")] = Field(description="What is learned.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything that is random.")

    data_dir: Path | None = Field(
        None, description="Folder with the data files of mnist, fashion-mnist, imdb and qm9; text file of kjv."
    )
    train_samples: int | None = Field(None, ge=1, description="Use only that many training samples, drawn at random.")
    label_noise: float = Field(0.0, ge=0, le=1, description="Share of training labels replaced by another class.")
    standardize: bool = Field(
        True, description="Image files: subtract the training mean and divide by the deviation; else 0 to 1."
    )
    smallest: bool = Field(False, description="Molecules: train and validate on the first of the files, the smallest.")
    operation: Literal["add", "sub", "mul", "div"] = Field("add", description="Modular arithmetic: which operation.")
    modulus: int = Field(97, ge=2, le=10_000, description="Modular arithmetic: the modulus.")
    train_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the samples for training in modular and parity; the rest is halved.",
    )
    parity_bits: int = Field(3, ge=1, description="Sparse parity: relevant bits.")
    noise_bits: int = Field(40, ge=0, description="Sparse parity: irrelevant bits.")
    vocabulary: int = Field(1_000, ge=1, le=1_000_000, description="Reviews: most frequent words that are known.")
    text_length: int = Field(
        500, ge=1, le=100_000, description="Reviews: words of each that are read; kjv: characters of a window."
    )
    content_words: bool = Field(
        False, description="Reviews: read known words alone, and no stop words; else unknown ones have a number, too."
    )
    noise: float = Field(
        2.5, ge=0, allow_inf_nan=False, description="Dummy data: standard deviation of the noise on the inputs."
    )

    model: ModelName = Field(description="Architecture.")
    widths: tuple[int, ...] = Field(
        description="Hidden widths; channels of the cnn; model and MLP width of transformer, decoder and "
        "gpt; embedding and state of the lstm; the two convolutions and the hidden layer of the gnn."
    )
    readout: Literal["last", "mean"] = Field(
        "last", description="lstm: its head reads the last state, or the mean over all of them."
    )
    activation: Literal["relu", "gelu"] = Field("relu", description="Activation function.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate after each hidden activation.")
    bias: bool = Field(True, description="Whether the linear layers of the mlp have biases.")
    init_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on all initial weights; large ones delay generalization."
    )
    embedding_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial embedding tables."
    )
    position_scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on the initial table of positions, beside that."
    )
    precision: Literal["float32", "float64"] = Field("float32", description="Precision of weights and data.")

    recipe: Literal["surge-collapse"] | None = Field(
        None, description="A named configuration of policy and options; options that are given come before its own."
    )
    policy: Annotated[PolicyName, _or_offered("policies")] = Field(
        "entropy_cycles",
        description="none: plain training; no_op: plain training with readings; "
        "cyclic_pruning: gradual pruning in cycles with regrowth between them; entropy_cycles: entropy-bounded cycles; "
        "entropy_thresholds: high, low and plateau entropy; fixed_interval: the published fixed intervals; acdc: "
        "AC/DC; one_shot: prune once and fine-tune; gmp: gradual magnitude pruning; granet, static, set, "
        "rigl: as published; redo: dormant units are recycled, by itself or over another policy.",
    )
    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the policy, as a table or as JSON."
    )
    sparsity: float = Field(0.9, ge=0, lt=1, description="Target share of the prunable weights that are zero.")
    every: int = Field(50, ge=1, description="Steps between two readings.")
    moments: Literal["reset", "keep", "warmup"] = Field(
        "reset", description="What becomes of optimizer moments where the mask changes."
    )
    entropy: str = Field(
        "renyi2",
        description="Form of the activation entropy: renyi2, on_off, unit_energy, spectral, predictive or histogram.",
    )
    saliency: str = Field(
        "magnitude", description="Criterion by which weights are pruned: magnitude, lamp, taylor or random."
    )
    growth: str | None = Field(
        None,
        description="Criterion by which weights are reopened: random, gradient, ema_gradient or momentum; "
        "by default the policy's own.",
    )
    initial: Literal["zero", "noise", "last"] | None = Field(
        None, description="First value of a reopened weight; by default the policy's own."
    )
    rho: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Most energy that a surge may inject over the live energy; default 0.1.",
    )
    distribution: Literal["global", "layer", "erk"] = Field("global", description="How zeros spread over layers.")
    minimum_density: float = Field(0.005, ge=0, le=1, description="Least share of live weights in each layer.")
    pattern: str | None = Field(
        None, description="Weights that open and close together: N:M (2:4), block:RxC (block:4x1), or unit."
    )

    steps: int | None = Field(None, ge=1, le=10**12, description="Optimizer steps; or give epochs.")
    epochs: float | None = Field(None, gt=0, le=1e9, description="Passes over the training data; or give steps.")
    batch_size: int = Field(64, ge=0, description="Samples in a batch; 0 takes all of them.")
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "muon"] = Field(
        "adamw", description="Optimizer; muon moves hidden matrices by Muon, the rest by AdamW."
    )
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Peak learning rate.")
    weight_decay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Weight decay (decoupled in adamw, else L2)."
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of sgd, rmsprop and muon; first beta of adam and adamw."
    )
    beta2: float = Field(0.999, ge=0, lt=1, description="Second beta of adam(w) and muon; smoothing of rmsprop.")
    eps: float = Field(
        1e-8, gt=0, allow_inf_nan=False, description="Added to the denominator of adam(w): gradients far below it rest."
    )
    embedding_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on the learning rate of embedding tables."
    )
    position_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Further factor on that of the table of positions."
    )
    muon_lr: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Factor on the learning rate of hidden matrices under muon."
    )
    muon_tokens: bool = Field(False, description="Whether muon moves the table of tokens, too, and not AdamW.")
    muon_beta1: float = Field(0.9, ge=0, lt=1, description="First beta of the AdamW beside muon.")
    decay_vectors: bool = Field(
        True, description="Whether weight decay beside muon is for biases and gains of norms, too."
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="Learning rate after the warm-up: constant, or down to zero."
    )
    warmup: int = Field(0, ge=0, description="Steps of linear warm-up.")
    hold: int = Field(0, ge=0, description="Step until which cosine and linear keep the peak rate before they fall.")
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Evaluate, and end with, an exponential average of the weights of this decay; 0: none.",
    )
    weigh_batches: bool = Field(
        False, description="Weigh the loss of a batch that is short of batch_size (each epoch's last) by its size."
    )
    clip: float | None = Field(None, gt=0, allow_inf_nan=False, description="Clip the gradient norm to this.")
    grokfast: Literal["none", "ema", "ma"] = Field(
        "none", description="Amplify the slow part of gradients: by an exponential mean (ema) or a window (ma)."
    )
    grokfast_alpha: float = Field(0.98, ge=0, lt=1, description="Decay of the exponential mean of grokfast.")
    grokfast_window: int = Field(100, ge=1, le=100_000, description="Gradients in the window of grokfast.")
    grokfast_lamb: float | None = Field(
        None, allow_inf_nan=False, description="Amplification by grokfast; by default 2 for ema, 5 for ma."
    )
    orthograd: Literal["none", "rescaled", "plain"] = Field(
        "none",
        description="Project gradients orthogonally to their weights: rescaled to their norm, or plain (eq. 12).",
    )
    loss: Literal["cross_entropy", "cross_entropy_float64", "stablemax", "mse"] = Field(
        "cross_entropy",
        description="Loss; cross_entropy_float64 and stablemax resist softmax collapse, mse is on one-hot targets.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weigh classes in the loss by their inverse frequency."
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
    forecast: Annotated[ForecastName, _or_offered("detectors")] = Field(
        "none",
        description="Raise an alarm when the net is about to generalise, or will not, from the training rows alone, "
        "from validation inputs, too, or from their labels, too; calibrated on small nets. Or a detector that a "
        "package offers.",
    )
    give_up: bool = Field(
        False, description="Stop when the forecast says that the net will not generalise; takes a forecast."
    )

    monitors: str = Field(
        "default",
        description="What to measure beside the readings: default, none, or names with commas between; see the page on "
        "monitors. They change nothing in the training.",
    )
    monitor_budget: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Most that the monitors may take of the training time; 1: always at the cadence of the readings.",
    )
    evaluate_every: int = Field(100, ge=1, description="Steps between two evaluations.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(
        2,
        ge=0,
        description="Newest checkpoints that are kept beside the best; 0 keeps all, as analyses over time need.",
    )
    trace_every: int = Field(
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

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        refuse_lookalikes(given, cls.model_fields)
        return filled(given)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_together(self)
        check_pattern(self)
        check_effects(self)
        return self

    @property
    def ends_dense(self) -> bool:
        """Whether the policy prunes nothing, at the end neither.

        >>> RunConfig(task="digits", policy="redo").ends_dense
        True
        >>> RunConfig(task="digits", policy="redo", policy_options={"over": "gmp"}).ends_dense
        False
        """
        return self.policy == "no_op" or (self.policy == "redo" and self.policy_options.get("over", "no_op") == "no_op")

    def total_steps(self, train_size: int) -> int:
        """Optimizer steps of the whole run, given the number of training samples.

        >>> RunConfig(task="digits", epochs=2, batch_size=64).total_steps(100)
        4
        """
        if self.steps is not None:
            return self.steps
        batch = min(self.batch_size or train_size, train_size)
        return max(1, round((self.epochs or 0) * math.ceil(train_size / batch)))
