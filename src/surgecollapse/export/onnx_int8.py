"""ONNX files of 8-bit integers, by the quantizer of onnxruntime."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from surgecollapse.export.onnx import onnxruntime
from surgecollapse.record.whole_files import write_whole


@dataclass(frozen=True, kw_only=True)
class Int8Result:
    """What was written."""

    path: Path
    bytes: int
    """Size of the file."""
    bytes_before: int
    """Size of the file that was quantized."""
    integer_operators: int
    """Linear and convolution operators whose weights are stored as integers."""


def quantize_onnx(source: str | Path, path: str | Path, calibration: Sequence[Tensor]) -> Int8Result:
    """Write an ONNX file with 8-bit weights and activations (static quantization, a scale for each output channel).

    Weights become signed integers, activations unsigned ones, with ranges from the smallest to the largest value on the
    calibration data (Jacob et al. 2017, arXiv 1712.05877). Batch norms are folded into convolutions first. Outputs
    change: measure the accuracy of the file before it is used.

    Args:
        source: a file of one input, as :func:`~surgecollapse.export.onnx.export_onnx` writes it.
        path: the new file; one that is there is replaced.
        calibration: batches of inputs from the training data; some hundred samples in all.

    Returns:
        Path, sizes, and how many operators are integer ones now.

    Raises:
        ImportError: without the packages of the extra ``onnx``.
        ValueError: if there is no calibration batch, or the file has more than one input.
        OSError: if a file cannot be read or written.
    """
    if not calibration:
        raise ValueError("expected at least one batch of calibration inputs, got none: pass some of the training data")
    runtime = onnxruntime()
    quantization = import_module("onnxruntime.quantization")
    shapes = import_module("onnxruntime.quantization.shape_inference")
    source, path = Path(source), Path(path)
    names = [value.name for value in runtime.InferenceSession(source, providers=["CPUExecutionProvider"]).get_inputs()]
    if len(names) != 1:
        raise ValueError(f"expected a file of one input, got {len(names)}: {', '.join(names)}")

    class Batches:
        def __init__(self) -> None:
            self._left: Iterator[Any] = iter([{names[0]: batch.detach().cpu().numpy()} for batch in calibration])

        def get_next(self) -> Any:
            return next(self._left, None)

    with tempfile.TemporaryDirectory(prefix="surgecollapse-int8-") as folder, _quiet():
        folded, made = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        shapes.quant_pre_process(str(source), str(folded))
        quantization.quantize_static(
            str(folded),
            str(made),
            Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        content = made.read_bytes()
    write_whole(path, content, through_links=True)
    return Int8Result(
        path=path,
        bytes=len(content),
        bytes_before=source.stat().st_size,
        integer_operators=_integer_operators(content),
    )


def _integer_operators(content: bytes) -> int:
    """Operators that read a dequantized constant as their weight."""
    import onnx

    graph = onnx.load_from_string(content).graph
    constants = {tensor.name for tensor in graph.initializer}
    dequantized = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return sum(node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in dequantized for node in graph.node)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's hints, which its log and warnings repeat for each file."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
