"""Joins the units of layers that tensor parallelism splits by columns: each process computes some of them.

Entropy is a statement about all units of a layer. Those that one process sees have another one, and another range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed, nn

from surgecollapse.torch_utils.shards import is_sharded, splits


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the units that this process computes lie among all units of a layer."""

    start: int
    count: int
    units: int
    groups: tuple[Any, ...]
    """Process groups that hold the others, one for each axis of the mesh that splits the units."""


class SplitUnits:
    """Joins the rows that the processes of a tensor-parallel group have read, each for its own units.

    All of them must call :meth:`joined` at the same places: they run the same layers, on the same rows.

    Args:
        sites: name → module that is read.
    """

    def __init__(self, sites: Mapping[str, nn.Module]) -> None:
        found = {name: _columns(module) for name, module in sites.items()}
        self._columns = {name: columns for name, columns in found.items() if columns is not None}

    def joined(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same rows with the units of all processes.

        Args:
            samples: ``(rows, units)`` by site; of whole layers, and of those whose output was joined already, as it is.
        """
        return {name: self._join(self._columns.get(name), x) for name, x in samples.items()}

    @staticmethod
    def _join(columns: _Columns | None, x: Tensor) -> Tensor:
        if columns is None or x.shape[1] != columns.count:
            return x
        full = torch.zeros(x.shape[0], columns.units, dtype=x.dtype, device=x.device)
        full[:, columns.start : columns.start + columns.count] = x
        for group in columns.groups:
            distributed.all_reduce(full, group=group)
        return full


def _columns(module: nn.Module) -> _Columns | None:
    """How the units of a layer are split; ``None`` where every process computes all of them.

    Only axes along which the units themselves are split count: what ``fully_shard`` splits is gathered for each pass.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) or not isinstance(weight, Tensor) or not is_sharded(weight):
        return None
    param: Any = weight
    mesh, coordinate = param.device_mesh, param.device_mesh.get_coordinate()
    kinds = [type(placement).__name__ for placement in param.placements]
    axes = [axis for axis, dim in splits(weight) or () if dim == 0 and kinds[axis] == "Shard"]
    units, parts = weight.shape[0], prod(mesh.size(axis) for axis in axes)
    if parts == 1 or units % parts:  # layers that do not divide evenly have no output of their own on each process
        return None
    start, count = 0, units
    for axis in axes:
        count //= mesh.size(axis)
        start += coordinate[axis] * count
    return _Columns(start, count, units, tuple(mesh.get_group(axis) for axis in axes))
