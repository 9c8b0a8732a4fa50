"""Draw sampled learning coefficients over the exact ones: ``python docs/images/learning_coefficient.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from surgecollapse.analysis.local_learning_coefficient import reduced_rank_regression, sample_learning_coefficient

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GAMMA, COPIES = 10.0, 500
SAMPLED = (100, 1_000, 10_000)
OVER = np.logspace(2, 12, 41)
Case = tuple[float, Callable[[float], float], Callable[[Mapping[str, Tensor]], Tensor], dict[str, tuple[int, ...]]]


def regular(scale: float) -> float:
    """Four weights of curvature 1."""
    return 4 / 2 * scale / (scale + GAMMA)


def monomial(p: int, q: int) -> Callable[[float], float]:
    """E[t·|a|^p·|b|^q] under the localized density, on a grid of logarithms."""
    u = np.exp(np.linspace(-60, 2, 1200))
    prior = np.outer(*[u * np.exp(-GAMMA / 2 * u**2)] * 2)

    def exact(scale: float) -> float:
        cost = scale * np.outer(u**p, u**q)
        density = prior * np.exp(-cost)
        return float((cost * density).sum() / density.sum())

    return exact


def reduced_rank(m: int, n: int, h: int) -> Callable[[float], float]:
    """E[t·‖BA‖²/2]: B integrated out, A by the eigenvalues of AAᵀ, of which there are two."""
    few, many = min(m, h), max(m, h)
    lam = np.exp(np.linspace(-45, np.log(80 / GAMMA), 600))

    def exact(scale: float) -> float:
        weight = lam ** ((many - few + 1) / 2) * np.exp(-GAMMA * lam / 2) * (GAMMA + scale * lam) ** (-n / 2)
        cost = n / 2 * scale * lam / (GAMMA + scale * lam)
        both = np.outer(weight, weight) * np.abs(lam[:, None] - lam)
        return float((both * (cost[:, None] + cost)).sum() / both.sum())

    return exact


def cases() -> dict[str, Case]:
    """Limit, exact value at a scale t = n/ln n, loss of many copies at once, and the shapes of their weights."""
    rank, _ = reduced_rank_regression(2, 2, 2)
    return {
        "four weights, w²/2": (2.0, regular, lambda w: w["w"].square().sum() / 2, {"w": (4,)}),
        "reduced rank, 2→2→2 of a truth 0": (
            rank, reduced_rank(2, 2, 2), lambda w: torch.bmm(w["b"], w["a"]).square().sum() / 2,
            {"a": (2, 2), "b": (2, 2)},
        ),
        "(w₁w₂)²": (0.5, monomial(2, 2), lambda w: (w["w"][:, 0] * w["w"][:, 1]).square().sum(), {"w": (2,)}),
        "w₁²w₂⁴": (0.25, monomial(2, 4), lambda w: (w["w"][:, 0] * w["w"][:, 1].square()).square().sum(), {"w": (2,)}),
    }  # fmt: skip


def main() -> None:
    """One line a model, exact; sampled points on it; where it tends to."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for i, (name, (limit, exact, loss, shapes)) in enumerate(cases().items()):
        color = f"C{i}"
        axis.plot(OVER, [exact(n / math.log(n)) for n in OVER], color=color, label=f"{name}: {limit:g}")
        axis.axhline(limit, color=color, linewidth=0.8, linestyle=":")
        for n in SAMPLED:
            weights = {key: torch.zeros(COPIES, *shape, dtype=torch.float64) for key, shape in shapes.items()}
            step = 0.1 / (n / math.log(n))
            found = sample_learning_coefficient(
                lambda w, _, loss=loss: loss(w), weights, n, 0.0,
                step_size=step, localization=GAMMA, chains=1, draws=2000, burn_in=int(4 / (step * GAMMA)),
            )  # fmt: skip
            value = (2 * found.at_half_step - found.value) / COPIES
            axis.plot([n], [value], "o", color=color, markersize=5)
            print(f"{name}, n = {n:,}: sampled {value:.3f}, exact {exact(n / math.log(n)):.3f}, limit {limit:g}")
    axis.set(xscale="log", xlabel="samples n", ylabel="nβ E(L − L*)", ylim=(0, 2.15))
    axis.legend(fontsize=8, title="model: its limit", title_fontsize=8, loc="center right")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("learning-coefficient.png"), dpi=90)


if __name__ == "__main__":
    main()
