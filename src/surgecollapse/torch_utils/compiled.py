"""Elementwise work on large tensors in one compiled pass, where a compiler is there; else as it was.

Plain operations go over the memory once each. A compiled pass reads every tensor once and writes it once, which is all
that memory asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from surgecollapse.errors import warn_user

SMALLEST = 1 << 18
"""Entries below which calling a compiled pass costs more than it saves."""

_Pass = Callable[..., None]
_proven: set[_Pass] = set()
_refused: set[_Pass] = set()


@cache
def _compiled(function: _Pass) -> _Pass:
    # One kernel for all sizes: a net has tensors of many.
    return torch.compile(function, dynamic=True)


def in_one_pass(function: _Pass, *tensors: Tensor) -> bool:
    """Run ``function`` compiled; say whether that was possible.

    A function may not compile the first time (no C++ compiler, a Python that torch does not support yet). Then it warns
    once and is not tried again in this process.

    Args:
        function: of module level, changing its first arguments in place.
        tensors: its arguments; one-dimensional, or numbers.

    Returns:
        ``False`` if nothing was done, and the caller must do it with plain operations.
    """
    if function in _refused:
        return False
    try:
        # Without the marks of a view: dynamo would compile anew for every rank of what it is a view of.
        _compiled(function)(*(tensor.data for tensor in tensors))
    except RuntimeError as error:
        if function in _proven:
            raise
        _refused.add(function)
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        warn_user(
            f"compile=True could not be followed, and plain operations are used ({reason}): install a C++ compiler "
            "that torch.compile finds (g++ or clang++, or set CXX), or drop compile=True",
            RuntimeWarning,
        )
        return False
    _proven.add(function)
    return True


def flattened(item: Sequence[Tensor]) -> list[Tensor] | None:
    """One-dimensional views of the tensors in memory order, where all lie densely in the same order; else ``None``."""
    first = item[0]
    if all(tensor.is_contiguous() for tensor in item):
        return [tensor.view(-1) for tensor in item]
    if not is_dense(first) or any(tensor.stride() != first.stride() for tensor in item):
        return None
    return [tensor.as_strided((tensor.numel(),), (1,)) for tensor in item]


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill one piece of memory, in whatever order of the dimensions.

    >>> import torch
    >>> is_dense(torch.ones(2, 3).T), is_dense(torch.ones(2, 4)[:, ::2]), is_dense(torch.ones(1).expand(3))
    (True, False, False)
    """
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True


def is_compiled(module: nn.Module) -> bool:
    """Whether a module was given to ``torch.compile``, or compiled in place.

    >>> is_compiled(nn.Linear(2, 2)), is_compiled(torch.compile(nn.Linear(2, 2), backend="eager"))
    (False, True)
    """
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
