"""Permutations of hidden units that bring one net close to another."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgecollapse.analysis.colors import plain
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.errors import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Alignment(PlainValues):
    """Which unit of the second net stands where in the first."""

    permutations: Mapping[str, tuple[int, ...]]
    """Hidden layer → for each unit of the first net its counterpart in the second."""
    layers: tuple[str, ...]
    before: tuple[float, ...]
    """Cosine of the two nets' weights, layer by layer, as they were."""
    after: tuple[float, ...]
    """The same with the second net's units permuted."""
    sweeps: int
    """Rounds until nothing changed."""

    def plot(self) -> Figure:
        """Draw the cosines before and after, layer by layer."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(max(4.6, 1.0 + 0.9 * len(self.layers)), 3.6), layout="constrained")
        axes = figure.subplots()
        places = range(len(self.layers))
        axes.bar([p - 0.2 for p in places], self.before, 0.4, label="as trained")
        axes.bar([p + 0.2 for p in places], self.after, 0.4, label="aligned")
        axes.set_xticks(list(places), [plain(name) for name in self.layers])
        axes.set_xlabel("layer")
        axes.set_ylabel("cosine of the weights")
        axes.legend()
        return figure


def align(first: nn.Module, second: nn.Module, inputs: Tensor, *, most: int = 100, seed: int = 0) -> Alignment:
    """Match hidden units by their weights (Ainsworth, Hayase and Srinivasa, arXiv 2209.04836, algorithm 1).

    Coordinate ascent of Σ_l ⟨W_l, P_l W'_l P_{l−1}ᵀ⟩ over the permutations, each step an assignment problem that SciPy
    solves. Biases and norms count with the layer that they follow. A local optimum, which may depend on the order.

    Only for chains of linear and convolution layers, each of which takes in what the one before gives. Elementwise
    activations, pooling, flattening and batch norm may lie between them. Layers must be declared in the order in which
    they run.

    Args:
        first: the net to come close to.
        second: its units are permuted; neither net is changed.
        inputs: a batch, on which it is checked that the permuted net computes what it did before.
        most: sweeps at most.
        seed: of the order of layers in a sweep.

    Raises:
        ValueError: if the nets differ, or are no chain.
        ModuleNotFoundError: without SciPy (extra ``analysis``).
    """
    with needs("alignment", "analysis"):
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    chain, other = _chain(first), _chain(second)
    a, b = ({n: p.detach().double().cpu() for n, p in net.named_parameters()} for net in (first, second))
    if {n: w.shape for n, w in a.items()} != {n: w.shape for n, w in b.items()} or list(chain) != list(other):
        raise ValueError("expected two nets of one architecture: their parameters differ")
    names = list(chain)
    found = {name: torch.arange(len(a[f"{name}.weight"])) for name in names[:-1]}
    generator = torch.Generator().manual_seed(seed)
    sweeps, changed = 0, True
    while changed and sweeps < most:
        sweeps, changed = sweeps + 1, False
        for index in torch.randperm(len(names) - 1, generator=generator).tolist():
            gain = _gain(a, b, names, chain, found, index)
            rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
            better = torch.from_numpy(columns[rows.argsort()])
            size = len(better)
            now = gain[torch.arange(size), found[names[index]]].sum()
            if gain[torch.arange(size), better].sum() > now + 1e-9 * gain.abs().max():
                found[names[index]], changed = better, True
    permutations = {name: tuple(p.tolist()) for name, p in found.items()}
    moved = permute(second, permutations)
    _must_agree(second, moved, inputs)
    c = {n: p.detach().double().cpu() for n, p in moved.named_parameters()}
    return Alignment(permutations, tuple(names), _cosines(a, b, names), _cosines(a, c, names), sweeps)


@torch.no_grad()
def permute(model: nn.Module, permutations: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of a chain with its hidden units in another order; it computes the same.

    Args:
        model: not changed.
        permutations: hidden layer → old place of each unit in the new order; layers that are left out stay.

    Raises:
        ValueError: if the net is no chain.
    """
    chain, copied = _chain(model), deepcopy(model)
    state = copied.state_dict()
    names = list(chain)
    for index, name in enumerate(names[:-1]):
        if name not in permutations:
            continue
        order = torch.tensor(permutations[name])
        for key in [key for owner in (name, *chain[name]) for key in _entries(state, owner, len(order))]:
            state[key].copy_(state[key][order.to(state[key].device)])
        following = state[f"{names[index + 1]}.weight"]
        following.copy_(_by_unit(following, len(order))[:, order.to(following.device)].reshape(following.shape))
    return copied


def _entries(state: Mapping[str, Tensor], owner: str, units: int) -> list[str]:
    keys = [f"{owner}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return [key for key in keys if key in state and state[key].ndim and len(state[key]) == units]


def _by_unit(weight: Tensor, units: int) -> Tensor:
    """``(rows, units, rest)``: the columns that take each unit in; several where channels were flattened."""
    return weight.reshape(len(weight), units, -1)


def _chain(model: nn.Module) -> dict[str, list[str]]:
    """Layers with a weight matrix, each with the norms that follow it."""
    chain: dict[str, list[str]] = {}
    last: nn.Module | None = None
    for name, module in model.named_modules():
        if isinstance(module, _WEIGHTED):
            if getattr(module, "groups", 1) != 1 or (last is not None and module.weight[0].numel() % len(last.weight)):  # type: ignore[arg-type]
                raise ValueError(f"expected a chain of layers: {name} does not take in what the layer before it gives")
            chain[name], last = [], module
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and chain:
            chain[list(chain)[-1]].append(name)
        elif next(module.children(), None) is None and next(module.parameters(), None) is not None:
            raise ValueError(
                f"expected linear, convolution and batch-norm layers, got {type(module).__name__} ({name})"
            )
    if len(chain) < 2:
        raise ValueError(f"expected at least two layers with weights, found {len(chain)}")
    return chain


def _gain(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    names: list[str],
    chain: Mapping[str, list[str]],
    found: Mapping[str, Tensor],
    index: int,
) -> Tensor:
    """``gain[i, j]``: similarity won by putting unit j of the second net where unit i of the first is."""
    name, following = names[index], names[index + 1]
    units = len(a[f"{name}.weight"])
    wb = b[f"{name}.weight"]
    if index:
        before = found[names[index - 1]]
        wb = _by_unit(wb, len(before))[:, before].reshape(wb.shape)
    gain = a[f"{name}.weight"].flatten(1) @ wb.flatten(1).T
    for key in [f"{name}.bias", *(key for norm in chain[name] for key in _entries(a, norm, units))]:
        if key in a:
            gain = gain + a[key][:, None] * b[key]
    va, vb = (_by_unit(w[f"{following}.weight"], units) for w in (a, b))
    if following in found:
        vb = vb[found[following]]
    return gain + va.transpose(0, 1).flatten(1) @ vb.transpose(0, 1).flatten(1).T


@torch.no_grad()
def _must_agree(model: nn.Module, moved: nn.Module, inputs: Tensor) -> None:
    one, two = (deepcopy(net).eval()(inputs) for net in (model, moved))
    if not torch.allclose(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max())):
        raise ValueError("the permuted net computes something else: the net is no plain chain of layers")


def _cosines(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: list[str]) -> tuple[float, ...]:
    pairs = [(a[f"{name}.weight"].flatten(), b[f"{name}.weight"].flatten()) for name in names]
    return tuple(float(torch.nn.functional.cosine_similarity(x, y, dim=0)) for x, y in pairs)
