"""Dense training, and its regularizers."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, Settings, method

DENSE: Settings = {"policy": "none"}

method(
    Method(
        name="dense",
        title="dense",
        description="Plain training; tuned over the learning rate.",
        settings=DENSE,
        trials=tuple({"lr": lr} for lr in (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2)),
        sparse=False,
        place=0,
    )
)
method(
    Method(
        name="weight_decay",
        title="dense + weight decay",
        description="Plain training with tuned decoupled weight decay.",
        settings=DENSE,
        trials=tuple({"weight_decay": decay} for decay in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0)),
        sparse=False,
        place=1,
    )
)
method(
    Method(
        name="dropout",
        title="dense + dropout",
        description="Plain training with tuned dropout (Srivastava et al. 2014).",
        settings=DENSE,
        trials=tuple({"dropout": rate} for rate in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)),
        sparse=False,
        place=2,
    )
)
