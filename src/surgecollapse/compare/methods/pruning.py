"""Published methods that end sparse."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, method
from surgecollapse.compare.methods.trials import SPREAD, SPREAD_AT_START

method(
    Method(
        name="one-shot",
        title="one-shot + fine-tuning",
        description="Dense, pruned once by magnitude at half the run, fine-tuned.",
        settings={"policy": "one_shot"},
        trials=SPREAD,
        place=10,
    )
)
method(
    Method(
        name="gmp",
        title="gradual pruning (GMP)",
        description="Cubic schedule, arXiv 1710.01878.",
        settings={"policy": "gmp"},
        trials=SPREAD,
        place=11,
    )
)
method(
    Method(
        name="static",
        title="static mask",
        description="A random mask from the start.",
        settings={"policy": "static"},
        trials=SPREAD_AT_START,
        place=12,
    )
)
method(
    Method(
        name="set",
        title="SET",
        description="Random growth, arXiv 1707.04780.",
        settings={"policy": "set"},
        trials=SPREAD_AT_START,
        place=13,
    )
)
method(
    Method(
        name="rigl",
        title="RigL",
        description="Gradient growth at masked weights, arXiv 1911.11134.",
        settings={"policy": "rigl"},
        trials=SPREAD_AT_START,
        place=14,
    )
)
method(
    Method(
        name="granet",
        title="GraNet",
        description="Gradual pruning with regeneration, arXiv 2106.10404.",
        settings={"policy": "granet"},
        trials=SPREAD,
        place=15,
    )
)
method(
    Method(
        name="dsd",
        title="DSD, pruned at the end",
        description="Dense–sparse–dense (arXiv 1607.04381), then collapsed to the target: one long cycle.",
        settings={
            "policy": "acdc",
            "policy_options": {"dense_until": 1 / 3, "cycles_until": 2 / 3, "phase": 1 / 3, "freeze_at": 0.85},
        },
        trials=SPREAD,
        place=16,
    )
)
method(
    Method(
        name="acdc",
        title="AC/DC",
        description="Alternating compressed and decompressed phases, arXiv 2106.12379.",
        settings={"policy": "acdc"},
        trials=SPREAD,
        place=17,
    )
)
method(
    Method(
        name="cyclical-pruning",
        title="Cyclical Pruning",
        description="Gradual pruning from dense, several times over, arXiv 2202.01290.",
        settings={"policy": "cyclical_pruning"},
        trials=SPREAD,
        place=18,
    )
)
