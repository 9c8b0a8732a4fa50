"""Small figures of the cards of analyses that have no picture of a run: what they say of data that are known."""

from __future__ import annotations

import math

import torch
from card_drawing import figure, over_steps
from torch import Tensor, nn

from surgecollapse.analysis.fourier import fourier_history
from surgecollapse.analysis.information_plane import information_plane
from surgecollapse.analysis.intrinsic_dimension import intrinsic_dimensions
from surgecollapse.analysis.universality import universality
from surgecollapse.lab.data.images import digits
from surgecollapse.lab.data.synthetic import modular


def _dimension() -> str:
    """Estimated over true dimension of uniform samples."""
    generator = torch.Generator().manual_seed(0)
    most = 20
    samples = {str(d): torch.rand(1000, d, generator=generator) for d in range(1, most + 1)}
    found = intrinsic_dimensions(samples)
    lines = [
        [(d / most, value / most) for d, value in enumerate(values, 1)]
        for values in (found.two_nn, found.participation_ratio)
    ]
    marks = [(d / most, str(d)) for d in (0, 10, 20)]
    caption = "TwoNN by the true dimension, of 1,000 samples uniform in a cube; dashed: participation ratio."
    return figure(lines, marks, marks, caption)


def _fourier() -> str:
    """Spectrum of the table of tokens before and after a network learns modular addition."""
    torch.manual_seed(0)
    modulus, steps = 59, 1000
    data = modular("add", modulus, 0.6, "tokens", seed=0)
    table = nn.Embedding(data.vocabulary, 64)
    head = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, modulus))
    weights = [*table.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1.0, betas=(0.9, 0.98))
    tables = [table.weight.detach()[:modulus].numpy().copy()]
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(table(data.x_train[:, [0, 2]]).sum(1)), data.y_train).backward()
        optimizer.step()
    tables.append(table.weight.detach()[:modulus].numpy())
    with torch.no_grad():
        guesses = head(table(data.x_validation[:, [0, 2]]).sum(1)).argmax(1)
    right = (guesses == data.y_validation).float().mean().item()
    found = fourier_history([0, steps], tables)
    count, most = len(found.frequencies), max(found.power[1])
    lines = [[(k / (count - 1), share / most) for k, share in enumerate(row)] for row in reversed(found.power)]
    caption = (
        f"Share of the power by frequency after an MLP has learned addition modulo {modulus} (accuracy {right:.1%} on "
        f"unseen pairs); dashed: before. Gini coefficient {found.gini[0]:.2f} → {found.gini[1]:.2f}."
    )
    x = [(0.0, "1"), (14 / (count - 1), "frequency 15"), (1.0, str(count))]
    return figure(lines, x, [(0.0, "0"), (1.0, f"{most:.2f}")], caption)


def _learning_digits(
    lr: float, steps: int, every: int
) -> tuple[list[int], list[dict[str, Tensor]], list[float], Tensor]:
    """Representations and accuracy on the validation digits through the training of an MLP, and the labels."""
    torch.manual_seed(0)
    data = digits(0)
    x, unseen = data.x_train.flatten(1), data.x_validation.flatten(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    times, layers, accuracies = [], [], []
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                times.append(step)
                layers.append({"first": model[:2](unseen), "last": model(unseen)})
                accuracies.append((layers[-1]["last"].argmax(1) == data.y_validation).float().mean().item())
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), data.y_train).backward()
        optimizer.step()
    return times, layers, accuracies, data.y_validation


def _information() -> str:
    """I(layer; label) through a training."""
    steps, layers, _, labels = _learning_digits(0.3, 500, 10)
    plane = information_plane(steps, layers, labels)
    first, last = plane.with_label
    caption = (
        f"I(last layer; label) in nats while an MLP learns 8×8 digits; dashed: first layer. {plane.label_entropy:.2f} "
        "is the most."
    )
    lines = [list(zip(steps, values, strict=True)) for values in (last, first)]
    return over_steps(lines, steps[-1], caption, [0.0, plane.label_entropy])


def _universality() -> str:
    """Two curves that fall onto one."""
    curves = {}
    for name, lr in (("fast", 0.1), ("slow", 0.02)):
        steps, _, accuracies, _ = _learning_digits(lr, 1500, 3)
        curves[name] = steps, accuracies
    found = universality(curves)
    lines = [
        [
            (math.log2(8 * t) / 6, level / 1.2)
            for t, level in zip(curve.time, curve.level, strict=True)
            if 1 / 8 <= t <= 8 and level >= 0
        ]
        for curve in found.curves
    ]
    caption = (
        "Accuracy of an MLP on 8×8 digits at a learning rate of 0.1, rescaled, over time in units of t½; dashed: at "
        f"0.02. Distance {found.before:.3f} before, {found.after:.3f} after."
    )
    return figure(lines, [(1 / 6, "¼ t½"), (0.5, "t½"), (5 / 6, "4 t½")], [(0, "0"), (1 / 1.2, "1")], caption)


FIGURES = {"dimension": _dimension, "fourier": _fourier, "information": _information, "universality": _universality}
"""Figures by the name of the analysis."""
