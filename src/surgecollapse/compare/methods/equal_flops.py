"""Rivals that train for as many steps as cost the training FLOPs of the reference."""

from __future__ import annotations

from surgecollapse.compare.methods.registry import Method, method

_BASES = {"gmp": ("gradual pruning (GMP)", "gmp", 30), "rigl": ("RigL", "rigl", 31)}

for _name, (_title, _policy, _place) in _BASES.items():
    method(
        Method(
            name=f"{_name}_equal_flops",
            title=f"{_title}, equal FLOPs",
            description=f"{_title} for as many steps as cost the training FLOPs of the reference; tuned as {_name}.",
            settings={"policy": _policy},
            trials=(),
            longer=_name,
            place=_place,
        )
    )
