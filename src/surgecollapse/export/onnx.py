"""ONNX files, checked: what onnxruntime computes from them is compared with the model before they are written."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.errors import needs
from surgecollapse.export.measure import max_difference, refuse_nan
from surgecollapse.export.plain_check import check_plain
from surgecollapse.record.whole_files import write_whole
from surgecollapse.torch_utils.modules import evaluating, map_tensors, tensors_in, unwrap_model

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one file: protobuf ends at 2 GiB."""
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._dynamo")
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, NotImplementedError, KeyError)
"""What torch's exporter raises for a model that it cannot take; not memory errors, interrupts or failures to write."""


@dataclass(frozen=True, kw_only=True)
class OnnxResult:
    """What was written."""

    path: Path
    bytes: int
    """Size of the file."""
    max_difference: float
    """Largest absolute difference between the outputs of the model and of onnxruntime."""
    batches: tuple[int, ...]
    """Batch sizes that were compared; empty where the inputs share no batch axis."""
    opset: int
    """Version of the operators."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export_onnx(
    model: nn.Module,
    example_inputs: Any,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float = 1e-4,
) -> OnnxResult:
    """Write a model as one ONNX file, once onnxruntime has computed from it what the model does.

    The model goes through ``torch.export``, the exporter of ``torch.onnx``, the checker of onnx, and onnxruntime on the
    CPU. It runs with the example inputs, and if the batch may vary also with its first sample alone. Weights are in the
    file itself. Zeros are stored as any other value: compact the model first
    (:func:`surgecollapse.export.compact.compact_model`).

    Args:
        model: a model that ``torch.export`` can trace; it is left as it is. The file holds its eval mode.
        example_inputs: a tensor, a tuple of arguments or a dict of them, as the model is called.
        path: the file; one that is there is replaced.
        dynamic_batch: let the first axis of all inputs have any length; the examples need two samples then.
        tolerance: largest difference allowed, times the largest output or 1, whichever is more.

    Returns:
        Path, size, the largest difference, and the names of inputs and outputs.

    Raises:
        ImportError: without the packages of the extra ``onnx``.
        ValueError: if the model cannot be exported or the file would compute something else; no file is written.
        TypeError: if ``example_inputs`` are no inputs.
        OSError: if the file cannot be written; one of that name from before stays whole.

    >>> import tempfile
    >>> result = export_onnx(nn.Linear(2, 1), torch.ones(2, 2), tempfile.mkdtemp() + "/line.onnx")
    >>> result.max_difference < 1e-6, result.batches, len(result.inputs)
    (True, (2, 1), 1)
    """
    check_plain(model.named_parameters())
    _require()
    args, kwargs = _arguments(example_inputs)
    plain = unwrap_model(model)
    size = sum(tensor.nbytes for tensor in (*plain.parameters(), *plain.buffers()))
    if size > _LARGEST:
        raise ValueError(f"one ONNX file holds less than 2 GiB of weights, got {size:,} bytes")
    batch = _batch(args, kwargs, dynamic_batch)
    with evaluating(plain):
        content, opset = _convert(plain, args, kwargs, dynamic_batch)
        cases = [(args, kwargs)]
        if dynamic_batch:
            cases.append(map_tensors((args, kwargs), lambda tensor: tensor[:1] if tensor.ndim else tensor))
        session = _session(content)
        difference = max(_compare(plain, session, case, tolerance) for case in cases)
    path = Path(path)
    write_whole(path, content, through_links=True)
    return OnnxResult(
        path=path,
        bytes=len(content),
        max_difference=difference,
        batches=() if batch is None else (batch, 1) if dynamic_batch else (batch,),
        opset=opset,
        inputs=tuple(value.name for value in session.get_inputs()),
        outputs=tuple(value.name for value in session.get_outputs()),
    )


def onnxruntime() -> Any:
    """The module onnxruntime, which writes no device id and sends nothing.

    Its builds with telemetry do both, unless ``ORT_DISABLE_TELEMETRY`` is set before the first import. A value that is
    set already is kept.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def _require() -> None:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with needs("ONNX export", "onnx"):
        for name in _PACKAGES:
            import_module(name)


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise TypeError(
        f"example_inputs must be a tensor, a tuple of arguments or a dict of them, got {type(example_inputs).__name__}"
    )


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: bool) -> int | None:
    """The length of the first axis, if all inputs share it."""
    lengths = {len(tensor) for tensor in tensors_in([args, kwargs]) if tensor.ndim}
    shared = lengths.pop() if len(lengths) == 1 else None
    if dynamic and (shared is None or shared < 2):
        found = sorted(lengths) if shared is None else shared
        raise ValueError(
            f"dynamic_batch needs example inputs with one first axis of two or more samples, got {found}: "
            "give more samples, or dynamic_batch=False"
        )
    return shared


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress lines, log lines and deprecation warnings of the exporter; errors come through."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@torch.no_grad()
def _convert(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: bool) -> tuple[bytes, int]:
    """The content of the file, and the version of its operators."""
    import onnx

    shapes = None
    if dynamic:
        dim = torch.export.Dim("batch", min=1)
        axes, named = map_tensors((args, kwargs), lambda tensor: {0: dim} if tensor.ndim else None)  # type: ignore[arg-type,return-value]
        shapes = (*axes, *named.values())
    try:
        with _quiet():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False)
            assert exported is not None
            proto = exported.model_proto
            onnx.checker.check_model(proto, full_check=True)
            content: bytes = proto.SerializeToString()
    except (*_ERRORS, onnx.checker.ValidationError) as error:
        raise ValueError(f"{type(model).__name__} cannot be written as ONNX: {_first_line(error)}") from error
    return content, next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _session(content: bytes) -> Any:
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise ValueError(f"onnxruntime refuses the file: {_first_line(error)}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime, which share no base of their own."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


@torch.no_grad()
def _compare(model: nn.Module, session: Any, case: tuple[tuple[Any, ...], dict[str, Any]], tolerance: float) -> float:
    """Largest absolute difference of the outputs, if it is within the tolerance."""
    tensors = list(tensors_in(list(case)))
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(tensors):
        raise ValueError(f"the file reads {names}, but the example inputs hold {len(tensors)} tensors")
    args, kwargs = case
    expected = [tensor.detach().cpu() for tensor in tensors_in([model(*args, **kwargs)])]
    feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
    try:
        given = [torch.from_numpy(array) for array in session.run(None, feed)]
    except _runtime_errors() as error:
        raise ValueError(f"onnxruntime cannot run the file: {_first_line(error)}") from error
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in given]:
        raise ValueError(
            f"the file's outputs have shapes {_shapes(given)}, the model's {_shapes(expected)}: not written"
        )
    difference = 0.0
    for a, b in zip(expected, given, strict=True):
        refuse_nan(a)
        found = max_difference(a, b)
        finite = a[a.isfinite()].double().abs()
        bound = tolerance * max(1.0, float(finite.max()) if finite.numel() else 0.0)
        if not found <= bound:
            raise ValueError(
                f"onnxruntime's outputs differ from the model's by {found:.3g}, more than {bound:.3g}: not written"
            )
        difference = max(difference, found)
    return difference


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def _first_line(error: Exception) -> str:
    """The first line of a message, or of the error that caused it, without colors."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
