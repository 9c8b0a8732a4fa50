"""A model as a program in one file: graph and weights, readable by plain torch, without the code that made it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.export.checkpoint import write_whole
from surgecollapse.export.measure import caller, max_difference
from surgecollapse.torch_utils.modules import map_tensors, tensors_in, unwrap_model


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """What was written."""

    path: Path
    bytes: int
    """Size of the file."""
    max_difference: float
    """Largest absolute difference between the outputs of the model and of the file on the example inputs."""


def save_program(model: nn.Module, example_inputs: Any, path: str | Path) -> ProgramResult:
    """Write a model through ``torch.export`` (a ``.pt2`` file), load it back and compare.

    For models whose shape no configuration describes any more, such as compacted ones. The first axis of the inputs is
    the batch, and may have any length. The file needs this package no more: ``torch.export.load(path).module()``. Parts
    of it may be pickled, so load only files that you trust.

    Args:
        model: a model in eval mode that ``torch.export`` can trace.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called, of two samples or
            more: a batch of one would fix the program to one.
        path: the file; one that is there is replaced.

    Returns:
        Path, size, and the largest difference on the example inputs.

    Raises:
        ValueError: if there are fewer than two samples, or the model cannot be traced for any batch size.
        TypeError: if ``example_inputs`` are no inputs.
        OSError: if the file cannot be written; one of that name from before stays whole.
    """
    call, plain = caller(example_inputs), unwrap_model(model)
    rows = {len(tensor) for tensor in tensors_in(_nested(example_inputs)) if tensor.ndim}
    if len(rows) != 1 or min(rows) < 2:
        raise ValueError(f"expected example inputs that share a first axis of two or more, got {sorted(rows)}")
    # Cloned: the file keeps the examples, with the whole memory that a slice belongs to.
    args, kwargs = map_tensors(_arguments(example_inputs), lambda tensor: tensor.detach().clone())
    batch = torch.export.Dim("batch", min=1)
    axes: Callable[[Any], Any] = lambda tensor: {0: batch} if tensor.ndim else None  # noqa: E731
    args_axes, kwargs_axes = map_tensors((args, kwargs), axes)
    content = io.BytesIO()
    try:
        with torch.no_grad():
            program = torch.export.export(
                plain, args, kwargs, dynamic_shapes=(*args_axes, *kwargs_axes.values()), strict=False
            )
        torch.export.save(program, content)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the model cannot be written as a program for any batch size: {reason}") from error
    write_whole(Path(path), content.getvalue())
    run = load_program(path)
    with torch.no_grad():
        expected, given = (list(tensors_in(outputs)) for outputs in (call(plain), run(*args, **kwargs)))
    difference = max((max_difference(a, b) for a, b in zip(expected, given, strict=True)), default=0.0)
    return ProgramResult(path=Path(path), bytes=Path(path).stat().st_size, max_difference=difference)


def load_program(path: str | Path) -> Callable[..., Any]:
    """Read a file of :func:`save_program`, as a function of the model's arguments.

    Raises:
        ValueError: if it is no program, or damaged.
        OSError: if it cannot be read.
    """
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} does not have its checksum")
        content.seek(0)
        return torch.export.load(content).module()
    except (zipfile.BadZipFile, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or no program: {reason}") from error


def _nested(example_inputs: Any) -> Any:
    return dict(example_inputs) if isinstance(example_inputs, Mapping) else example_inputs


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs), {}
