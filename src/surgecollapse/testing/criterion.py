"""What every criterion of pruning or growth must do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surgecollapse.protocols import Criterion

_SHAPES = ((6,), (5, 7), (4, 3, 2, 2))
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def check_criterion(criterion: Criterion) -> None:
    """Check a criterion: finite scores of the weight's shape, at least 0, the same again, inputs untouched.

    One that needs a signal raises ``ValueError`` where it is ``None``.

    Args:
        criterion: function of ``(weight, signal)``.

    Raises:
        AssertionError: for the first claim that does not hold.

    >>> check_criterion(lambda weight, signal: weight.abs())
    """
    for check in CRITERION_CHECKS:
        check(criterion)


def scores_are_sound(criterion: Criterion) -> None:
    """One finite score, at least 0, for every entry, with and without a signal."""
    for weight, signal in _cases():
        scores = _score(criterion, weight, signal)
        if scores is None:
            continue
        said = f"for a weight of shape {tuple(weight.shape)}, {weight.dtype}, signal {signal is not None}"
        assert scores.shape == weight.shape, f"expected scores of shape {tuple(weight.shape)}, got {scores.shape}"
        assert bool(torch.isfinite(scores).all()), f"scores are not finite {said}"
        assert bool((scores >= 0).all()), f"scores are negative {said}"


def inputs_are_untouched(criterion: Criterion) -> None:
    """Weight and signal are bitwise what they were, and the global generator too."""
    for weight, signal in _cases():
        before, noise = weight.clone(), None if signal is None else signal.clone()
        state = torch.get_rng_state()
        _score(criterion, weight, signal)
        assert torch.equal(weight, before), "it writes to the weight"
        assert signal is None or noise is None or torch.equal(signal, noise), "it writes to the signal"
        assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator"


def scores_are_reproducible(criterion: Criterion) -> None:
    """The same weight and signal have the same scores."""
    for weight, signal in _cases():
        first, again = _score(criterion, weight, signal), _score(criterion, weight, signal)
        assert first is None or again is None or torch.equal(first, again), "two calls give different scores"


CRITERION_CHECKS: tuple[Callable[[Criterion], None], ...] = (
    scores_are_sound,
    inputs_are_untouched,
    scores_are_reproducible,
)
"""The claims, each a function of the criterion."""


def _cases() -> list[tuple[Tensor, Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    cases: list[tuple[Tensor, Tensor | None]] = []
    for shape in _SHAPES:
        for dtype in _DTYPES:
            weight = torch.randn(shape, generator=generator).to(dtype)
            cases += [(weight, torch.randn(shape, generator=generator).to(dtype)), (weight, None)]
    cases.append((torch.zeros(4, 4), torch.zeros(4, 4)))
    return cases


def _score(criterion: Criterion, weight: Tensor, signal: Tensor | None) -> Tensor | None:
    """The scores; ``None`` where the criterion says that it needs the signal that is missing."""
    try:
        return criterion(weight, signal)
    except ValueError:
        if signal is not None:
            raise
        return None
