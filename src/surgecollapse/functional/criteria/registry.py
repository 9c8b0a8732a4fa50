"""The criteria by name. A new criterion is a new file in this package, with ``@criterion("its-name")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from surgecollapse.errors import one_of
from surgecollapse.plugins import Registry
from surgecollapse.protocols import Criterion

SALIENCY: Registry[Criterion] = Registry("criteria", "saliency", "surgecollapse.functional.criteria")
"""Saliency criteria by name; ``magnitude`` is the default."""
RANDOM = "random"
"""Drawn by the controller's own generator, whether to prune or to regrow."""
_WITHOUT_GRADIENT = {RANDOM}

Own = TypeVar("Own", bound=Criterion)


def criterion(name: str, *, needs_gradient: bool = True) -> Callable[[Own], Own]:
    """Give a criterion its name.

    Args:
        name: as ``saliency`` takes it; ``growth`` takes it, too, where it is none of :data:`GROWTH`.
        needs_gradient: whether it scores by the gradient of the weight.
    """
    if not needs_gradient:
        _WITHOUT_GRADIENT.add(name)
    return SALIENCY(name)


def needs_gradient(saliency: object) -> bool:
    """Whether a criterion, or one of that name, scores by the gradient; others' are taken to.

    >>> needs_gradient("taylor"), needs_gradient("lamp"), needs_gradient(abs)
    (True, False, True)
    """
    SALIENCY.load()
    return not isinstance(saliency, str) or saliency not in _WITHOUT_GRADIENT


def check_saliency(name: str) -> str:
    """Return the name of a saliency criterion of the library.

    Raises:
        ValueError: if there is none of that name, with all valid ones and the nearest.
    """
    return one_of("saliency", name, (*SALIENCY, RANDOM))
