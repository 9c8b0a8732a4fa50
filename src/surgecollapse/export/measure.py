"""What exports are judged by: seconds of two forms in turn, and the difference of their outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLE = 3e-4
"""Seconds that one timing should take at least: many times what reading the clock takes."""


def interleaved_ratios(first: Callable[[], object], second: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of ``first`` over seconds of ``second``, timed in turn, so that what disturbs one disturbs both.

    Timed as by [`interleaved_seconds`][surgecollapse.export.measure.interleaved_seconds].
    """
    return [one / other for one, other in interleaved_seconds(first, second, repeats)]


def interleaved_seconds(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> list[tuple[float, float]]:
    """Seconds of a call of ``first`` and of ``second``, timed in turn, ``repeats`` times.

    Each timing repeats a short call until it takes 0.3 ms. With one thread it is of processor time, which other
    programs on the machine disturb little; with more threads of wall time.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = [_seconds(clock, function, 1) for _ in range(3) for function in (first, second)]
    number = ceil(_SAMPLE / max(min(times), 1e-7))
    taken = []
    for turn in range(repeats):
        if turn % 2:
            one, other = (_seconds(clock, function, number) for function in (first, second))
        else:
            other, one = (_seconds(clock, function, number) for function in (second, first))
        taken.append((one, other))
    return taken


def _seconds(clock: Callable[[], float], function: Callable[[], object], number: int) -> float:
    start = clock()
    for _ in range(number):
        function()
    return (clock() - start) / number


def caller(example_inputs: Any) -> Callable[[nn.Module], Any]:
    """How a model is called with its examples: a tensor, a tuple of arguments or a dict of them.

    Raises:
        TypeError: if they are nothing of the kind.

    >>> caller({"input": torch.ones(1)})(nn.ReLU())
    tensor([1.])
    """
    if isinstance(example_inputs, Tensor):
        return lambda model: model(example_inputs)
    if isinstance(example_inputs, Mapping):
        return lambda model: model(**example_inputs)
    if isinstance(example_inputs, tuple | list):
        return lambda model: model(*example_inputs)
    raise TypeError(
        f"example_inputs must be a tensor, a tuple of arguments or a dict of them, got {type(example_inputs).__name__}"
    )


def max_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; equal infinities and NaN at the same place do not differ.

    >>> max_difference(torch.tensor([1.0, torch.inf, torch.nan]), torch.tensor([1.5, torch.inf, torch.nan]))
    0.5
    """
    if not a.numel():
        return 0.0
    same = (a == b) | ((a != a) & (b != b))
    return float(torch.where(same, 0.0, (a.double() - b.double()).abs()).max())


def largest_difference(expected: Iterable[Tensor], given: Iterable[Tensor]) -> float:
    """Largest absolute difference between the outputs of a model and of what was made of it.

    Args:
        expected: outputs of the model.
        given: outputs of the other, as many.

    Returns:
        The difference; 0 without outputs.

    Raises:
        ValueError: if an output of the model is NaN: equal NaN would pass for equal results.

    >>> largest_difference([torch.ones(2)], [torch.tensor([1.0, 1.5])])
    0.5
    """
    most = 0.0
    for a, b in zip(expected, given, strict=True):
        refuse_nan(a)
        most = max(most, max_difference(a, b))
    return most


def refuse_nan(output: Tensor) -> None:
    """Raise where an output of a model cannot be compared with anything.

    Raises:
        ValueError: if it holds NaN.
    """
    if count := int(output.isnan().sum()):
        raise ValueError(
            f"the model's output has {count:,} NaN of {output.numel():,} values on the example inputs: the model has "
            "diverged, or the inputs are not finite; nothing is written"
        )
