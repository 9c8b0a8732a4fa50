"""A dense network with as many weights as the sparse one."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, method

method(
    Method(
        name="small_dense",
        title="small dense",
        description="A dense network with as many weights as the sparse one: its widths are scaled.",
        settings={"policy": "none"},
        trials=tuple({"lr": lr, "dropout": rate} for lr in (3e-3, 1e-2, 2e-2, 3e-2) for rate in (0.0, 0.05)),
        target_key="shrink_to_sparsity",
        place=3,
    )
)
