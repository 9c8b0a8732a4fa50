"""The trials of ``soft_forms.py``, as data: eight for each method of the search, and those of single questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgecollapse.compare.methods import METHODS
from surgecollapse.compare.methods.trials import EVEN, GLOBAL, LAMP

ERK = {"allocation": "erk", "saliency": "magnitude"}
Settings = Mapping[str, Any]


def _form(how: Settings, dropout: float = 0.1, **options: Any) -> Settings:
    return {"dropout": dropout, **how, "policy_options": options}


def _every_ten(trial: Settings) -> Settings:
    return {**trial, "policy_options": {**trial.get("policy_options", {}), "threshold_every": 10}}


FORMS: dict[str, tuple[Settings, ...]] = {
    "soft_threshold": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(ERK),
        _form(EVEN, p=3.0),
        _form(LAMP, p=3.0),
        _form(EVEN, 0.2),
        _form(EVEN, end_at=0.75, freeze_at=0.9),
    ),
    "gmp": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(ERK),
        _form(EVEN, 0.2),
        _form(EVEN, 0.2, end_at=0.5),
        _form(EVEN, 0.2, end_at=0.9),
        _form(EVEN, start_at=0.0, end_at=0.5),
    ),
    "cyclical_pruning": (
        _form(EVEN),
        _form(LAMP),
        _form(GLOBAL),
        _form(EVEN, 0.2),
        _form(EVEN, cycles=2),
        _form(EVEN, cycles=8),
        _form(EVEN, prune_fraction=0.5),
        _form(LAMP, cycles=2),
    ),
    "st3": (
        _form(EVEN, threshold_every=10),
        _form(LAMP, threshold_every=10),
        _form(GLOBAL, threshold_every=10),
        _form(ERK, threshold_every=10),
        _form(EVEN, 0.2, threshold_every=10),
        _form(EVEN, 0.05, threshold_every=10),
        _form(EVEN, threshold_every=10, end_at=0.75),
        _form(EVEN, threshold_every=10, start_at=0.0),
    ),
    **{name: tuple(_every_ten(trial) for trial in METHODS[name].trials) for name in ("feather", "straight_through")},
    **{name: METHODS[name].trials for name in ("cyclic_pruning", "rigl", "dropout", "dense")},
    "small_dense": tuple({"lr": lr, "dropout": rate} for lr in (3e-3, 1e-2, 2e-2, 3e-2) for rate in (0.0, 0.05)),
}
"""The trials of the search. All straight-through methods take masks anew every ten steps, not in every step."""


def _grown(dropout: float, allocation: str = "layer", **options: Any) -> Settings:
    return {"dropout": dropout, "policy_options": {"allocation": allocation, **options}}


EARLY: dict[str, tuple[Settings, ...]] = {
    "soft_threshold": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.3),
        _form(EVEN, 0.2, end_at=0.1),
        _form(EVEN, 0.3, end_at=0.1),
    ),
    "set": (_grown(0.2), _grown(0.3), _grown(0.1), _grown(0.2, drop_fraction=0.5)),
    "gmp": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.3),
        _form(EVEN, 0.2, start_at=0.0, end_at=0.1),
        _form(EVEN, 0.3, start_at=0.0, end_at=0.1),
    ),
    "cyclic_pruning": (
        _form(EVEN, 0.2),
        _form(EVEN, 0.2, dense_until=0.01),
        _form(EVEN, 0.2, dense_until=0.01, cycles=8),
        {**_form(EVEN, 0.2, dense_until=0.01, cycles=8), "growth": "random"},
    ),
}
"""The trials of one question: is it *early* sparsity, or the exchange of weights, that puts SET ahead at 80%?"""
SETS = {"forms": FORMS, "early": EARLY}

DEFAULT: Settings = _form(GLOBAL)
"""The untuned default, one setting for all nets. It was frozen before any test figure of a soft threshold was seen."""

BY_KIND: dict[str, Settings] = {"convolutional": _form(LAMP, 0.2), "other": _form(EVEN, 0.2, end_at=0.1)}
"""The second untuned form, by kind of network. It was frozen before the seeds from 10 on were run."""


def kind(settings: Settings) -> str:
    """The kind of an entry's network.

    >>> kind({"model": "cnn"}), kind({"model": "mlp"})
    ('convolutional', 'other')
    """
    model = str(settings.get("model", "mlp"))
    return "convolutional" if any(name in model for name in ("cnn", "resnet")) else "other"
