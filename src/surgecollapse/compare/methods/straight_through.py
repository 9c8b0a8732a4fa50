"""Published methods whose closed weights get the gradient too."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, method
from surgecollapse.compare.methods.trials import SPREAD

method(
    Method(
        name="straight_through",
        title="straight-through (STE)",
        description="Gradual pruning whose closed weights get the gradient too, arXiv 1308.3432.",
        settings={"policy": "straight_through"},
        trials=SPREAD,
        place=19,
    )
)
method(
    Method(
        name="st3",
        title="ST-3",
        description="Soft threshold with straight-through gradients, arXiv 2212.01076.",
        settings={"policy": "st3"},
        trials=SPREAD,
        place=20,
    )
)
method(
    Method(
        name="feather",
        title="Feather",
        description="Threshold between soft and hard with scaled straight-through gradients, arXiv 2310.02448.",
        settings={"policy": "feather"},
        trials=SPREAD,
        place=21,
    )
)
