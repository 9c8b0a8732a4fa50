"""One run of the bank: its settings, and the rows that it trains and validates on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surgecollapse.lab.data.synthetic import modular

_MOST_VALIDATION = 400
_STREAMS = 4
"""Generators of one member: split, labels, weights, and the batches of its stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Settings of one run; all that differs between the members of a stack."""

    seed: int
    lr: float
    weight_decay: float
    """Decoupled, as in AdamW."""
    train_fraction: float
    """Of all samples of the task."""
    init_scale: float = 1.0
    """Factor on all initial weights."""
    label_noise: float = 0.0
    """Share of the training labels that are drawn at random; 1: nothing can be learned that generalizes."""


class Problem(NamedTuple):
    """All samples of a task."""

    inputs: Tensor
    """float32 (n, d)."""
    labels: Tensor
    """int64 (n,)."""
    classes: int
    generalize: float
    """Validation accuracy that counts as generalized."""


class Rows(NamedTuple):
    """What one member sees."""

    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor


def stream(seed: int, purpose: int) -> torch.Generator:
    """A generator for one purpose of one member, so that changing one draw leaves the others alone."""
    return torch.Generator().manual_seed(seed * _STREAMS + purpose)


def problem(task: str) -> Problem:
    """The samples of a task by name.

    ``add-23``, ``sub-23``, ``mul-23``, ``div-23``: modular arithmetic on two one-hots; ``s5``: the product of two
    permutations of five things, on two one-hots of 120; ``s4`` likewise of four; ``latin``: which ending a Latin verb
    takes (see :func:`_verbs`), on a one-hot of the verb and one of person and tense; ``parity-15``: parity of the
    first 3 of so many bits ±1, up to 1,000 different samples; ``mnist``: MNIST digits averaged to 14×14, which count as
    generalized from 85% on, since so few samples do not allow more (Liu et al., arXiv 2210.01117).

    Raises:
        ValueError: for a task that is not known.

    >>> problem("s4").inputs.shape, problem("add-5").labels[:6].tolist()
    (torch.Size([576, 48]), [0, 1, 2, 3, 4, 1])
    """
    name, _, number = task.partition("-")
    if name in ("add", "sub", "mul", "div"):
        data = modular(name, int(number), 0.5, "pairs", seed=0)
        x = torch.cat([data.x_train, data.x_validation, data.x_test])
        y = torch.cat([data.y_train, data.y_validation, data.y_test])
        order = x.argmax(1) * int(number) + x[:, int(number) :].argmax(1)
        return Problem(x[order.argsort()], y[order.argsort()], data.num_classes, 0.95)
    if name in ("s4", "s5"):
        return _group(int(name[1]))
    if name == "latin":
        return _verbs()
    if name == "parity":
        return _parity(int(number))
    if name == "mnist":
        return _digits()
    raise ValueError(f"unknown task {task!r}: expected add-P, sub-P, mul-P, div-P, s4, s5, latin, parity-BITS or mnist")


def _group(size: int) -> Problem:
    """All products of two permutations of so many things."""
    elements = list(permutations(range(size)))
    index = {element: i for i, element in enumerate(elements)}
    table = torch.tensor([[index[tuple(a[i] for i in b)] for b in elements] for a in elements])
    count = len(elements)
    left, right = torch.cartesian_prod(torch.arange(count), torch.arange(count)).unbind(1)
    x = torch.cat([F.one_hot(left, count), F.one_hot(right, count)], 1).float()
    return Problem(x, table.flatten(), count, 0.95)


VERBS = (
    "am laud port voc par nav pugn labor spect put serv habit",
    "mon hab tac tim doc vid mov ten deb iac sed noc",
    "reg duc mitt scrib leg dic pon viv cred lud trah cad",
    "aud ven dorm sent fin pun oboed nutr len mun vest sal",
)
"""Stems of the four conjugations, in this order."""
ENDINGS = (
    "o as at amus atis ant, abam abas abat abamus abatis abant, abo abis abit abimus abitis abunt",
    "eo es et emus etis ent, ebam ebas ebat ebamus ebatis ebant, ebo ebis ebit ebimus ebitis ebunt",
    "o is it imus itis unt, ebam ebas ebat ebamus ebatis ebant, am es et emus etis ent",
    "io is it imus itis iunt, iebam iebas iebat iebamus iebatis iebant, iam ies iet iemus ietis ient",
)
"""Of each conjugation, by person: present, imperfect, future."""


def _verbs() -> Problem:
    """All pairs of 48 verbs and 18 forms; the label is the ending, of which some stand in several conjugations.

    A net may remember every pair, or find out which verbs are conjugated alike.
    """
    stems = [(stem, i) for i, some in enumerate(VERBS) for stem in some.split()]
    endings = [some.replace(",", "").split() for some in ENDINGS]
    index = {ending: i for i, ending in enumerate(dict.fromkeys(chain.from_iterable(endings)))}
    table = torch.tensor([[index[ending] for ending in endings[i]] for _, i in stems])
    count, forms = table.shape
    verb, form = torch.cartesian_prod(torch.arange(count), torch.arange(forms)).unbind(1)
    # As many places for the form as for the verb, as in the other tasks of pairs.
    x = torch.cat([F.one_hot(verb, count), F.one_hot(form, count)], 1).float()
    return Problem(x, table.flatten(), len(index), 0.95)


def _parity(count: int) -> Problem:
    """Samples that all differ, so that none is in two sets."""
    codes = torch.randperm(2**count, generator=torch.Generator().manual_seed(0))[:1000]
    bits = codes.unsqueeze(1).bitwise_right_shift(torch.arange(count)) & 1
    return Problem(2.0 * bits - 1.0, bits[:, :3].sum(1) % 2, 2, 0.95)


def _digits() -> Problem:
    from surgecollapse.lab.data.images import mnist5k

    data = mnist5k(0)
    x = torch.cat([data.x_train, data.x_validation, data.x_test]).view(-1, 1, 28, 28)
    y = torch.cat([data.y_train, data.y_validation, data.y_test])
    return Problem(F.avg_pool2d(x, 2).flatten(1), y, data.num_classes, 0.85)


def rows_of(task: Problem, member: Member) -> Rows:
    """Cut the samples for one member: training rows, and up to 400 of the others to validate on.

    >>> rows = rows_of(problem("add-5"), Member(seed=0, lr=0.1, weight_decay=0.0, train_fraction=0.6))
    >>> len(rows.x_train), len(rows.x_validation)
    (15, 10)
    """
    count = round(member.train_fraction * len(task.labels))
    order = torch.randperm(len(task.labels), generator=stream(member.seed, 0))
    train, validation = order[:count], order[count : count + _MOST_VALIDATION]
    draws = stream(member.seed, 1)
    random = torch.randint(task.classes, (count,), generator=draws)
    replaced = torch.rand(count, generator=draws) < member.label_noise
    y_train = torch.where(replaced, random, task.labels[train])
    return Rows(task.inputs[train], y_train, task.inputs[validation], task.labels[validation])
