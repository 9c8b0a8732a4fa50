"""The methods of a comparison, as data: what each one is, and the eight settings that its tuning may choose from.

A method is a configuration of the one training loop and the one mask engine, never a second trainer. Every method has
eight trials on the validation set, no more and no less. For the sparse ones these are four dropout rates, with the
zeros spread over the layers as the method's paper has it or evenly: the two settings that moved accuracy most (about 2
points each) in ``docs/explanation/search.md``; everything else is as published. Surge-collapse has two rates and, in
their place, its floor: at 1 it never collapses deeper than to the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgecollapse.recipes import RECIPES

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
_SPREAD: tuple[Settings, ...] = tuple(
    {"dropout": rate, "distribution": how} for rate in _RATES for how in ("global", "layer")
)
_SPREAD_AT_START: tuple[Settings, ...] = tuple(
    {"dropout": rate, "policy_options": {"layers": how}} for rate in _RATES for how in ("erk", "layer")
)
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
        settings={"policy": "one-shot"},
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
            "policy": "cycles",
            "policy_options": {"dense_until": 1 / 3, "cycles_until": 2 / 3, "phase": 1 / 3, "freeze_at": 0.85},
        },
        trials=_SPREAD,
    ),
    Method(
        name="acdc",
        title="AC/DC",
        description="Alternating compressed and decompressed phases, arXiv 2106.12379.",
        settings={"policy": "cycles"},
        trials=_SPREAD,
    ),
    Method(
        name="surge-collapse",
        title="surge-collapse",
        description="Entropy-bounded cycles and a gradual landing: the recipe of that name.",
        settings=RECIPES["surge-collapse"],
        trials=tuple(
            {"dropout": rate, "distribution": how, "policy_options": {"floor": floor}}
            for floor in (0.6, 1.0)
            for how in ("global", "layer")
            for rate in (0.05, 0.1)
        ),
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""By name, in the order of the tables."""


def _ablation(name: str, description: str, *, policy: str = "entropy", **changes: Any) -> Method:
    """The recipe with one thing changed, on fixed dropout and evenly spread zeros: not tuned."""
    options = {**RECIPES["surge-collapse"]["policy_options"], **changes} if policy == "entropy" else changes
    settings = {"policy": policy, "policy_options": options, "dropout": 0.1, "distribution": "layer"}
    return Method(name=name, title=name, description=description, settings=settings, trials=())


_ABLATIONS = (
    _ablation("recipe", "The recipe."),
    _ablation("entropy-times", "Phases end by entropy.", timing="entropy", shortest=0.05, longest=0.15),
    _ablation("random-times", "Phases of random length.", timing="random", shortest=0.05, longest=0.15),
    _ablation("fixed-depth", "Always half the target's density.", floor=0.0),
    _ablation("target-depth", "Never deeper than the target.", floor=1.0),
    _ablation("at-once", "The target at once, without a landing.", landing="drop"),
    _ablation("random-growth", "Surges reopen at random.", growth="random"),
    _ablation("full-surge", "Surges reopen everything.", surge=1.0),
    _ablation("half-length", "Phases half as long.", phase=0.05),
    _ablation("acdc-likewise", "AC/DC.", policy="cycles"),
    _ablation("gmp-likewise", "Gradual magnitude pruning.", policy="gmp"),
)

ABLATIONS: dict[str, Method] = {method.name: method for method in _ABLATIONS}
"""What in the recipe earns its accuracy: each with ``--budget none``, against ``--reference recipe``."""
