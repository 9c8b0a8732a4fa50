"""Generated tasks of the literature: modular arithmetic, sparse parity, the noisy dummy set."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data, generator, in_three


def modular(
    operation: str, modulus: int, train_fraction: float, representation: Literal["tokens", "pairs"], seed: int
) -> Data:
    """All pairs of modular arithmetic; the classes are the residues.

    As tokens, a sample is ``x op y =`` with residues 0 … p−1, ``op`` = p and ``=`` = p+1 (Power et al. 2201.02177); as
    pairs, two one-hots of length p (Prieto et al. 2501.04697). For ``mul``, y runs from 1, as in Grokfast (2405.20233):
    y = 0 would only add samples whose answer is 0. For ``div``, x/y is the residue z with z·y = x. Here y runs from 1,
    and the modulus must be prime, so that every y has an inverse. ``quadratic`` is x² + xy + y²; ``mixed`` has all four
    operations of arithmetic, as tokens.

    >>> data = modular("sub", 5, 0.6, "tokens", seed=0)
    >>> x, op, y, equals = data.x_train[0].tolist()
    >>> data.y_train[0].item() == (x - y) % 5, (op, equals), len(data.x_train)
    (True, (5, 6), 15)
    """
    if operation == "mixed":
        return _mixed(modulus, train_fraction, representation, seed)
    x, y, answers = _table(operation, modulus)
    if representation == "tokens":
        inputs = torch.stack([x, torch.full_like(x, modulus), y, torch.full_like(x, modulus + 1)], dim=1)
    else:
        one_hot = torch.nn.functional.one_hot
        inputs = torch.cat([one_hot(x, modulus), one_hot(y, modulus)], dim=1).float()
    return _cut(
        inputs,
        answers,
        _halves(len(x), train_fraction),
        seed,
        name="modular",
        kind="tokens" if representation == "tokens" else "pairs",
        num_classes=modulus,
        vocabulary=modulus + 2 if representation == "tokens" else 0,
        description=f"{_FORMULAS[operation]} modulo {modulus}, all {len(x)} pairs, {train_fraction:.0%} for training",
    )


_FORMULAS = {"add": "x + y", "sub": "x − y", "mul": "x · y", "div": "x / y", "quadratic": "x² + xy + y²"}


def _table(operation: str, modulus: int) -> tuple[Tensor, Tensor, Tensor]:
    """All x, all y, and their answers."""
    first = 1 if operation in ("mul", "div") else 0
    x, y = torch.cartesian_prod(torch.arange(modulus), torch.arange(first, modulus)).unbind(1)
    results = {"add": x + y, "sub": x - y, "mul": x * y, "quadratic": x * x + x * y + y * y}
    if operation == "div":
        results["div"] = x * _inverses(modulus)[y]
    if operation not in results:
        raise ConfigError(f"unknown operation {operation!r}: expected one of {', '.join((*_FORMULAS, 'mixed'))}")
    return x, y, results[operation] % modulus


def _mixed(modulus: int, train_fraction: float, representation: str, seed: int) -> Data:
    """Addition, subtraction, multiplication and division in one set: operators are the tokens p … p+3, ``=`` is p+4."""
    if representation != "tokens":
        raise ConfigError("operation 'mixed' needs to see which operation it is: choose a model that reads tokens")
    parts = []
    for token, operation in enumerate(("add", "sub", "mul", "div"), modulus):
        x, y, answers = _table(operation, modulus)
        parts.append(torch.stack([x, torch.full_like(x, token), y, torch.full_like(x, modulus + 4), answers], dim=1))
    rows = torch.cat(parts)
    return _cut(
        rows[:, :4],
        rows[:, 4],
        _halves(len(rows), train_fraction),
        seed,
        name="modular",
        kind="tokens",
        num_classes=modulus,
        vocabulary=modulus + 5,
        description=f"x +, −, ·, / y modulo {modulus}, all {len(rows)} questions, {train_fraction:.0%} for training",
    )


def permutations(degree: int, train_fraction: float, seed: int) -> Data:
    """All products of two permutations of ``degree`` things; the classes are the n! permutations.

    A sample is ``a op b =`` with permutations 0 … n!−1 in lexicographic order, ``op`` = n! and ``=`` = n!+1. The
    product takes i to b(a(i)) (Power et al. 2201.02177, their S₅).

    >>> data = permutations(3, 0.5, seed=0)
    >>> len(data.x_train), data.num_classes, data.vocabulary
    (18, 6, 8)
    """
    if not 2 <= degree <= _MOST_DEGREE:
        raise ConfigError(f"degree must be from 2 to {_MOST_DEGREE}, got {degree}: there are (n!)² products")
    elements = torch.tensor(list(itertools.permutations(range(degree))))
    count = len(elements)
    a, b = torch.cartesian_prod(torch.arange(count), torch.arange(count)).unbind(1)
    products = elements[b].gather(1, elements[a])
    place = degree ** torch.arange(degree)
    codes, order = (elements @ place).sort()
    answers = order[torch.searchsorted(codes, products @ place)]
    return _cut(
        torch.stack([a, torch.full_like(a, count), b, torch.full_like(a, count + 1)], dim=1),
        answers,
        _halves(len(a), train_fraction),
        seed,
        name="permutations",
        kind="tokens",
        num_classes=count,
        vocabulary=count + 2,
        description=f"products of two permutations of {degree}, all {len(a)} pairs, {train_fraction:.0%} for training",
    )


_MOST_DEGREE = 6
"""Of permutations: 7 would have 25 million products."""


def _inverses(modulus: int) -> Tensor:
    """Multiplicative inverses modulo a prime, by residue; that of 0 is never asked for."""
    if any(modulus % divisor == 0 for divisor in range(2, math.isqrt(modulus) + 1)):
        raise ConfigError(f"operation 'div' needs a prime modulus, so that every residue can divide; got {modulus}")
    return torch.tensor([0, *(pow(y, -1, modulus) for y in range(1, modulus))])


def parity(relevant: int, irrelevant: int, samples: int, train_fraction: float, seed: int) -> Data:
    """Sparse parity: whether the sum of the first ``relevant`` of the bits is odd (Prieto et al. 2501.04697).

    >>> data = parity(3, 40, 2_000, 0.5, seed=0)
    >>> bool((data.x_train[:, :3].sum(1) % 2 == data.y_train).all()), tuple(data.x_train.shape)
    (True, (1000, 43))
    """
    bits = torch.randint(0, 2, (samples, relevant + irrelevant), generator=generator(seed, "bits"))
    return _cut(
        bits.float(),
        bits[:, :relevant].sum(1) % 2,
        _halves(samples, train_fraction),
        seed,
        name="parity",
        kind="vector",
        num_classes=2,
        description=f"parity of {relevant} of {relevant + irrelevant} bits, {samples} samples",
    )


def dummy(noise: float, samples: int, seed: int) -> Data:
    """A noisy 128→128 task: which of 128 random prototypes is this?

    The published experiments name a noisy dummy set of 10,000 samples with 128 inputs and 128 outputs, trained with
    cross-entropy. They do not say what is to be learned. Here x = μ_y + σ·ε with prototypes μ_k ~ N(0, I₁₂₈). So the
    best possible answer (the nearest prototype) is known, and a net can be told from a guess (1/128).

    >>> data = dummy(0.0, 1_000, seed=0)
    >>> data.num_classes, tuple(data.x_train.shape), len(data.x_test)
    (128, (600, 128), 200)
    """
    draws = generator(seed, "dummy")
    prototypes = torch.randn(128, 128, generator=draws)
    labels = torch.randint(0, 128, (samples,), generator=draws)
    inputs = prototypes[labels] + noise * torch.randn(samples, 128, generator=draws)
    return _cut(
        inputs,
        labels,
        (samples * 3 // 5, samples // 5),
        seed,
        name="dummy",
        kind="vector",
        num_classes=128,
        description=f"nearest of 128 prototypes in 128 dimensions, noise {noise:g}, {samples} samples",
    )


def _halves(samples: int, train_fraction: float) -> tuple[int, int]:
    """Sizes of training and validation set; the test set is as large as the validation set."""
    train = round(train_fraction * samples)
    validation = (samples - train) // 2
    if min(train, validation) < 1:
        raise ConfigError(f"train_fraction = {train_fraction:g} leaves a set of the {samples} samples empty")
    return train, validation


def _cut(inputs: Tensor, labels: Tensor, sizes: tuple[int, int], seed: int, **facts: Any) -> Data:
    """Shuffle, then cut into training and validation set of the given sizes and the rest for the test."""
    train, validation = sizes
    order = torch.randperm(len(labels), generator=generator(seed, "split"))
    parts = [order[:train], order[train : train + validation], order[train + validation :]]
    return in_three(parts, inputs, labels, source="generated", **facts)
