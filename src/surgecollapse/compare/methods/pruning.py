"""Published methods that end sparse."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, Settings, method
from surgecollapse.compare.methods.trials import SPREAD, SPREAD_AT_START

_LONG_CYCLE = {"dense_until": 1 / 3, "cycles_until": 2 / 3, "phase": 1 / 3, "freeze_at": 0.85}
_ROWS: tuple[tuple[str, str, str, Settings, tuple[Settings, ...]], ...] = (
    ("one_shot", "one-shot + fine-tuning", "Dense, pruned once by magnitude at half the run, fine-tuned.", {}, SPREAD),
    ("gmp", "gradual pruning (GMP)", "Cubic schedule, arXiv 1710.01878.", {}, SPREAD),
    ("static", "static mask", "A random mask from the start.", {}, SPREAD_AT_START),
    ("set", "SET", "Random growth, arXiv 1707.04780.", {}, SPREAD_AT_START),
    ("rigl", "RigL", "Gradient growth at masked weights, arXiv 1911.11134.", {}, SPREAD_AT_START),
    ("granet", "GraNet", "Gradual pruning with regeneration, arXiv 2106.10404.", {}, SPREAD),
    (
        "dsd",
        "DSD, pruned at the end",
        "Dense–sparse–dense (arXiv 1607.04381), then collapsed to the target: one long cycle.",
        {"policy": "acdc", "policy_options": _LONG_CYCLE},
        SPREAD,
    ),
    ("acdc", "AC/DC", "Alternating compressed and decompressed phases, arXiv 2106.12379.", {}, SPREAD),
    (
        "cyclical_pruning",
        "Cyclical Pruning",
        "Gradual pruning from dense, several times over, arXiv 2202.01290.",
        {},
        SPREAD,
    ),
)
"""Name, title, description, settings beside the policy of that name, and what tuning may choose from."""

for place, (name, title, description, settings, trials) in enumerate(_ROWS, 10):
    method(
        Method(
            name=name,
            title=title,
            description=description,
            settings={"policy": name, **settings},
            trials=trials,
            place=place,
        )
    )
