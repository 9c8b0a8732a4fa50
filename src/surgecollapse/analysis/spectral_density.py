"""Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgecollapse.analysis.plain_values import PlainValues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from surgecollapse.functional.curvature import Operator


@dataclass(frozen=True)
class SpectralDensity(PlainValues):
    """Points and weights of the quadrature: Σ wᵢ f(θᵢ) estimates Tr f(H)/n."""

    values: tuple[float, ...]
    """Ritz values θ of all probes, ascending."""
    weights: tuple[float, ...]
    """Share of the spectrum at each; they sum to 1."""
    size: int
    """n, eigenvalues in all."""
    probes: int
    steps: int
    largest: float
    smallest: float

    def density(self, points: NDArray[Any], width: float) -> NDArray[Any]:
        """The density with each point widened to a Gaussian of standard deviation ``width``."""
        distance = (points[:, None] - np.array(self.values)) / width
        return np.asarray((np.exp(-(distance**2) / 2) * np.array(self.weights)).sum(1) / (width * np.sqrt(2 * np.pi)))

    def trace(self) -> float:
        """Tr H as the quadrature has it."""
        return self.size * float(np.dot(self.values, self.weights))

    def effective_dimension(self, scale: float) -> float:
        """Σ h/(h + z) over eigenvalues h above 0 (MacKay 1992; Maddox et al., arXiv 2003.02139, eq. 3).

        Raises:
            ValueError: if ``scale`` z is not above 0.
        """
        if not scale > 0.0:
            raise ValueError(f"scale must be above 0, got {scale}")
        h = np.clip(self.values, 0.0, None)
        return self.size * float(np.dot(h / (h + scale), self.weights))

    def plot(self) -> Figure:
        """Draw the density, the share of the spectrum logarithmic: most eigenvalues of nets are near zero."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        reach = (self.largest - self.smallest) or 1.0
        points = np.linspace(self.smallest - 0.05 * reach, self.largest + 0.05 * reach, 1000)
        found = self.density(points, 0.01 * reach)
        axes.semilogy(points, found)
        axes.set_ylim(bottom=max(found.max() * 1e-7, 0.1 / self.size / reach))
        axes.set_xlabel(f"eigenvalue of the Hessian ({self.probes} probes of {self.steps} steps)")
        axes.set_ylabel("density")
        return figure


def lanczos(operator: Operator, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Ritz values of a symmetric operator and their weights in a start vector (Golub and Welsch 1969).

    Every new vector is made orthogonal to all before, twice, so that no eigenvalue is found twice. The weights are
    squared first components of the tridiagonal matrix's eigenvectors. That is, Σ w f(θ) = vᵀf(H)v/‖v‖², exact for
    polynomials up to degree 2·steps − 1.

    Args:
        operator: symmetric; a matrix or :class:`surgecollapse.functional.Hessian`.
        start: ``(n,)``, not zero.
        steps: at least 1; fewer are made where the space is used up.

    Returns:
        Ascending Ritz values and weights that sum to 1, float64 on the CPU.

    Raises:
        ValueError: for fewer than 1 step, or products that are not finite.

    >>> values, weights = lanczos(torch.diag(torch.tensor([1.0, 3.0])).double(), torch.ones(2).double(), 5)
    >>> [round(x, 9) for x in values.tolist()], [round(x, 9) for x in weights.tolist()]
    ([1.0, 3.0], [0.5, 0.5])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    rounding = torch.finfo(start.dtype).eps
    for _ in range(min(steps, start.numel())):
        image = operator @ basis[-1]
        if not bool(image.isfinite().all()):
            raise ValueError("the operator gives values that are not finite: the loss or its derivatives overflow")
        diagonal.append(float(basis[-1] @ image))
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        beside.append(length)
        if length <= 100 * rounding * max(max(map(abs, diagonal)), max(beside)):
            break
        basis.append(image / length)
    off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors[0].square()


def spectral_density(
    operator: Operator, like: Tensor, *, probes: int = 4, steps: int = 60, seed: int = 0
) -> SpectralDensity:
    """Estimate the density of eigenvalues (Ghorbani, Krishnan and Xiao, arXiv 1901.10159).

    For a random v of independent normal entries E[vᵀf(H)v]/n = Tr f(H)/n; the mean is over the probes.

    Args:
        operator: symmetric; a matrix or :class:`surgecollapse.functional.Hessian`.
        like: ``(n,)``, for size, dtype and device.
        probes: start vectors.
        steps: products for each.
        seed: of the start vectors.

    Raises:
        ValueError: for fewer than 1 probe or step, a complex operator, or products that are not finite.

    >>> found = spectral_density(torch.eye(5).double(), torch.ones(5).double(), probes=2)
    >>> round(found.trace(), 9), round(found.effective_dimension(1.0), 9)
    (5.0, 2.5)
    """
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    if like.is_complex():
        raise ValueError(f"expected a real operator, got {like.dtype}")
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        lanczos(operator, torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like), steps)
        for _ in range(probes)
    ]
    values, weights = torch.cat([v for v, _ in pairs]), torch.cat([w for _, w in pairs]) / probes
    order = values.argsort()
    values, weights = values[order], weights[order]
    return SpectralDensity(
        tuple(values.tolist()), tuple(weights.tolist()), like.numel(), probes, steps,
        largest=float(values[-1]), smallest=float(values[0]),
    )  # fmt: skip
