"""Draw the figures of docs/explanation/theory.md: ``python scripts/theory_figures.py``, half a minute."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from theory_simulations import (
    alternating_cycles,
    between_ranks,
    binary_entropy,
    bit_information,
    contraction_bound,
    free_energy,
    hard_thresholding,
    kicked_variance,
    normal,
    ornstein_uhlenbeck,
    rescaled_energy,
    sparse_regression,
    straight_through,
)

from surgecollapse.functional import (
    energy_lost_gaussian,
    energy_lost_laplace,
    energy_lost_uniform,
    hessian_effective_dimension,
)

matplotlib.use("Agg")
import itertools

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DRAWINGS: list[Callable[[Axes, Axes], None]] = []


def drawing(draw: Callable[[Axes, Axes], None]) -> Callable[[Axes, Axes], None]:
    """A figure of two panels, saved under the function's name."""
    DRAWINGS.append(draw)
    return draw


@drawing
def phases(left: Axes, right: Axes) -> None:
    """Errors of hard thresholding; loss floor over the length of a cycle."""
    for noise, color in ((0.0, "tab:blue"), (0.01, "tab:orange"), (0.1, "tab:red")):
        problem = sparse_regression(noise=noise)
        iterates = hard_thresholding(problem, 8)
        errors = [float((x - problem.truth).norm()) for x in iterates]
        left.semilogy(errors, color=color, label=f"noise {noise:g}")
        bounds = [contraction_bound(problem, *pair, 0.5) for pair in itertools.pairwise(iterates)]
        left.semilogy(range(1, 61), bounds, color=color, linestyle=":", linewidth=0.8)
    left.set(title="collapse to 8 of 400 weights", xlabel="step", ylabel="‖x − x*‖ (dotted: bound)")
    lengths = [1, 2, 4, 8, 16, 32, 64, 128]
    found = [alternating_cycles(tau) for tau in lengths]
    floors = [max(f.before[-20:]) for f in found]
    right.loglog(lengths, floors, "o-", color="tab:blue", label="measured")
    bounds = [f.rho * f.largest_jump / (1 - f.rho) for f in found]
    right.loglog(lengths, bounds, color="tab:orange", label="ρΔ/(1 − ρ)")
    right.set(title="loss at the end of a dense phase", xlabel="steps of a cycle, τ")


@drawing
def energy(left: Axes, right: Axes) -> None:
    """Energy a collapse takes; mean energy of kicked directions."""
    shares = np.linspace(0, 1, 200)
    for name, law in (
        ("uniform", energy_lost_uniform),
        ("Gaussian", energy_lost_gaussian),
        ("Laplace", energy_lost_laplace),
    ):
        left.plot(shares, [law(float(q)) for q in shares], label=name)
    left.set(title="energy that a collapse takes", xlabel="pruned share q", ylabel="share of ‖W‖²")
    step, sigma = 0.05, 0.3
    for period, color in ((1, "tab:blue"), (10, "tab:orange"), (100, "tab:red")):
        temperature = sigma**2 / (2 * step * period)
        curvatures = np.logspace(-2, 1, 25)
        after, before, mean = zip(
            *(kicked_variance(float(h), step, period, sigma, 20_000 // period) for h in curvatures), strict=True
        )
        right.semilogx(
            curvatures, curvatures * mean / temperature, color=color, label=f"mean of the cycle, τ = {period}"
        )
        for edge in (after, before):
            right.semilogx(curvatures, curvatures * edge / temperature, color=color, linestyle=":", linewidth=0.8)
    right.set(title="h·⟨w²⟩/T (dotted: before, after a kick)", xlabel="curvature h", ylim=(0, 3))


@drawing
def curvature(left: Axes, right: Axes) -> None:
    """Interlacing; learning coefficient over localization."""
    n = 24
    factor = normal(n, n, seed=0)
    hessian = factor @ factor.T / n
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    for closed in range(n):
        kept = order[closed:]
        values = torch.linalg.eigvalsh(hessian[kept][:, kept])
        left.plot([closed] * len(values), values, ".", color="tab:blue", markersize=3)
        left.plot(closed, values[-1], "o", color="tab:orange", markersize=3)
    left.set(title="curvatures of the open weights", xlabel=f"closed weights of {n}", ylabel="eigenvalues")
    scales = np.logspace(-3, 3, 60)
    for closed in (0, 12, 20):
        values = torch.linalg.eigvalsh(hessian[order[closed:]][:, order[closed:]])
        dimensions = [float(hessian_effective_dimension(values, float(scale))) / 2 for scale in scales]
        right.semilogx(scales, dimensions, label=f"{n - closed} open weights")
    right.set(title="learning coefficient ½N_eff", xlabel="γ/nβ")


@drawing
def information(left: Axes, right: Axes) -> None:
    """Information about a bit after collapse and surge; the most that a mask says."""
    cuts = np.linspace(0.02, 3, 40)
    found = [bit_information(1.0, float(cut), 0.5, 20_001) for cut in cuts]
    for name, color in (("trained", "black"), ("collapsed", "tab:blue"), ("surged", "tab:orange")):
        left.plot(cuts, [getattr(f, name) for f in found], color=color, label=name)
    left.set(title="I(weight; bit), weight N(±1, 1)", xlabel="magnitude cut", ylabel="nats")
    densities = np.linspace(0.001, 0.5, 200)
    right.plot(densities, [binary_entropy(float(d)) for d in densities], color="tab:blue", label="a mask, h_b(density)")
    right.axhline(math.log(2), color="black", linewidth=0.8, linestyle="--", label="ln 2")
    right.set(title="nats that a mask can hold", xlabel="density", ylabel="for each weight")


@drawing
def production(left: Axes, right: Axes) -> None:
    """Free energy of an Ornstein–Uhlenbeck process after a collapse and after a surge."""
    h, temperature = 1.0, 0.2
    times = np.linspace(0, 3, 100)
    for name, start, color in (
        ("all at 0.5 (a collapse)", (0.5, 1e-3), "tab:blue"),
        ("wide (a surge)", (0.0, 2.0), "tab:orange"),
    ):
        path = [free_energy(h, temperature, *ornstein_uhlenbeck(h, temperature, *start, float(t))) for t in times]
        left.semilogy(times, path, color=color, label=name)
        left.semilogy(times, path[0] * np.exp(-2 * h * times), color=color, linestyle=":", linewidth=0.8)
        rate = -np.gradient(np.array(path), times) / temperature
        right.semilogy(times, rate, color=color, label=name)
    left.set(title="free energy F (dotted: F₀·exp(−2ht))", xlabel="time")
    right.set(title="entropy production −Ḟ/T", xlabel="time")


@drawing
def soft(left: Axes, right: Axes) -> None:
    """Open weights over steps with thresholds of three kinds; what the rescale does to energy."""
    target = torch.tensor([1.0, 0.9], dtype=torch.float64)
    start = torch.tensor([0.2, 0.1], dtype=torch.float64)
    _, fixed = straight_through(lambda v: v - target, start, 0.5, 0.05, 200)
    _, counted = straight_through(lambda v: v - target, start, between_ranks(1), 0.05, 200)
    for values, color, label in ((fixed, "tab:blue", "t = 0.5"), (counted, "tab:orange", "one of two open")):
        left.plot([float(v[0]) for v in values], color=color, label=label)
        left.plot([float(v[1]) for v in values], color=color, linestyle="--")
    for height in (1.0, 0.9):
        left.axhline(height, color="black", linewidth=0.6, linestyle=":")
    left.set(title="soft weights, minimum at (1, 0.9)", xlabel="step", ylabel="first; second dashed")
    densities = np.logspace(-2, 0, 100)
    scale, ratio = zip(*(rescaled_energy(float(d)) for d in densities), strict=True)
    right.semilogx(densities, scale, color="tab:blue", label="scale c = 1 − ln(density)")
    right.semilogx(densities, ratio, color="tab:orange", label="energy of open weights, after/before")
    right.set(title="the rescale, Laplace weights", xlabel="density", ylim=(0, None))


@drawing
def confidence(left: Axes, right: Axes) -> None:
    """Expected error and information over predictive entropy, one point for each sharpness."""
    k, top = 10, math.log(10)
    grid = np.linspace(0, top, 200)
    left.plot(grid, 1 - np.exp(-grid), color="tab:orange", label="1 − exp(−H)")
    left.plot(grid, np.minimum(1, grid / (2 * math.log(2))), color="tab:red", label="H/(2 ln 2)")
    for shape, color in ((1.0, "tab:blue"), (4.0, "tab:green")):
        entropies, errors, shares = [], [], []
        for sharpness in np.logspace(-1, 1.3, 25):
            logits = (
                float(sharpness)
                * normal(2000, k, seed=0).abs().pow(shape).clamp(max=50)
                * normal(2000, k, seed=1).sign()
            )
            p = torch.softmax(logits, 1)
            entropies.append(float(torch.special.entr(p).sum(1).mean()))
            errors.append(1 - float(p.amax(1).mean()))
            shares.append(float(torch.special.entr(p.mean(0)).sum()) - entropies[-1])
        left.plot(entropies, errors, ".", color=color, markersize=4)
        right.plot(
            [1 - e / top for e in entropies], shares, ".", color=color, markersize=4, label=f"logits of shape {shape:g}"
        )
    left.set(title="expected error of a calibrated net", xlabel="mean predictive entropy H, nats", ylim=(0, 1))
    right.plot([0, 1], [0, top], color="black", linewidth=0.8, label="confidence · ln K")
    right.set(title="I(input; prediction), nats", xlabel="prediction confidence")


def main() -> None:
    """Every drawing, as SVG with text as text and no date."""
    plt.rcParams.update({"svg.hashsalt": "theory", "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 9})
    for draw in DRAWINGS:
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
        draw(left, right)
        for axis in (left, right):
            axis.grid(alpha=0.2)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=6.5)
        figure.tight_layout()
        figure.savefig(IMAGES / f"theory-{draw.__name__}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
