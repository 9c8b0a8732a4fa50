"""The loss on the way between two nets: straight, and along a curve that is trained to be low."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.analysis.open_weights import open_weights, refuse_unusable
from surgecollapse.analysis.plain_values import PlainValues
from surgecollapse.functional import batch_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Weights = Mapping[str, Tensor]
Criterion = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class LossPath(PlainValues):
    """Loss along a path from t = 0 to t = 1."""

    times: tuple[float, ...]
    losses: tuple[float, ...]
    barrier: float
    """max_t L(t) − [(1−t)L(0) + tL(1)]: height above the line between the ends (Entezari et al., arXiv 2110.06296);
    never negative, as the ends count."""
    instability: float
    """max_t L(t) − (L(0) + L(1))/2: height above the mean of the ends (Frankle et al., arXiv 1912.05671)."""
    kind: str = "line"

    def plot(self) -> Figure:
        """Draw the loss along the path, and the line between its ends."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.times, self.losses, "o-", markersize=3, label=self.kind)
        axes.plot([0, 1], [self.losses[0], self.losses[-1]], ":", color="gray", label="between the ends")
        axes.set_title(f"barrier {self.barrier:.3g}", fontsize=10)
        axes.set_xlabel("t, from the first net to the second")
        axes.set_ylabel("loss")
        axes.legend()
        return figure


def loss_path(times: Sequence[float], losses: Sequence[float], kind: str = "line") -> LossPath:
    """Barrier and instability of losses along a path; times from 0 to 1.

    >>> loss_path([0.0, 0.5, 1.0], [1.0, 4.0, 2.0]).barrier
    2.5
    """
    above = [loss - (1 - t) * losses[0] - t * losses[-1] for t, loss in zip(times, losses, strict=True)]
    highest = max(losses) - (losses[0] + losses[-1]) / 2
    return LossPath(tuple(times), tuple(losses), max(above), highest, kind)


def bezier(points: Sequence[Weights], t: float) -> dict[str, Tensor]:
    """A point of the quadratic Bezier curve, (1−t)²p₀ + 2t(1−t)p₁ + t²p₂ (Garipov et al., arXiv 1802.10026)."""
    a, b, c = points
    return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * b[name] + t**2 * c[name] for name in a}


def polygon(points: Sequence[Weights], t: float) -> dict[str, Tensor]:
    """A point of the chain of straight pieces through the points, all equally long in t (Garipov et al., eq. 4).

    >>> polygon([{"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}, {"w": torch.tensor(2.0)}], 0.75)["w"]
    tensor(3.)
    """
    pieces = len(points) - 1
    first = min(int(t * pieces), pieces - 1)
    share = t * pieces - first
    a, b = points[first], points[first + 1]
    return {name: (1 - share) * a[name] + share * b[name] for name in a}


CURVES: dict[str, Callable[[Sequence[Weights], float], dict[str, Tensor]]] = {"bezier": bezier, "polygon": polygon}


def linear_path(
    first: nn.Module, second: nn.Module, criterion: Criterion, inputs: Tensor, targets: Tensor, *, points: int = 25
) -> LossPath:
    """Loss along the straight line between two nets of one architecture.

    Where there is batch norm, its statistics are those of ``inputs`` at every point, the ends too. Interpolated ones
    belong to no net on the way (Jordan et al., arXiv 2211.08403).

    Args:
        first: net at t = 0; neither is changed.
        second: net at t = 1.
        criterion: mean loss of output and targets.
        inputs: a batch, as the nets are called.
        targets: its labels.
        points: evenly spaced, at least 2.

    Raises:
        ValueError: if the nets do not have the same parameters, or for fewer than 2 points.
    """
    ends = _ends(first, second)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    losses = [_loss_at(first, polygon(ends, t), criterion, inputs, targets) for t in times]
    return loss_path(times, losses)


def curved_path(
    first: nn.Module,
    second: nn.Module,
    criterion: Criterion,
    inputs: Tensor,
    targets: Tensor,
    *,
    kind: str = "bezier",
    steps: int = 300,
    lr: float = 0.01,
    batch: int = 128,
    points: int = 25,
    seed: int = 0,
    masks: tuple[Weights, Weights] | None = None,
) -> LossPath:
    """Train the middle of a curve so that the mean loss along it is low (Garipov et al., arXiv 1802.10026, eq. 2).

    Each step draws t evenly and a batch, and lowers the loss at that point by Adam; the ends stay. It starts from the
    straight line. The paper uses SGD and many epochs; a failure to find a path is not a proof that there is none.

    Args:
        first: net at t = 0; neither is changed.
        second: net at t = 1.
        criterion: mean loss of output and targets.
        inputs: samples to train the curve on and to measure it on.
        targets: their labels.
        kind: ``bezier`` or ``polygon`` (one bend).
        steps: optimizer steps.
        lr: of Adam.
        batch: samples of a step.
        points: where the loss is measured, evenly spaced.
        seed: of times and batches.
        masks: of two sparse nets, as ``controller.masks``: the middle has no weight that both nets hold at zero.

    Raises:
        ValueError: for an unknown kind, nets that do not have the same parameters, or masks that do not fit them.
    """
    if kind not in CURVES:
        raise ValueError(f"unknown curve {kind!r}: expected one of {', '.join(CURVES)}")
    curve, (start, end) = CURVES[kind], _ends(first, second)
    middle = {name: ((start[name] + end[name]) / 2).requires_grad_() for name in start}
    kept = _open_in_either(first, second, masks)
    optimizer = torch.optim.Adam(middle.values(), lr=lr)
    generator, model = torch.Generator().manual_seed(seed), deepcopy(first).train()
    _no_dropout(model)
    for _ in range(steps):
        t = float(torch.rand((), generator=generator, dtype=torch.float64))
        rows = torch.randperm(len(inputs), generator=generator)[:batch].to(inputs.device)
        with torch.enable_grad():
            loss = batch_loss(model, criterion, inputs[rows], targets[rows])(curve([start, middle, end], t))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        for name, mask in kept.items():
            gradient = middle[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        optimizer.step()
    chain = [start, {name: w.detach() for name, w in middle.items()}, end]
    times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    losses = [_loss_at(first, curve(chain, t), criterion, inputs, targets) for t in times]
    return loss_path(times, losses, kind)


def _ends(first: nn.Module, second: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    a, b = ({name: p.detach() for name, p in net.named_parameters()} for net in (first, second))
    if {name: w.shape for name, w in a.items()} != {name: w.shape for name, w in b.items()}:
        raise ValueError("expected two nets with the same parameters: names and shapes differ")
    refuse_unusable(a)
    refuse_unusable(b)
    return a, b


def _open_in_either(first: nn.Module, second: nn.Module, masks: tuple[Weights, Weights] | None) -> dict[str, Tensor]:
    """Masks of the weights that are open in one of two nets at least; none where one of them is dense."""
    one, other = (open_weights(net, mask)[1] for net, mask in zip((first, second), masks or ({}, {}), strict=True))
    return {name: torch.maximum(one[name], other[name]) for name in one.keys() & other.keys()}


def _no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()


@torch.no_grad()
def _loss_at(model: nn.Module, weights: Weights, criterion: Criterion, inputs: Tensor, targets: Tensor) -> float:
    """Loss of a copy with these weights, batch norm by the statistics of the inputs."""
    net = deepcopy(model).eval()
    for name, parameter in net.named_parameters():
        parameter.copy_(weights[name])
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches: of the one there is
        norm.train()
    if norms:
        net(inputs)
    for norm in norms:
        norm.eval()
    return float(criterion(net(inputs), targets))
