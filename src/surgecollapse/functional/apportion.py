"""Whole numbers that sum exactly: shares in proportion to weights, between bounds, by largest remainder."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor


def apportion(
    weights: Mapping[str, int | Fraction], lower: Mapping[str, int], upper: Mapping[str, int], total: int
) -> dict[str, int]:
    """Split ``total`` in proportion to ``weights``, each part within its bounds.

    Part i is clamp(ε·weightᵢ, lowerᵢ, upperᵢ) with the one ε at which the parts sum to ``total``. So what one bound
    takes or gives is shared by the others. The arithmetic is exact (fractions); what rounding down leaves goes to the
    largest remainders, equal ones in the order of ``weights``. Parts of weight 0 stay at their lower bound, unless all
    others are full: then they share the rest in proportion to their room.

    Args:
        weights: at least 0.
        lower: least part, at least 0.
        upper: greatest part, at least ``lower``.
        total: between the sum of ``lower`` and the sum of ``upper``.

    Returns:
        The parts, by name; they sum to exactly ``total``.

    Raises:
        ValueError: if no parts within the bounds sum to ``total``.

    >>> apportion({"a": 1, "b": 1, "c": 2}, {"a": 0, "b": 0, "c": 0}, {"a": 9, "b": 9, "c": 3}, 8)
    {'a': 3, 'b': 2, 'c': 3}
    """
    if not sum(lower.values()) <= total <= sum(upper.values()):
        raise ValueError(f"total must lie in [{sum(lower.values())}, {sum(upper.values())}], got {total}")
    shares = _fill(weights, lower, upper, total)
    if sum(shares.values()) < total:
        reached = {name: floor(share) for name, share in shares.items()}
        room = {name: upper[name] - part for name, part in reached.items()}
        shares = _fill(room, reached, upper, total)
    parts = {name: floor(share) for name, share in shares.items()}
    by_remainder = sorted(weights, key=lambda name: parts[name] - shares[name])
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _fill(
    weights: Mapping[str, int | Fraction], lower: Mapping[str, int], upper: Mapping[str, int], total: int
) -> dict[str, Fraction]:
    """The real-valued parts: their sum grows with ε and bends only where a part reaches a bound."""
    bends = {Fraction(0)}
    bends |= {bound[name] / Fraction(weight) for name, weight in weights.items() if weight for bound in (lower, upper)}

    def parts(scale: Fraction) -> dict[str, Fraction]:
        return {
            name: min(max(scale * weight, Fraction(lower[name])), Fraction(upper[name]))
            for name, weight in weights.items()
        }

    below = above = Fraction(0)
    for bend in sorted(bends):
        above = bend
        if sum(parts(bend).values()) > total:
            break
        below = bend
    least, most = sum(parts(below).values()), sum(parts(above).values())
    if least == most:
        return parts(below)
    return parts(below + (above - below) * (total - least) / (most - least))
