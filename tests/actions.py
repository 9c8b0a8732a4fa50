"""What a decision asks for, as one number each; ``None`` where it does not ask."""

from __future__ import annotations

from surgecollapse.events import Decision, Freeze, Prune, Regrow, SetNoise


def depth(decision: Decision) -> float | tuple[float, float] | None:
    prune = decision.find(Prune)
    return None if prune is None else prune.sparsity


def surge(decision: Decision) -> float | None:
    regrow = decision.find(Regrow)
    return None if regrow is None else regrow.fraction


def noise(decision: Decision) -> float | None:
    found = decision.find(SetNoise)
    return None if found is None else found.std


def freezes(decision: Decision) -> bool:
    return decision.find(Freeze) is not None
