"""What processes that train one model together have to agree on."""

from __future__ import annotations

from typing import Any

from torch import distributed


def rank() -> int | None:
    """This process's rank in the default process group; ``None`` where it trains alone.

    >>> rank() is None
    True
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return None
    return distributed.get_rank()


def from_first_rank(value: Any) -> Any:
    """Give every rank the value that rank 0 has; a collective, which every rank must call at the same place.

    Args:
        value: anything that pickles; of the other ranks it is ignored.

    >>> from_first_rank("alone")
    'alone'
    """
    if rank() is None:
        return value
    shared = [value]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]
