"""Files of models with CSR layers: a sparse checkpoint of the dense model, and which layers are CSR."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from surgecollapse.export.checkpoint import SparseFile, load_metadata, load_sparse_into, save_sparse
from surgecollapse.export.csr import replace_module
from surgecollapse.export.csr_linear import CsrLinear
from surgecollapse.torch_utils.modules import unwrap_model

_KEY = "csr"


def save_csr(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> SparseFile:
    """Write a model with CSR layers as a sparse checkpoint with the names of the dense model, and which layers are CSR.

    The file is as small as any of :func:`~surgecollapse.export.checkpoint.save_sparse`, and
    :func:`~surgecollapse.export.checkpoint.load_sparse` reads it as the dense model.

    Args:
        model: the model of a :class:`CsrResult`.
        path: the file; one that is there is replaced.
        metadata: further text to keep in the file.

    Returns:
        Sizes, as ``save_sparse`` gives them.

    Raises:
        ImportError: without the package safetensors (extra ``export``).
        OSError: if the file cannot be written; one of that name from before stays whole.
    """
    modules = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, CsrLinear)}
    state = {}
    for key, value in model.state_dict().items():
        name, _, last = key.rpartition(".")
        if name not in modules or last == "bias":
            state[key] = value
        elif last == "crow":
            state[f"{name}.weight" if name else "weight"] = modules[name].dense_weight()
    plan = {name: list(module.faster.items()) for name, module in modules.items()}
    return save_sparse(state, path, signed_zeros=False, metadata={**(metadata or {}), _KEY: json.dumps(plan)})


def load_csr(model: nn.Module, path: str | Path) -> nn.Module:
    """Rebuild a model that :func:`save_csr` wrote.

    Args:
        model: a model of the same architecture, dense; it is left as it is.
        path: the file.

    Returns:
        A copy in eval mode, with the tensors of the file and CSR where the saved model had it.

    Raises:
        ValueError: if the file is damaged, does not fit, or does not say which layers are CSR.
        ImportError: without the package safetensors (extra ``export``).
        OSError: if it cannot be read.
    """
    loaded = load_sparse_into(copy.deepcopy(unwrap_model(model)), path).eval()
    plan = _plan(path)
    for name, faster in plan.items():
        linear = dict(loaded.named_modules(remove_duplicate=False)).get(name)
        if isinstance(linear, CsrLinear):
            continue  # one module at two places
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"{path} does not fit the model: {name} is no linear layer there")
        loaded = replace_module(loaded, name, CsrLinear(linear.weight, linear.bias, faster))
    return loaded


def _plan(path: str | Path) -> dict[str, dict[int, bool]]:
    """Layer → number of rows → whether CSR is faster there.

    Raises:
        ValueError: if the file does not say it, or not so.
    """
    kept = load_metadata(path).get(_KEY)
    if kept is None:
        raise ValueError(f"{path} does not say which layers are CSR: read it with load_sparse_into")
    try:
        found = json.loads(kept)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} says which layers are CSR in damaged JSON ({error}): save it again") from error
    if not isinstance(found, dict) or not all(map(_is_choice, found.values())):
        raise ValueError(f"{path} does not say which layers are CSR: it has {kept[:60]}")
    return {name: dict(pairs) for name, pairs in found.items()}


def _is_choice(pairs: Any) -> bool:
    """Whether this is a list of pairs of a number of rows and whether CSR is faster there."""
    if not isinstance(pairs, list) or not pairs:
        return False
    two = all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    return two and all(type(rows) is int and rows > 0 and type(faster) is bool for rows, faster in pairs)
