"""The processes that train one model together, and what they have to agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms import join
from torch.nn.parallel import DistributedDataParallel

from surgecollapse.torch_utils.modules import called_inside

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Ranks:
    """The processes that train one model together. Where there is one, no collective is ever called.

    Every rank must call the methods at the same places and in the same order.

    Args:
        group: the process group whose ranks hold the same weights; ``None`` for a model that trains alone.

    Attributes:
        awaited: a state of several processes was loaded; which they are, the first batch shows.
        absent: this rank has run out of data (``torch.distributed.algorithms.Join``): it takes part in every sum, with
            zeros.

    >>> ranks = Ranks()
    >>> ranks.alone, ranks.first, ranks.from_first("alone")
    (True, True, 'alone')
    >>> ranks.totals([torch.tensor([1.0, 2.0]), torch.tensor(3.0)])
    [tensor([1., 2.], dtype=torch.float64), tensor(3., dtype=torch.float64)]
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self._group = group
        self.absent = self.awaited = False

    @classmethod
    def of(cls, model: nn.Module, group: ProcessGroup | None = None) -> Ranks:
        """The ranks of a model: those of ``group`` if given, else those that its wrapper or its weights name."""
        parallel = data_parallel(model)
        if group is None and parallel is not None:
            group = parallel.process_group
        return cls(group if group is not None and distributed.get_world_size(group) > 1 else None)

    def join(self, group: ProcessGroup) -> None:
        """Train together with these processes from now on: the model was wrapped after it was attached to."""
        self._group, self.awaited = group, False

    @property
    def group(self) -> ProcessGroup | None:
        """The process group; ``None`` where this process is alone."""
        return self._group

    @property
    def alone(self) -> bool:
        """Whether this process trains the model by itself."""
        return self._group is None

    @property
    def size(self) -> int:
        """Number of ranks."""
        return 1 if self._group is None else distributed.get_world_size(self._group)

    @property
    def rank(self) -> int:
        """This process's rank in the group; 0 where it is alone."""
        return 0 if self._group is None else distributed.get_rank(self._group)

    @property
    def first(self) -> bool:
        """Whether this is rank 0 of the group, which takes commands and writes records."""
        return self.rank == 0

    def totals(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the ranks, in float64, in one all-reduce.

        Args:
            values: tensors of the same shapes on every rank.
        """
        flat = [value.detach().reshape(-1).double() for value in values]
        joined = torch.cat(flat) if flat else torch.empty(0, dtype=torch.float64)
        if not self.alone:
            joined = torch.zeros_like(joined) if self.absent else joined.contiguous()
            distributed.all_reduce(joined, group=self._group)
        sizes = [part.numel() for part in flat]
        parts = joined.split(sizes) if flat else ()  # type: ignore[no-untyped-call]
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]

    def highest(self, values: Tensor) -> Tensor:
        """Element-wise largest value over the ranks."""
        if self.alone:
            return values
        most = values.clone()
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX, group=self._group)
        return most

    def from_first(self, value: Any, *, source: int = 0) -> Any:
        """Give every rank the value that one rank has.

        Args:
            value: anything that pickles; that of the other ranks is ignored.
            source: the rank of the group that has it.
        """
        if self._group is None:
            return value
        shared = [value]
        distributed.broadcast_object_list(
            shared, src=distributed.get_global_rank(self._group, source), group=self._group
        )
        return shared[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order.

        Args:
            value: anything that pickles.
        """
        found = [value] * self.size
        if self._group is not None:
            distributed.all_gather_object(found, value, group=self._group)
        return found

    def all_agree(self, value: Any) -> bool:
        """Whether every rank has the same value as rank 0."""
        differs = torch.tensor(float(self.from_first(value) != value))
        return not bool(self.totals([differs])[0] > 0)


def data_parallel(model: nn.Module) -> DistributedDataParallel | None:
    """The ``DistributedDataParallel`` in a chain of wrappers, if there is one."""
    while True:
        if isinstance(model, DistributedDataParallel):
            return model
        inner = called_inside(model)
        if inner is None:
            return None
        model = inner


def wrapper_at_work(model: nn.Module) -> DistributedDataParallel | None:
    """The ``DistributedDataParallel`` whose forward pass is running now, if it reduces the gradients of a model."""
    wrapper: DistributedDataParallel | None = DistributedDataParallel._active_ddp_module
    if wrapper is None:
        return None
    reduced = {id(p) for p in wrapper.parameters()}
    return wrapper if all(id(p) in reduced for p in model.parameters()) else None


class _Shadow(join.JoinHook):
    """What a rank without data does while others train on: the collectives of DDP, then those of ``step``."""

    def __init__(self, inner: join.JoinHook, step: Callable[[], None], end: Callable[[bool], None]) -> None:
        self._inner, self._step, self._end = inner, step, end

    def main_hook(self) -> None:
        """Take part in one step of the others."""
        self._inner.main_hook()
        self._step()

    def post_hook(self, is_last_joiner: bool) -> None:
        """Take over what those that trained longest have."""
        self._inner.post_hook(is_last_joiner)
        self._end(is_last_joiner)


def shadow_when_joined(model: nn.Module, step: Callable[[], None], end: Callable[[bool], None]) -> Callable[[], None]:
    """Have a rank that ran out of data under ``Join([model])`` take part in the further steps of the others.

    Args:
        model: with a ``DistributedDataParallel`` in its chain of wrappers; otherwise nothing is done.
        step: called after DDP has shadowed the collectives of one step.
        end: called on every rank when all have ended, with whether this was among the last.

    Returns:
        Undoes it.
    """
    parallel: Any = data_parallel(model)
    if parallel is None:
        return lambda: None
    original = parallel.join_hook
    parallel.join_hook = lambda **options: _Shadow(original(**options), step, end)

    def remove() -> None:
        vars(parallel).pop("join_hook", None)

    return remove
