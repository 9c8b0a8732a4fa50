"""Draw the participation ratio over the number of rows: ``python docs/images/participation_ratio_rows.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch

from surgecollapse.functional import sample_participation_ratio

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROWS = [8, 16, 32, 64, 128, 256, 512, 1024]
DRAWS, UNITS = 20, 256


def estimates(scales: torch.Tensor, rows: int, debiased: bool) -> torch.Tensor:
    """Estimates of repeated draws of ``rows`` Gaussian rows."""
    g = torch.Generator().manual_seed(rows)
    draws = (torch.randn(rows, UNITS, generator=g, dtype=torch.float64) * scales for _ in range(DRAWS))
    return torch.stack([sample_participation_ratio(x, debiased=debiased) for x in draws])


def main() -> None:
    """Three spectra, each with its true value."""
    spectra = {
        "isotropic": torch.ones(UNITS, dtype=torch.float64),
        "power law": torch.arange(1, UNITS + 1, dtype=torch.float64) ** -0.25,
        "ten directions": torch.cat([torch.ones(10), torch.full((UNITS - 10,), 0.05)]).double(),
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharex=True)
    for axis, (name, scales) in zip(axes, spectra.items(), strict=True):
        variances = scales.square()
        true = (variances.sum().square() / variances.square().sum()).item()
        for debiased, color, label in ((False, "tab:orange", "as it stands"), (True, "tab:blue", "corrected")):
            found = torch.stack([estimates(scales, rows, debiased) for rows in ROWS])
            low, middle, high = found.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1)
            axis.fill_between(ROWS, low, high, color=color, alpha=0.25, linewidth=0)
            axis.plot(ROWS, middle, color=color, label=label)
        axis.axhline(true, color="black", linewidth=0.8, linestyle="--", label=f"true: {true:.1f}")
        axis.set(title=name, xlabel="rows", xscale="log", ylim=(0, None))
        axis.legend(fontsize=7)
    axes[0].set_ylabel("participation ratio")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("participation-ratio-rows.png"), dpi=90)


if __name__ == "__main__":
    main()
