"""The settings that the tuning of sparse methods may choose from."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Settings

RATES = (0.0, 0.05, 0.1, 0.2)
GLOBAL: Settings = {"allocation": "global", "saliency": "magnitude"}
EVEN: Settings = {"allocation": "layer", "saliency": "magnitude"}
LAMP: Settings = {"allocation": "global", "saliency": "lamp"}
HOWS = (GLOBAL, EVEN, LAMP)
SPREAD: tuple[Settings, ...] = (
    *({"dropout": rate, **how} for rate in (0.05, 0.1) for how in HOWS),
    *({"dropout": 0.2, **how} for how in (EVEN, LAMP)),
)
SPREAD_AT_START: tuple[Settings, ...] = tuple(
    {"dropout": rate, "policy_options": {"allocation": how}} for rate in RATES for how in ("erk", "layer")
)
