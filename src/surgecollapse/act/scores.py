"""Scores of weights, of which a process may hold only a part."""

from __future__ import annotations

from torch import Tensor

from surgecollapse.act.randomness import Generators
from surgecollapse.functional import magnitude, taylor
from surgecollapse.functional.growth import gradient, random
from surgecollapse.protocols import Criterion
from surgecollapse.torch_utils.shards import is_sharded, local, part_of, whole

_ELEMENTWISE = (magnitude, taylor, gradient)
"""Criteria that score each weight by itself."""


def score(criterion: Criterion, param: Tensor, value: Tensor, signal: Tensor | None) -> Tensor:
    """Score the part of a parameter that is here.

    A criterion that may look at the whole tensor gets it, gathered on every rank, one parameter at a time.

    Args:
        criterion: a function of whole weights and gradients.
        param: says how it is split.
        value: the weights to judge, of the part that is here.
        signal: the dense gradient of that part.
    """
    if not is_sharded(param) or criterion in _ELEMENTWISE:
        return criterion(value, signal)
    full = criterion(whole(param, value), None if signal is None else whole(param, signal))
    return part_of(param, full)


def random_scores(param: Tensor, generators: Generators) -> Tensor:
    """Random scores of the part of a parameter that is here: those of one draw for the whole, alike on every rank."""
    return part_of(param, random(param.shape, generators.on(local(param).device)))
