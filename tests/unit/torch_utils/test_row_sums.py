"""Sums in float64 over many tensors: exact, and the same on any number of threads."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.torch_utils import chunking
from surgecollapse.torch_utils.row_sums import ROW, grams, row_sums, squares

SIZES = (0, 1, 7, 1000, ROW - 1, ROW, ROW + 1, 5 * ROW + 17, 40 * ROW)


@pytest.fixture(params=["one thread", "shared", "one by one"])
def way(request, monkeypatch):
    """One thread, or two in one of the two ways."""
    before = torch.get_num_threads()

    def forced(kind, groups, entries, safe, quick, **_):
        if request.param == "shared":
            safe([item for group in groups for item in group])
        else:
            for group in groups:
                quick(list(group))

    monkeypatch.setattr(chunking, "fastest", forced)
    torch.set_num_threads(1 if request.param == "one thread" else 2)
    yield request.param
    torch.set_num_threads(before)


def test_sums_of_whole_numbers_are_exact(way):
    ones = [torch.full((size,), 3.0) for size in SIZES]
    assert squares(ones).tolist() == [9.0 * size for size in SIZES]
    pairs = [(tensor, 2 * tensor) for tensor in ones]
    assert grams(pairs).tolist() == [[18.0 * size, 9.0 * size, 36.0 * size] for size in SIZES]


def test_products_neither_overflow_nor_vanish(way):
    assert squares([torch.tensor([3e30, 4e30])]).sqrt().item() == pytest.approx(5e30, rel=1e-6)
    assert squares([torch.tensor([3e-30, 4e-30])]).sqrt().item() == pytest.approx(5e-30, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_sums_do_not_depend_on_threads(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple(torch.randn(size, generator=generator, dtype=torch.float32).to(dtype) for _ in range(2)) for size in SIZES
    ]
    wide = torch.randn(400, 700, generator=generator).to(dtype)
    pairs += [(wide.T, wide.T), (wide[:, ::2], wide[:, 1::2]), (wide.T, wide.T.contiguous())]
    found, before = [], torch.get_num_threads()

    def safe_way(kind, groups, entries, safe, quick, **_):
        safe([item for group in groups for item in group])

    def quick_way(kind, groups, entries, safe, quick, **_):
        for group in groups:
            quick(list(group))

    try:
        for threads, chosen in ((1, quick_way), (2, safe_way), (2, quick_way), (3, quick_way)):
            monkeypatch.setattr(chunking, "fastest", chosen)
            torch.set_num_threads(threads)
            found.append(grams(pairs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])
    wanted = [[(a.double() * b.double()).sum(), a.double().square().sum(), b.double().square().sum()] for a, b in pairs]
    # n products of float64 numbers, in any order: nγ times the sum of their magnitudes
    bound = [torch.outer(a.double().norm().reshape(1), b.double().norm().reshape(1)).item() for a, b in pairs]
    for row, oracle, size, (a, b) in zip(found[0], wanted, bound, pairs, strict=True):
        most = max(size, a.double().square().sum().item(), b.double().square().sum().item())
        assert (row - torch.stack(oracle)).abs().max().item() <= 2 * a.numel() * 2**-53 * most


def test_nothing_that_is_given_changes(way):
    tensors = [torch.randn(2 * ROW + 3), torch.randn(5, dtype=torch.float64)]
    before = [tensor.clone() for tensor in tensors]
    row_sums("doubles", [(tensor,) for tensor in tensors], lambda _, x, __: [x.mul_(2).sum(1)], sums=1)
    assert all(map(torch.equal, tensors, before))


def test_values_that_are_not_finite_stay_in_their_own_sums(way):
    tensors = [torch.ones(2 * ROW), torch.ones(2 * ROW), torch.ones(3)]
    tensors[1][ROW + 5] = float("nan")
    found = squares(tensors).tolist()
    assert found[0] == 2 * ROW
    assert found[1] != found[1]
    assert found[2] == 3
