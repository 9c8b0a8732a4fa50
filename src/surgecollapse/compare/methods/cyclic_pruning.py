"""Surge-Collapse training by the default policy."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, Settings, method
from surgecollapse.compare.methods.trials import EVEN, LAMP

DEEP: Settings = {"policy_options": {"floor": 0.6}}
AT_TARGET: Settings = {"policy_options": {"floor": 0.0, "min_density_ratio": 1.0}}
ONE_SURGE: Settings = {"policy_options": {"floor": 0.0, "min_density_ratio": 1.0, "cycles": 2}}

method(
    Method(
        name="cyclic_pruning",
        title="surge-collapse",
        description="CyclicPruning: gradual collapses with surges between them, as deep as entropy allows.",
        settings={"policy": "cyclic_pruning"},
        trials=(
            *({"dropout": rate, **EVEN, **DEEP} for rate in (0.2, 0.05)),
            *({"dropout": rate, **LAMP, **AT_TARGET} for rate in (0.05, 0.1)),
            {"dropout": 0.1, **EVEN, **DEEP},
            {"dropout": 0.05, **LAMP, **ONE_SURGE},
            {"dropout": 0.2, **LAMP, **AT_TARGET},
            {"dropout": 0.05, **EVEN, **ONE_SURGE},
        ),
        place=40,
    )
)
