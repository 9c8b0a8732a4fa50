"""Which runs the bank has: tasks × learning rate × weight decay × training fraction × seeds, and its negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from grokking_bank.members import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Runs of one task that have net, steps and batch in common."""

    task: str
    members: tuple[Member, ...]
    hidden: int
    steps: int
    net: str = "perceptron"
    """Of :data:`~grokking_bank.stack.NETS`."""
    batch: int | None = None
    together: int = 16
    """Members of one stack."""

    def stacks(self) -> list[tuple[Member, ...]]:
        """The members in stacks, those of like size together, so that little is padded."""
        order = sorted(self.members, key=lambda member: (member.train_fraction, member.seed))
        return [tuple(order[i : i + self.together]) for i in range(0, len(order), self.together)]


def grid(
    rates: Sequence[float],
    decays: Sequence[float],
    fractions: Sequence[float],
    *,
    scale: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Member, ...]:
    """Every combination once, each with a seed of its own, from ``seed`` on.

    >>> [(member.seed, member.lr) for member in grid([0.1, 0.2], [0.0], [0.5])]
    [(0, 0.1), (1, 0.2)]
    """
    return tuple(
        Member(seed=seed + i, lr=lr, weight_decay=decay, train_fraction=share, init_scale=scale, label_noise=noise)
        for i, (lr, decay, share) in enumerate(product(rates, decays, fractions))
    )


def block(name: str) -> Block:
    """The runs of one block.

    Raises:
        ValueError: for a block that the bank does not have.

    >>> block("add-23").steps, sum(len(stack) for stack in block("add-23").stacks()) == len(block("add-23").members)
    (6000, True)
    >>> block("mnist-large").task
    'mnist'
    """
    if name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}: expected one of {', '.join(BLOCKS)}")
    own = {"mnist": _mnist, "mnist-large": _mnist_large, "s5": _permutations_of_five}
    if name in own:
        return own[name]()
    if name.startswith(tuple(WIDTHS)):
        return _other_net(name)
    return _parity(name) if name.startswith("parity") else _algebra(name)


def _first(name: str) -> int:
    """The first seed of a block: it depends on the block's place alone, so that one added at the end shifts none."""
    return 1000 * BLOCKS.index(name)


def _algebra(task: str) -> Block:
    first = _first(task)
    usual = grid((0.005, 0.01, 0.02), (0.0, 0.2, 0.5, 1.0), (0.7, 0.8, 0.85), seed=first)
    few = grid((0.01,), (0.0, 0.2, 0.5, 1.0), (0.35, 0.5), seed=first + 100)
    large = grid((0.01,), (0.2, 0.5), (0.8, 0.85), scale=3.0, seed=first + 200)
    random = grid((0.005, 0.02), (0.2, 1.0), (0.8,), noise=1.0, seed=first + 300)
    partly = grid((0.01,), (0.5, 1.0), (0.85,), noise=0.3, seed=first + 400)
    diverging = grid((1.0, 3.0), (0.5,), (0.8,), seed=first + 500)
    return Block(task=task, members=(*usual, *few, *large, *random, *partly, *diverging), hidden=96, steps=6000)


def _parity(task: str) -> Block:
    first = _first(task)
    usual = grid((0.003, 0.01), (0.0, 0.1, 0.3, 1.0), (0.15, 0.45, 0.6, 0.75, 0.85), scale=4.0, seed=first)
    random = grid((0.003, 0.01), (0.3, 1.0), (0.6,), scale=4.0, noise=1.0, seed=first + 200)
    diverging = grid((3.0,), (0.3,), (0.6,), scale=4.0, seed=first + 400)
    return Block(task=task, members=(*usual, *random, *diverging), hidden=64, steps=6000)


def _mnist() -> Block:
    first = _first("mnist")
    usual = grid((0.001, 0.003), (0.0, 0.1, 0.3, 1.0), (0.04, 0.2, 0.3), scale=8.0, seed=first)
    random = grid((0.001, 0.003), (1.0,), (0.2,), scale=8.0, noise=1.0, seed=first + 200)
    return Block(task="mnist", members=(*usual, *random), hidden=64, steps=4000, together=8)


def _mnist_large() -> Block:
    """Larger weights and fewer digits, so that fitting and generalizing lie apart."""
    first = _first("mnist-large")
    usual = grid((0.001, 0.003), (0.0, 0.3, 1.0, 3.0), (0.06, 0.1, 0.14), scale=16.0, seed=first)
    few = grid((0.003,), (0.3, 1.0), (0.02,), scale=16.0, seed=first + 100)
    random = grid((0.003,), (1.0,), (0.1,), scale=16.0, noise=1.0, seed=first + 200)
    return Block(task="mnist", members=(*usual, *few, *random), hidden=64, steps=4000, together=8)


def _permutations_of_five() -> Block:
    """In mini-batches: all of its 8,600 to 11,500 training pairs at every step would take twenty times as long."""
    first = _first("s5")
    usual = grid((0.01, 0.02), (0.0, 0.1, 0.2, 0.5), (0.6, 0.7, 0.8), seed=first)
    few = grid((0.01, 0.02), (0.2, 0.5), (0.25, 0.4), seed=first + 100)
    random = grid((0.01, 0.02), (0.2,), (0.25,), noise=1.0, seed=first + 200)
    partly = grid((0.01,), (0.2, 0.5), (0.7,), noise=0.3, seed=first + 300)
    diverging = grid((3.0,), (0.5,), (0.6,), seed=first + 400)
    members = (*usual, *few, *random, *partly, *diverging)
    return Block(task="s5", members=members, hidden=128, steps=6000, batch=512, together=8)


WIDTHS = {"deep": 64, "attention": 32, "perceptron": 96}
"""Of the nets of the second bank: three hidden layers, transformers; and one hidden layer on the text task."""


def _other_net(name: str) -> Block:
    """The second bank: more weight decay and fewer steps. Seeds of each part are 100 apart."""
    first, (net, _, task) = _first(name), name.partition("-")
    settings = _SETTINGS[net]
    setting = settings.get(task) or settings.get(task.partition("-")[0]) or settings["algebra"]
    scale = setting.scale
    usual = grid(setting.rates, setting.decays, setting.fractions, scale=scale, seed=first)
    few = grid(setting.rates, setting.decays[:2], (setting.few,), scale=scale, seed=first + 100)
    plain = grid(setting.rates, (0.0,), setting.fractions[:1], scale=scale, seed=first + 200)
    share = setting.random or setting.fractions[0]
    random = grid(setting.rates, setting.decays[:2], (share,), scale=scale, noise=1.0, seed=first + 300)
    return Block(
        task=task,
        members=(*usual, *few, *plain, *random),
        hidden=setting.hidden or WIDTHS[net],
        steps=setting.steps,
        net=net,
        batch=setting.batch,
    )


@dataclass(frozen=True)
class _Setting:
    """Of the runs of one kind of net on one kind of task; chosen by pilots so that some grok and others do not."""

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    fractions: tuple[float, ...]
    few: float
    """Of the samples, too small a share to generalize from."""
    steps: int
    scale: float = 1.0
    batch: int | None = None
    hidden: int | None = None
    """Units, where they are not those of the kind of net."""
    random: float | None = None
    """Share of the samples for random labels, where the smallest share is more than a net can remember."""


_SETTINGS = {
    "deep": {
        "algebra": _Setting((0.005, 0.01), (1.0, 1.5, 2.5), (0.8, 0.85, 0.9), 0.4, 2000),
        "latin": _Setting((0.002, 0.004), (0.1, 0.3, 1.0), (0.35, 0.45, 0.6), 0.2, 1000, scale=5.0),
        "parity": _Setting((0.001, 0.003), (0.3, 1.0), (0.2, 0.3, 0.4), 0.1, 1600, scale=4.0),
        "s4": _Setting((0.005, 0.01), (1.0, 2.0), (0.85, 0.9), 0.5, 2000),
        "s5": _Setting((0.005,), (0.25, 0.35), (0.55, 0.62), 0.2, 8000, batch=512, hidden=112, random=0.2),
    },
    "attention": {
        "algebra": _Setting((0.004, 0.007), (0.7, 1.0, 1.3), (0.7, 0.75, 0.8), 0.4, 1600),
        # Where the order of the two counts, few runs generalize from these shares: 4 of 36 mod 23. So more is shown.
        "sub-19": _Setting((0.004, 0.007), (0.7, 1.0, 1.3), (0.8, 0.85, 0.9), 0.4, 2000),
        "div-19": _Setting((0.004, 0.007), (0.7, 1.0, 1.3), (0.8, 0.85, 0.9), 0.4, 2000),
        "latin": _Setting((0.002, 0.004), (0.1, 0.3, 1.0), (0.3, 0.35, 0.45), 0.2, 1200, scale=2.0),
        "parity": _Setting((0.001, 0.002), (0.3, 1.0, 2.0), (0.1, 0.13, 0.16), 0.07, 1200, scale=5.0),
    },
    "perceptron": {
        "latin": _Setting((0.002, 0.004), (0.1, 0.3, 1.0), (0.3, 0.35, 0.45), 0.2, 1500, scale=4.0),
    },
}

FIRST_BANK = ("add-23", "mul-23", "s4", "parity-15", "mnist", "sub-23", "div-23", "add-29", "s5", "mnist-large")
SECOND_BANK = (
    *(f"deep-{task}" for task in ("add-23", "sub-23", "mul-23", "div-23", "latin", "parity-15", "s4", "s5")),
    *(f"attention-{task}" for task in ("add-23", "sub-23", "mul-23", "div-23", "latin", "parity-10")),
    "perceptron-latin",
    "attention-add-19",
    "attention-mul-19",
    "attention-sub-19",
    "attention-div-19",
)
"""The other nets."""
BLOCKS = (*FIRST_BANK, *SECOND_BANK)
"""In the order in which they are trained; new ones come at the end, since seeds follow from the place."""
