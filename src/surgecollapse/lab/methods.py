"""The methods of a comparison, as data: what each one is, and the eight settings that its tuning may choose from.

A method is a configuration of the one training loop and the one mask engine, never a second trainer. Every method has
eight trials on the validation set, no more and no less. All sparse ones may choose dropout .1, which helps each of them
here; what else they may choose is what their papers tune.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]
"""Keys of :class:`~surgecollapse.lab.config.RunConfig`; ``policy_options`` of a trial add to those of the method."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of a comparison."""

    name: str
    title: str
    """As tables name it."""
    description: str
    settings: Settings
    trials: tuple[Settings, ...] = field(repr=False)
    """What tuning may choose from."""
    sparse: bool = True
    """``False``: ends dense, and so is the same at every target sparsity."""


def _options(name: str, values: tuple[Any, ...], *, dropout: tuple[float, ...] = (0.0, 0.1)) -> tuple[Settings, ...]:
    """Every value of one policy option with every dropout rate."""
    return tuple({"dropout": rate, "policy_options": {name: value}} for value in values for rate in dropout)


_DENSE = {"policy": "none"}
_WEIGHT_DECAYS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0)

_ALL = (
    Method(
        name="dense",
        title="dense",
        description="Plain training; tuned over the learning rate.",
        settings=_DENSE,
        trials=tuple({"lr": lr} for lr in (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)),
        sparse=False,
    ),
    Method(
        name="weight-decay",
        title="dense + weight decay",
        description="Plain training with tuned decoupled weight decay.",
        settings=_DENSE,
        trials=tuple({"weight_decay": decay} for decay in _WEIGHT_DECAYS),
        sparse=False,
    ),
    Method(
        name="dropout",
        title="dense + dropout",
        description="Plain training with tuned dropout (Srivastava et al. 2014).",
        settings=_DENSE,
        trials=tuple({"dropout": rate} for rate in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)),
        sparse=False,
    ),
    Method(
        name="one-shot",
        title="one-shot + fine-tuning",
        description="Dense, pruned once by magnitude, fine-tuned.",
        settings={"policy": "one-shot"},
        trials=_options("at", (0.3, 0.5, 0.65, 0.8)),
    ),
    Method(
        name="gmp",
        title="gradual magnitude pruning",
        description="Cubic schedule, arXiv 1710.01878.",
        settings={"policy": "gmp"},
        trials=tuple(
            {"dropout": rate, "policy_options": {"start_at": start, "end_at": end}}
            for start, end in ((0.1, 0.75), (0.1, 0.5), (0.25, 0.75), (0.25, 0.9))
            for rate in (0.0, 0.1)
        ),
    ),
    Method(
        name="static",
        title="static (ERK)",
        description="A random mask from the start with Erdős–Rényi-kernel densities.",
        settings={"policy": "static"},
        trials=tuple({"dropout": rate, "lr": lr} for lr in (1e-3, 3e-3, 5e-3, 1e-2) for rate in (0.0, 0.1)),
    ),
    Method(
        name="set",
        title="SET",
        description="Random growth, arXiv 1707.04780.",
        settings={"policy": "set"},
        trials=tuple(
            {"dropout": rate, "policy_options": {"drop": drop, "interval": interval}}
            for drop, interval in ((0.3, 100), (0.5, 100), (0.3, 50), (0.3, 200))
            for rate in (0.0, 0.1)
        ),
    ),
    Method(
        name="rigl",
        title="RigL",
        description="Gradient growth at masked weights, arXiv 1911.11134.",
        settings={"policy": "rigl"},
        trials=tuple(
            {"dropout": rate, "policy_options": {"drop": drop, "interval": interval}}
            for drop, interval in ((0.3, 100), (0.5, 100), (0.3, 50), (0.3, 200))
            for rate in (0.0, 0.1)
        ),
    ),
    Method(
        name="granet",
        title="GraNet",
        description="Gradual pruning with regeneration, arXiv 2106.10404.",
        settings={"policy": "granet"},
        trials=tuple(
            {"dropout": rate, "policy_options": {"drop": drop, "end_at": end}}
            for drop, end in ((0.5, 0.75), (0.3, 0.75), (0.5, 0.5), (0.1, 0.75))
            for rate in (0.0, 0.1)
        ),
    ),
    Method(
        name="dsd",
        title="DSD, pruned at the end",
        description="Dense–sparse–dense (arXiv 1607.04381), then collapsed to the target: one long cycle.",
        settings={
            "policy": "cycles",
            "policy_options": {"dense_until": 1 / 3, "cycles_until": 2 / 3, "phase": 1 / 3, "freeze_at": 0.85},
        },
        trials=_options("freeze_at", (0.75, 0.8, 0.85, 0.9)),
    ),
    Method(
        name="acdc",
        title="AC/DC",
        description="Alternating compressed and decompressed phases, arXiv 2106.12379.",
        settings={"policy": "cycles"},
        trials=_options("phase", (0.025, 0.05, 0.075, 0.1)),
    ),
    Method(
        name="surge-collapse",
        title="surge-collapse",
        description="Entropy-bounded cycles.",
        settings={"policy": "entropy"},
        trials=_options("floor", (0.0, 0.3, 0.4, 0.5)),
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""By name, in the order of the tables."""
