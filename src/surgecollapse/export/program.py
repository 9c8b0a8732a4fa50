"""A model as a program in one file: graph and weights, readable by plain torch, without the code that made it."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.export.measure import caller, largest_difference, refuse_nan
from surgecollapse.export.plain_check import check_plain
from surgecollapse.record.whole_files import write_whole
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
    of it may be pickled, so load only files that you trust. A SHA-256 checksum is written beside it, as
    ``sha256sum --check`` reads it.

    Args:
        model: a model in eval mode that ``torch.export`` can trace.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called, of two samples or
            more: a batch of one would fix the program to one.
        path: the file; one that is there is replaced.

    Returns:
        Path, size, and the largest difference on the example inputs.

    Raises:
        ValueError: if there are fewer than two samples, an output is NaN, or the model cannot be traced for any
            batch size.
        TypeError: if ``example_inputs`` are no inputs.
        OSError: if the file cannot be written; one of that name from before stays whole.
    """
    check_plain(model.named_parameters())
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
    with torch.no_grad():
        expected = list(tensors_in(call(plain)))
    for output in expected:
        refuse_nan(output)
    try:
        with torch.no_grad():
            program = torch.export.export(
                plain, args, kwargs, dynamic_shapes=(*args_axes, *kwargs_axes.values()), strict=False
            )
        torch.export.save(program, content)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the model cannot be written as a program for any batch size: {reason}") from error
    path, packed = Path(path), content.getvalue()
    write_whole(path, packed, through_links=True)
    write_whole(_checksum_file(path), f"{hashlib.sha256(packed).hexdigest()}  {path.name}\n".encode())
    run = load_program(path)
    with torch.no_grad():
        given = list(tensors_in(run(*args, **kwargs)))
    difference = largest_difference(expected, given)
    return ProgramResult(path=Path(path), bytes=Path(path).stat().st_size, max_difference=difference)


def load_program(path: str | Path) -> Callable[..., Any]:
    """Read a file of :func:`save_program`, as a function of the model's arguments.

    A ``.pt2`` file holds pickled parts: reading one may execute whatever code its author put there. The checksum that
    :func:`save_program` writes beside it is compared before anything is read. It shows that the file is the one that
    was written, not that its author is to be trusted. Without it there is a warning.

    Raises:
        ValueError: if it is no program, damaged, or not the file that the checksum beside it was written for.
        OSError: if it cannot be read.
    """
    packed = Path(path).read_bytes()
    _compare_checksum(Path(path), packed)
    content = io.BytesIO(packed)
    try:
        with zipfile.ZipFile(content) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} does not have its checksum")
        content.seek(0)
        return torch.export.load(content).module()
    except (zipfile.BadZipFile, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or no program: {reason}") from error


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _compare_checksum(path: Path, packed: bytes) -> None:
    beside = _checksum_file(path)
    if not beside.is_file():
        warnings.warn(
            f"reading {path} can execute code that is in it, and there is no {beside.name} beside it to compare it "
            "with: read only files from people whom you trust",
            UserWarning,
            stacklevel=3,
        )
        return
    wanted = beside.read_text(encoding="utf-8", errors="replace").split()[:1]
    if wanted != [hashlib.sha256(packed).hexdigest()]:
        raise ValueError(f"{path} is not the file that {beside.name} was written for: export it again")


def _nested(example_inputs: Any) -> Any:
    return dict(example_inputs) if isinstance(example_inputs, Mapping) else example_inputs


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs), {}
