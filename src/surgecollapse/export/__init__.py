"""Trained nets as files and modules that are smaller or faster: sparse checkpoints, CSR, compaction, ONNX, 2:4.

Importing this imports nothing else: names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgecollapse.export.checkpoint import (
        SparseFile,
        load_masks,
        load_metadata,
        load_sparse,
        load_sparse_into,
        save_sparse,
    )
    from surgecollapse.export.compact import CompactLayer, CompactResult, compact_model
    from surgecollapse.export.csr import CsrLayer, CsrResult, to_csr
    from surgecollapse.export.csr_file import load_csr, save_csr
    from surgecollapse.export.csr_linear import CsrLinear
    from surgecollapse.export.onnx import OnnxResult, export_onnx
    from surgecollapse.export.onnx_int8 import Int8Result, quantize_onnx
    from surgecollapse.export.program import ProgramResult, load_program, save_program
    from surgecollapse.export.semi_structured import (
        SemiStructuredResult,
        TwoFourLayer,
        is_two_four,
        to_semi_structured,
        two_four_layers,
    )

_HOME = {
    "CompactLayer": "compact",
    "CompactResult": "compact",
    "CsrLayer": "csr",
    "CsrLinear": "csr_linear",
    "CsrResult": "csr",
    "Int8Result": "onnx_int8",
    "OnnxResult": "onnx",
    "ProgramResult": "program",
    "SemiStructuredResult": "semi_structured",
    "SparseFile": "checkpoint",
    "TwoFourLayer": "semi_structured",
    "compact_model": "compact",
    "export_onnx": "onnx",
    "is_two_four": "semi_structured",
    "load_csr": "csr_file",
    "load_masks": "checkpoint",
    "load_metadata": "checkpoint",
    "load_program": "program",
    "load_sparse": "checkpoint",
    "load_sparse_into": "checkpoint",
    "quantize_onnx": "onnx_int8",
    "save_csr": "csr_file",
    "save_program": "program",
    "save_sparse": "checkpoint",
    "to_csr": "csr",
    "to_semi_structured": "semi_structured",
    "two_four_layers": "semi_structured",
}

__all__ = [
    "CompactLayer",
    "CompactResult",
    "CsrLayer",
    "CsrLinear",
    "CsrResult",
    "Int8Result",
    "OnnxResult",
    "ProgramResult",
    "SemiStructuredResult",
    "SparseFile",
    "TwoFourLayer",
    "compact_model",
    "export_onnx",
    "is_two_four",
    "load_csr",
    "load_masks",
    "load_metadata",
    "load_program",
    "load_sparse",
    "load_sparse_into",
    "quantize_onnx",
    "save_csr",
    "save_program",
    "save_sparse",
    "to_csr",
    "to_semi_structured",
    "two_four_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'surgecollapse.export' has no attribute {name!r}")
    value = getattr(import_module(f"surgecollapse.export.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
