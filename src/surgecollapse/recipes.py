"""Recipes: named configurations of :func:`surgecollapse.attach`, as data. Never a second code path."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "surge-collapse": {
            "policy": "cyclic_pruning",
            "policy_options": {},
        },
    }
)
"""Arguments of ``attach`` by recipe; ``policy_options`` are those of the policy."""


def find_recipe(name: str) -> Mapping[str, Any]:
    """Return the arguments of a recipe.

    Raises:
        ValueError: if there is none of that name; lists those there are.

    >>> find_recipe("surge-colapse")
    Traceback (most recent call last):
    ValueError: unknown recipe 'surge-colapse': expected one of surge-collapse
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
