"""Parameters of which each process holds a part: ``DTensor``, as made by ``fully_shard`` and ``parallelize_module``.

All that the library does to weights is elementwise, or ranks, counts or sums them. Elementwise work is done on the part
that a process holds (:func:`local`). The rest is done by :class:`Shards` and by
:class:`~surgecollapse.act.sharded_ranking.ShardedRanking`, in such a way that the result is that of one process.
Everything here is trivial for plain tensors, and then no collective is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.sharded_modules import gathers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is distributed over a device mesh, replicated there or split."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory; a plain tensor is that part itself.

    >>> weight = torch.ones(2)
    >>> local(weight) is weight
    True
    """
    if not is_sharded(tensor):
        return tensor
    distributed_tensor: Any = tensor
    with torch.no_grad():
        part: Tensor = distributed_tensor.to_local()
    return part


def whole(param: Tensor, part: Tensor) -> Tensor:
    """Gather a tensor of which every process holds the part that it holds of ``param``; on all ranks alike.

    Args:
        param: says how it is split; of a plain parameter the part is the whole.
        part: of the shape of ``local(param)``, with further dimensions before these or without.
    """
    if not is_sharded(param):
        return part
    if part.ndim > param.ndim:
        return torch.stack([whole(param, one) for one in part])
    from torch.distributed.tensor import DTensor

    stored = part.detach().to(torch.uint8) if part.dtype is torch.bool else part.detach()
    strides = torch.empty(param.shape, device="meta").stride()
    mesh, placements = _mesh(param), param.placements  # type: ignore[attr-defined]
    spread = DTensor.from_local(
        stored.contiguous(), mesh, placements, run_check=False, shape=param.shape, stride=strides
    )
    return spread.full_tensor().to(part.dtype)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Gather a distributed tensor, as activations may be, on all ranks alike; a plain one is returned as it is."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return full


def part_of(param: Tensor, full: Tensor) -> Tensor:
    """Cut from a whole tensor the part that this process holds of ``param``: a copy, or all of it.

    Args:
        param: says how it is split.
        full: of the shape of ``param``, with further dimensions before these or without.
    """
    if not is_sharded(param):
        return full
    start, shape = box(param)
    before = full.ndim - param.ndim
    for dim, (first, length) in enumerate(zip(start, shape, strict=True)):
        full = full.narrow(before + dim, first, length)
    return full.clone(memory_format=torch.contiguous_format)


def like(param: Tensor, part: Tensor) -> Tensor:
    """Wrap a part as a tensor that is split as ``param`` is; of a plain parameter, the part itself."""
    if not is_sharded(param):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements, strides = _mesh(param), param.placements, param.stride()  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=param.shape, stride=strides)


def box(param: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the part of this process lies: its first index in each dimension, and its shape.

    A dimension is split as ``torch.chunk`` splits it, so that the last parts may be smaller, or empty.
    """
    start, shape = [0] * param.ndim, list(param.shape)
    if is_sharded(param):
        coordinate = _mesh(param).get_coordinate()
        assert coordinate is not None
        for axis, dim in splits(param) or ():
            chunk = -(-shape[dim] // _mesh(param).size(axis))
            first = min(coordinate[axis] * chunk, shape[dim])
            start[dim] += first
            shape[dim] = min(chunk, shape[dim] - first)
    return tuple(start), tuple(shape)


def splits(param: Tensor) -> list[tuple[int, int]] | None:
    """Axes of the mesh along which a tensor is split, each with the dimension that it splits, in that order.

    ``fully_shard`` splits what ``parallelize_module`` has split before along a later axis of the mesh, and says so by a
    strided placement. Such parts are boxes too, as long as the strided placements count exactly the splits before them.

    Returns:
        The splits, or ``None`` where the parts are no boxes of the whole.
    """
    placements, mesh = list(enumerate(param.placements)), _mesh(param)  # type: ignore[attr-defined]
    kinds = {axis: type(placement).__name__ for axis, placement in placements}
    if not set(kinds.values()) <= {"Shard", "_StridedShard", "Replicate"}:
        return None
    found = [(axis, placement.dim) for axis, placement in placements if kinds[axis] == "Shard"]
    for axis, placement in reversed(placements):
        if kinds[axis] == "_StridedShard":
            if placement.split_factor != prod(mesh.size(other) for other, dim in found if dim == placement.dim):
                return None
            found.append((axis, placement.dim))
    return found


def _mesh(param: Tensor) -> DeviceMesh:
    mesh: DeviceMesh = param.device_mesh  # type: ignore[attr-defined]
    return mesh


class Shards:
    """Sums over the parts that all processes hold, each part counted once.

    Args:
        ranks: the processes that hold the parts; every one of them must call the methods in the same order.
        sharded: whether there are parts at all.
    """

    def __init__(self, ranks: Ranks | None = None, *, sharded: bool = False) -> None:
        self._ranks = Ranks() if ranks is None else ranks
        self.sharded = sharded

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Shards:
        """What sums over the processes that hold parts of these tensors; trivial where all are plain."""
        if not any(map(is_sharded, tensors)):
            return cls()
        group = _group_of(tensors)
        alone = group is None or distributed.get_world_size(group) == 1
        return cls(Ranks(None if alone else group), sharded=True)

    def totals(self, tensors: Sequence[Tensor], values: Tensor) -> Tensor:
        """Sums over the parts of some numbers each, in float64; the host does not wait for them.

        Args:
            tensors: of which each process holds a part.
            values: ``(tensors, …)``, of the part that this process holds; returned as they are if all are plain.
        """
        if not self.sharded:
            return values
        counted = torch.tensor([self.counts_here(tensor) for tensor in tensors], device=values.device)
        return self._ranks.totals([torch.where(counted.view(-1, *[1] * (values.ndim - 1)), values, 0)])[0]

    def total(self, value: Tensor) -> Tensor:
        """Sum over the ranks of a number that counts each part once; as it is without parts."""
        return self._ranks.totals([value])[0] if self.sharded else value

    def counts_here(self, param: Tensor) -> bool:
        """Whether this process is the one whose copy of its part is counted.

        Of equal copies that is the one beside the first rank's: a plain parameter is counted there alone.
        """
        first = self._first
        if not is_sharded(param):
            return distributed.get_rank() == first if self.sharded else True
        mesh, ranks = _mesh(param), _mesh(param).mesh
        place = (ranks == first).nonzero()
        if not len(place):
            return False
        own = mesh.get_coordinate()
        replicated = [axis for axis, p in enumerate(param.placements) if p.is_replicate()]  # type: ignore[attr-defined]
        return own is not None and all(own[axis] == int(place[0, axis]) for axis in replicated)

    @property
    def _first(self) -> int:
        group = self._ranks.group
        return (
            distributed.get_global_rank(group, 0)
            if group is not None
            else (distributed.get_rank() if self.sharded else 0)
        )

    def sums(self, params: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over the parts of one number each, in float64, with one host sync.

        Args:
            params: name → parameter, which says how it is split.
            values: name → 0-dimensional tensor, of the part that this process holds.
        """
        if not values:
            return {}
        home = next(iter(values.values())).device
        own = torch.stack([value.to(home, torch.float64) for value in values.values()])
        if self._spread(params, values):
            counted = [self.counts_here(params[name]) for name in values]
            own = self._ranks.totals([own * torch.tensor(counted, device=home)])[0]
        return dict(zip(values, own.tolist(), strict=True))

    def greatest(self, params: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, float]:
        """Greatest over the parts of one number each, with one host sync; arguments as in :meth:`sums`."""
        if not values:
            return {}
        home = next(iter(values.values())).device
        own = torch.stack([value.to(home, torch.float64) for value in values.values()])
        if self._spread(params, values):
            own = self._ranks.highest(own)
        return dict(zip(values, own.tolist(), strict=True))

    def add_up(self, counts: Tensor) -> Tensor:
        """Sum integers over the ranks, in place; each rank gives those of the parts that it counts."""
        if self.sharded and not self._ranks.alone:
            distributed.all_reduce(counts, group=self._ranks.group)
        return counts

    def anywhere(self, flag: bool, device: torch.device) -> bool:
        """Whether a flag is set on any rank; of plain parameters, here."""
        if not self.sharded or self._ranks.alone:
            return flag
        return bool(self._ranks.highest(torch.tensor(float(flag), device=device)) > 0)

    def _spread(self, params: Mapping[str, Tensor], names: Iterable[str]) -> bool:
        return self.sharded and any(is_sharded(params[name]) for name in names)


def together(model: nn.Module, group: ProcessGroup | None = None) -> tuple[Ranks, Shards]:
    """The processes that train a model, and what sums over those that hold parts of its weights.

    Args:
        model: wrapped or not.
        group: as the user gave it. Without one it is that of a ``DistributedDataParallel`` wrapper, or of the mesh of
            the parameters, if they have one mesh of one dimension. Else it is all ranks of the program.
    """
    params = list(model.parameters())
    ranks = Ranks.of(model, _group_of(params) if group is None else group)
    return ranks, Shards(ranks, sharded=any(map(is_sharded, params)))


def data_differs(model: nn.Module, ranks: Ranks) -> bool:
    """Whether the processes that train a model have different batches: not so under tensor parallelism alone."""
    if ranks.alone and not ranks.awaited:
        return False
    return any(map(gathers, model.modules())) or not any(map(is_sharded, model.parameters()))


def _group_of(tensors: Iterable[Tensor]) -> ProcessGroup | None:
    meshes = {_mesh(p) for p in tensors if is_sharded(p)}
    if not meshes:
        return None
    mesh = next(iter(meshes))
    group: ProcessGroup | None = mesh.get_group() if len(meshes) == 1 and mesh.ndim == 1 else distributed.group.WORLD
    return group
