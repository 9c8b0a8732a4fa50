"""The systems that docs/explanation/theory.md speaks of, simulated in float64: its tests and its figures run these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from surgecollapse.functional import soft_threshold

Gradient = Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 values from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- alternating phases ---------------------------------------------------------------------------------------------


class SparseRegression(NamedTuple):
    """y = A·x* + e with unit columns and few nonzero entries in x*."""

    design: Tensor
    target: Tensor
    truth: Tensor
    noise: Tensor


def sparse_regression(rows: int = 200, columns: int = 400, nonzero: int = 8, noise: float = 0.01) -> SparseRegression:
    """Gaussian design with unit columns; entries of x* are ±1, those of e have the given standard deviation."""
    design = normal(rows, columns, seed=0)
    design = design / design.norm(dim=0)
    truth = torch.zeros(columns, dtype=torch.float64)
    truth[torch.randperm(columns, generator=torch.Generator().manual_seed(1))[:nonzero]] = normal(
        nonzero, seed=2
    ).sign()
    error = noise * normal(rows, seed=3)
    return SparseRegression(design, design @ truth + error, truth, error)


def largest(x: Tensor, k: int) -> Tensor:
    """``x`` with all but its k largest magnitudes set to zero: a collapse."""
    kept = torch.zeros_like(x)
    index = x.abs().topk(k).indices
    kept[index] = x[index]
    return kept


def hard_thresholding(problem: SparseRegression, k: int, *, step: float = 0.5, iterations: int = 60) -> list[Tensor]:
    """Iterates of a dense gradient step followed by a collapse to k entries, from zero."""
    x = torch.zeros_like(problem.truth)
    iterates = [x]
    for _ in range(iterations):
        x = largest(x - step * problem.design.T @ (problem.design @ x - problem.target), k)
        iterates.append(x)
    return iterates


def contraction_bound(problem: SparseRegression, x: Tensor, following: Tensor, step: float) -> float:
    """2(‖I − s·A_UᵀA_U‖·‖x − x*‖ + s·‖A_Uᵀe‖) with U the supports of both iterates and of x*."""
    support = (x != 0) | (following != 0) | (problem.truth != 0)
    part = problem.design[:, support]
    gram = torch.eye(part.shape[1], dtype=torch.float64) - step * part.T @ part
    contraction = torch.linalg.matrix_norm(gram, 2) * (x - problem.truth).norm()
    return float(2 * (contraction + step * (part.T @ problem.noise).norm()))


class Cycles(NamedTuple):
    """What alternating phases did to the loss above its minimum."""

    before: list[float]  # at the end of each dense phase
    largest_jump: float  # of all collapses
    rho: float  # (1 − ηα)^τ


def alternating_cycles(tau: int, *, cycles: int = 60, kept: int = 10) -> Cycles:
    """τ gradient steps, then a collapse, again and again, on least squares with more weights than rows.

    The loss ½‖Ax − y‖²/rows is PL with α = its least nonzero curvature, and not strongly convex.
    """
    rows, columns = 20, 40
    design, target = normal(rows, columns, seed=0), normal(rows, seed=1)
    curvature = torch.linalg.eigvalsh(design @ design.T / rows)  # the nonzero ones
    step = 1 / float(curvature[-1])
    x, before, jumps = torch.zeros(columns, dtype=torch.float64), [], []

    def loss(x: Tensor) -> float:
        return float((design @ x - target).square().sum() / (2 * rows))  # its minimum is 0

    for _ in range(cycles):
        for _ in range(tau):
            x = x - step * design.T @ (design @ x - target) / rows
        before.append(loss(x))
        x = largest(x, kept)
        jumps.append(loss(x) - before[-1])
    return Cycles(before, max(jumps), (1 - step * float(curvature[0])) ** tau)


# --- noise and temperature ------------------------------------------------------------------------------------------


def kicked_variance(h: float, step: float, period: int, sigma: float, cycles: int = 2000) -> tuple[float, float, float]:
    """Variance of a weight on ½hw² after a kick, before the next, and its mean over a cycle, by plain iteration."""
    variance, shrink = 0.0, (1 - step * h) ** 2
    within = [variance]
    for _ in range(cycles):
        within = [within[-1] * shrink + sigma**2]
        for _ in range(period - 1):
            within.append(within[-1] * shrink)
    return within[0], within[-1] * shrink, sum(within) / period


def ornstein_uhlenbeck(h: float, temperature: float, mean: float, variance: float, time: float) -> tuple[float, float]:
    """Mean and variance at ``time`` under dx = −hx dt + √(2T) dW."""
    decay = math.exp(-h * time)
    return mean * decay, temperature / h + (variance - temperature / h) * decay**2


def free_energy(h: float, temperature: float, mean: float, variance: float) -> float:
    """E[½hx²] − T·H for a Gaussian x, less that of equilibrium: T·KL(ρ‖π)."""
    ratio = variance * h / temperature
    return temperature * 0.5 * (ratio - 1 - math.log(ratio) + h * mean**2 / temperature)


def fisher_information(h: float, temperature: float, mean: float, variance: float) -> float:
    """I(ρ‖π) = E[(d/dx ln(ρ/π))²] of a Gaussian ρ against N(0, T/h)."""
    return (h * mean / temperature) ** 2 + variance * (h / temperature - 1 / variance) ** 2


# --- information ----------------------------------------------------------------------------------------------------


class WeightInformation(NamedTuple):
    """Mutual information with one fair bit of the data, in nats."""

    trained: float
    collapsed: float
    surged: float


def bit_information(mean: float, cut: float, surge: float, points: int = 200_001) -> WeightInformation:
    """A weight N(±mean, 1), the sign a bit S, collapsed below ``cut`` and refilled with N(0, surge²), by quadrature.

    Collapsed: W·1[|W| > cut]; surged: the zeros replaced by noise that knows nothing of S.
    """
    reach = mean + 12 + 12 * surge
    w = torch.linspace(-reach, reach, points, dtype=torch.float64)
    spacing = float(w[1] - w[0])

    def density(x: Tensor, center: float, scale: float) -> Tensor:
        return torch.exp(-((x - center) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))

    def information(plus: Tensor, minus: Tensor) -> float:
        middle = (plus + minus) / 2
        parts = (torch.special.xlogy(p, p / middle.clamp(min=1e-300)) for p in (plus, minus))
        return float(sum(part.sum() for part in parts)) / 2

    plus, minus = (density(w, center, 1.0) * spacing for center in (mean, -mean))
    open_ = (w.abs() > cut).double()
    closed = [float((p * (1 - open_)).sum()) for p in (plus, minus)]
    atom = [
        torch.cat([p * open_, torch.tensor([c], dtype=torch.float64)])
        for p, c in zip((plus, minus), closed, strict=True)
    ]
    refill = density(w, 0.0, surge) * spacing
    mixed = [p * open_ + c * refill for p, c in zip((plus, minus), closed, strict=True)]
    return WeightInformation(information(plus, minus), information(*atom), information(*mixed))


def log_binomial(n: int, k: int) -> float:
    """Return ln C(n, k), the most that a mask of k open weights among n can say, in nats."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def binary_entropy(q: float) -> float:
    """h_b(q) in nats."""
    return -sum(p * math.log(p) for p in (q, 1 - q) if p > 0)


# --- soft thresholds ------------------------------------------------------------------------------------------------


def straight_through(
    gradient: Gradient, start: Tensor, threshold: float | Callable[[Tensor], float], step: float, steps: int
) -> tuple[Tensor, list[Tensor]]:
    """Shadow weights after w ← w − s·g(soft(w; t)), and the soft weights of every step.

    Args:
        gradient: of the loss, at the soft weights.
        start: first shadow weights.
        threshold: t, or a function of the shadow that gives it.
        step: s.
        steps: how many.
    """
    w, seen = start, []
    for _ in range(steps):
        t = threshold(w) if callable(threshold) else threshold
        seen.append(soft_threshold(w, t))
        w = w - step * gradient(seen[-1])
    return w, seen


def between_ranks(k: int) -> Callable[[Tensor], float]:
    """The threshold that leaves k weights open: the greatest closed magnitude."""
    return lambda w: float(w.abs().sort(descending=True).values[k])


def rescaled_energy(density: float) -> tuple[float, float]:
    """Scale Σ|w|/Σ|v| and energy ratio Σ(cv)²/Σw² of the open weights of a Laplace distribution at soft threshold.

    With u = −ln(density), the threshold in units of the mean magnitude: c = 1 + u, and 2c²/(1 + c²).
    """
    c = 1 - math.log(density)
    return c, 2 * c**2 / (1 + c**2)
