"""The soft threshold: closed weights go on learning in a shadow copy."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, Settings, method
from surgecollapse.compare.methods.trials import EVEN, LAMP

SOFT: Settings = {"policy_options": {"p": 1.0}}
CUBED: Settings = {"policy_options": {"p": 3.0}}

method(
    Method(
        name="soft_threshold",
        title="soft threshold",
        description="SoftThreshold: closed weights go on learning in a shadow copy, and come back by themselves.",
        settings={"policy": "soft_threshold"},
        trials=(
            {"dropout": 0.2, **EVEN, **SOFT},
            {"dropout": 0.05, **LAMP, **SOFT},
            {"dropout": 0.1, **EVEN, **SOFT},
            {"dropout": 0.05, **EVEN, **CUBED},
            {"dropout": 0.1, **LAMP, **SOFT},
            {"dropout": 0.05, **LAMP, **CUBED},
            {"dropout": 0.2, **LAMP, **SOFT},
            {"dropout": 0.05, **EVEN, **SOFT},
        ),
        place=41,
    )
)
