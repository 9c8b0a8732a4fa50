"""Draws the figures of explanation/landscapes.md: two digits nets, trained here."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from surgecollapse.analysis.alignment import align, permute
from surgecollapse.analysis.local_learning_coefficient import local_learning_coefficient
from surgecollapse.analysis.mode_connectivity import curved_path, linear_path
from surgecollapse.analysis.spectral_density import spectral_density
from surgecollapse.analysis.surface import loss_surface
from surgecollapse.functional import Hessian, batch_loss

HERE = Path(__file__).parent
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


def net(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


one, two = net(0), net(1)
for name, found in {
    "line": linear_path(one, two, F.cross_entropy, x, y),
    "curve": curved_path(one, two, F.cross_entropy, x, y, steps=300),
    "aligned": linear_path(one, permute(two, align(one, two, x).permutations), F.cross_entropy, x, y),
}.items():
    found.plot().savefig(HERE / f"landscape-{name}.png", dpi=110)
    print(name, "barrier", round(found.barrier, 3))
alignment = align(one, two, x)
alignment.plot().savefig(HERE / "landscape-alignment.png", dpi=110)
print("cosines", alignment.before, alignment.after)
loss_surface(one, F.cross_entropy, x, y, points=15).plot().savefig(HERE / "landscape-surface.png", dpi=110)
hessian = Hessian(batch_loss(one, F.cross_entropy, x, y), dict(one.named_parameters()))
density = spectral_density(hessian, hessian.gradient, probes=2, steps=50)
density.plot().savefig(HERE / "landscape-density.png", dpi=110)
print("n", density.size, "largest", density.largest, "smallest", density.smallest, "trace", density.trace())
print("effective dimension at .01:", density.effective_dimension(0.01))
coefficient = local_learning_coefficient(
    one, F.cross_entropy, x, y, batch=256, step_size=1e-4, chains=3, draws=300, burn_in=300
)
coefficient.plot().savefig(HERE / "landscape-coefficient.png", dpi=110)
print(
    "llc",
    coefficient.doubt or "passed its tests",
    coefficient.value,
    coefficient.standard_error,
    coefficient.at_half_step,
    coefficient.r_hat,
)
