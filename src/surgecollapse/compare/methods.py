"""The methods of a comparison, as data: what each one is, and the eight settings that its tuning may choose from.

A method is a configuration of the one training loop and the one mask engine, never a second trainer. Every method has
eight trials on the validation set, no more and no less. For the sparse ones these are dropout rates, and how the zeros
spread over the layers: the lowest |w| of all, evenly, or by LAMP; methods that are sparse from the start choose between
ERK and evenly. These settings moved accuracy most in ``benchmarks/reports/search.md``; everything else is as published.
Surge-collapse has fewer rates and, in their place, its depth and number of waves: deep where the net overfits, never
deeper than the target elsewhere, and there with one surge or three.
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


_RATES = (0.0, 0.05, 0.1, 0.2)
_GLOBAL: Settings = {"distribution": "global", "saliency": "magnitude"}
_EVEN: Settings = {"distribution": "layer", "saliency": "magnitude"}
_LAMP: Settings = {"distribution": "global", "saliency": "lamp"}
_HOWS = (_GLOBAL, _EVEN, _LAMP)
_SPREAD: tuple[Settings, ...] = (
    *({"dropout": rate, **how} for rate in (0.05, 0.1) for how in _HOWS),
    *({"dropout": 0.2, **how} for how in (_EVEN, _LAMP)),
)
_SPREAD_AT_START: tuple[Settings, ...] = tuple(
    {"dropout": rate, "policy_options": {"allocation": how}} for rate in _RATES for how in ("erk", "layer")
)
_DEEP: Settings = {"policy_options": {"floor": 0.6}}
_AT_TARGET: Settings = {"policy_options": {"floor": 0.0, "min_density_ratio": 1.0}}
_ONE_SURGE: Settings = {"policy_options": {"floor": 0.0, "min_density_ratio": 1.0, "cycles": 2}}
_DENSE = {"policy": "none"}

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
        trials=tuple({"weight_decay": decay} for decay in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0)),
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
        description="Dense, pruned once by magnitude at half the run, fine-tuned.",
        settings={"policy": "one_shot"},
        trials=_SPREAD,
    ),
    Method(
        name="gmp",
        title="gradual pruning (GMP)",
        description="Cubic schedule, arXiv 1710.01878.",
        settings={"policy": "gmp"},
        trials=_SPREAD,
    ),
    Method(
        name="static",
        title="static mask",
        description="A random mask from the start.",
        settings={"policy": "static"},
        trials=_SPREAD_AT_START,
    ),
    Method(
        name="set",
        title="SET",
        description="Random growth, arXiv 1707.04780.",
        settings={"policy": "set"},
        trials=_SPREAD_AT_START,
    ),
    Method(
        name="rigl",
        title="RigL",
        description="Gradient growth at masked weights, arXiv 1911.11134.",
        settings={"policy": "rigl"},
        trials=_SPREAD_AT_START,
    ),
    Method(
        name="granet",
        title="GraNet",
        description="Gradual pruning with regeneration, arXiv 2106.10404.",
        settings={"policy": "granet"},
        trials=_SPREAD,
    ),
    Method(
        name="dsd",
        title="DSD, pruned at the end",
        description="Dense–sparse–dense (arXiv 1607.04381), then collapsed to the target: one long cycle.",
        settings={
            "policy": "acdc",
            "policy_options": {"dense_until": 1 / 3, "cycles_until": 2 / 3, "phase": 1 / 3, "freeze_at": 0.85},
        },
        trials=_SPREAD,
    ),
    Method(
        name="acdc",
        title="AC/DC",
        description="Alternating compressed and decompressed phases, arXiv 2106.12379.",
        settings={"policy": "acdc"},
        trials=_SPREAD,
    ),
    Method(
        name="surge-collapse",
        title="surge-collapse",
        description="CyclicPruning: gradual collapses with surges between them, as deep as entropy allows: the recipe.",
        settings={"policy": "cyclic_pruning"},
        trials=(
            *({"dropout": rate, **_EVEN, **_DEEP} for rate in (0.2, 0.05)),
            *({"dropout": rate, **_LAMP, **_AT_TARGET} for rate in (0.05, 0.1)),
            {"dropout": 0.1, **_EVEN, **_DEEP},
            {"dropout": 0.05, **_LAMP, **_ONE_SURGE},
            {"dropout": 0.2, **_LAMP, **_AT_TARGET},
            {"dropout": 0.05, **_EVEN, **_ONE_SURGE},
        ),
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""By name, in the order of the tables."""


def _ablation(
    name: str, description: str, *, policy: str = "cyclic_pruning", growth: str | None = None, **changes: Any
) -> Method:
    """The recipe with one thing changed, on fixed dropout and evenly spread zeros: not tuned."""
    settings = {
        "policy": policy, "policy_options": changes, "dropout": 0.1, "distribution": "layer", "growth": growth
    }  # fmt: skip
    return Method(name=name, title=name, description=description, settings=settings, trials=())


_CYCLES: Settings = {
    "policy": "entropy_cycles", "timing": "fixed", "phase": 0.1, "cycles_until": 0.5, "freeze_at": 0.75, "floor": 0.3,
    "noise_std": 0.0, "final_ramp": "cubic",
}  # fmt: skip
"""Collapses at once, the last one gradual: the recipe before the waves (decision 0009), but for its floor of .6 bit."""
_BY_ENTROPY: Settings = {**_CYCLES, "shortest": 0.05, "longest": 0.15}

_ABLATIONS = (
    _ablation("recipe", "The recipe."),
    _ablation("fixed-depth", "Always half the target's density.", floor=0.0, min_density_ratio=0.5),
    _ablation("target-depth", "Never deeper than the target.", floor=0.0, min_density_ratio=1.0),
    _ablation("one-wave", "No surge at all.", cycles=1),
    _ablation("two-waves", "One surge.", cycles=2),
    _ablation("half-surge", "Surges reopen half.", surge=0.5),
    _ablation("full-surge", "Surges reopen everything.", surge=1.0),
    _ablation("random-growth", "Surges reopen at random.", growth="random"),
    _ablation("cycles", "Collapses at once, at fixed times; only the last one is gradual.", **_CYCLES),
    _ablation("entropy-times", "Like cycles, but phases end by entropy.", **{**_BY_ENTROPY, "timing": "entropy"}),
    _ablation("random-times", "Like cycles, but phases of random length.", **{**_BY_ENTROPY, "timing": "random"}),
    _ablation("acdc-likewise", "AC/DC.", policy="acdc"),
    _ablation("gmp-likewise", "Gradual magnitude pruning.", policy="gmp"),
)

ABLATIONS: dict[str, Method] = {method.name: method for method in _ABLATIONS}
"""What in the recipe earns its accuracy: each with ``--budget none``, against ``--reference recipe``."""
