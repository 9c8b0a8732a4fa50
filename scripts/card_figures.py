"""Small figures of method cards: each is computed here, by short trainings or from closed forms."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from card_drawing import figure, over_steps
from torch import Tensor, nn

import surgecollapse
from surgecollapse import Controller, Readings, transform_gradients
from surgecollapse.events import Measurement
from surgecollapse.functional import dormancy, ema_coefficients, frequency_response
from surgecollapse.gradients.clip import ClipNorm
from surgecollapse.gradients.equalize import EqualizeSpectrum
from surgecollapse.gradients.orthograd import OrthoGrad
from surgecollapse.policies import make_policy

STEPS, EVERY, TARGET = 1000, 20, 0.9
_TRAINING = f"while a small MLP trains for {STEPS:,} steps on noise"
_COMPARED = f"{_TRAINING}; dashed: without it."

Prepare = Callable[[nn.Module, torch.optim.Optimizer], Any]
Watch = Callable[[nn.Module, Tensor, Tensor], float]


def _nothing(_model: nn.Module, _optimizer: torch.optim.Optimizer) -> None:
    """What the dashed line has: nothing is attached."""


def _train(
    prepare: Prepare, watch: Watch, *, every: int = EVERY, new_labels: int = 0, adaptive: bool = True
) -> tuple[list[tuple[int, float]], Any]:
    """Train a small MLP on noise.

    Args:
        prepare: attaches something to the model and its optimizer.
        watch: measures something, from the model, the inputs and the labels.
        every: steps between two measurements.
        new_labels: steps after which the labels are drawn again; 0: never.
        adaptive: AdamW, otherwise plain gradient descent.

    Returns:
        Step and value of each measurement, and what ``prepare`` returned.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    weights = model.parameters()
    optimizer = torch.optim.AdamW(weights, lr=1e-2) if adaptive else torch.optim.SGD(weights, lr=0.1)
    x, unseen = torch.randn(256, 16), torch.randn(256, 16)
    y, unseen_labels = torch.randint(4, (256,)), torch.randint(4, (256,))
    attached = prepare(model, optimizer)
    warnings.filterwarnings("ignore", "training does not recover", UserWarning)  # noise is not learned with 90% zeros
    line = []
    for step in range(1, STEPS + 1):
        if new_labels and step % new_labels == 0:
            y = torch.randint(4, (256,))
        rows = torch.randint(256, (64,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        if isinstance(attached, Controller) and attached.watch is not None:
            notes = {"loss": loss.item(), "targets": y[rows]}
            if (step + 1) % EVERY == 0:
                with torch.no_grad():
                    notes["validation_loss"] = nn.functional.cross_entropy(model.eval()(unseen), unseen_labels).item()
                    model.train()
            attached.note(**notes)
        optimizer.step()
        if step % every == 0:
            model.eval()
            line.append((step, watch(model, x, y)))
            model.train()
    return line, attached


def _attached(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: float = TARGET, **options: Any) -> Any:
    return surgecollapse.attach(model, optimizer, sparsity, STEPS, readings=Readings(every=EVERY), **options)


def _matrices(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters() if p.ndim > 1]


def _zeros(model: nn.Module, _x: Tensor, _y: Tensor) -> float:
    return torch.cat([weight.flatten() == 0 for weight in _matrices(model)]).float().mean().item()


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return nn.functional.cross_entropy(model(x), y).item()


def _dormant(model: nn.Module, x: Tensor, _y: Tensor) -> float:
    return statistics.fmean((dormancy(model[:depth](x)) <= 0.025).float().mean().item() for depth in (2, 4))


def _gradient_norm(model: nn.Module, _x: Tensor, _y: Tensor) -> float:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()


def _weight_norm(model: nn.Module, _x: Tensor, _y: Tensor) -> float:
    return torch.cat([weight.flatten() for weight in _matrices(model)]).norm().item()


def _longest_row(model: nn.Module, _x: Tensor, _y: Tensor) -> float:
    return max(weight.norm(dim=1).max().item() for weight in _matrices(model))


def _rise(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """How much the loss rises at a distance of 0.5 along its gradient."""
    weights = list(model.parameters())
    loss = nn.functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, weights)
    scale = 0.5 / torch.cat([g.flatten() for g in gradients]).norm()
    moved = {name: p + scale * g for (name, p), g in zip(model.named_parameters(), gradients, strict=True)}
    return nn.functional.cross_entropy(torch.func.functional_call(model, moved, x), y).item() - loss.item()


def figure_of_policy(name: str) -> str:
    """Sparsity over the steps of a short training; for policies that hold no mask, what they do instead."""
    if name == "fixed_interval":
        line, _ = _train(lambda m, o: _attached(m, o, policy=name), _zeros, every=1)
        return over_steps([line], STEPS, f"Share of weights that are exactly zero {_TRAINING}.", [0.0, 0.5])
    if name == "no_op":
        line, _ = _train(lambda m, o: _attached(m, o, policy=name), _loss)
        plain, _ = _train(_nothing, _loss)
        same = "the same" if line == plain else "NOT the same"
        return over_steps([line, plain], STEPS, f"Loss {_COMPARED} Both are {same} to the last bit.", [0.0])
    if name == "redo":
        recycling = make_policy(name, interval=100)
        line, _ = _train(lambda m, o: _attached(m, o, 0.0, policy=recycling), _dormant, new_labels=100)
        plain, _ = _train(_nothing, _dormant, new_labels=100)
        caption = f"Share of dormant units {_TRAINING} whose labels change every 100 steps, recycled after as many"
        return over_steps([line, plain], STEPS, f"{caption}; dashed: never.", [0.0])
    _, controller = _train(lambda m, o: _attached(m, o, policy=name), _loss, every=STEPS)
    line = [(0, 0.0)]
    for event in controller.events:
        line += [(event.step, event.sparsity_before), (event.step, event.sparsity_after)]
    line.append((STEPS, line[-1][1]))
    return over_steps([line], STEPS, f"Sparsity {_TRAINING}, target {TARGET:.0%}.", [0.0, TARGET, 1.0])


class _Measurements:
    """Keeps what monitors measure, without what they cost."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, list[float]]] = {}

    def record(self, event: object) -> None:
        if isinstance(event, Measurement) and not event.name.startswith("budget/"):
            self.values.setdefault(event.name, {}).setdefault(event.step, []).append(event.value)


def figure_of_monitor(name: str) -> str:
    """The first number of a monitor through a short training."""
    kept = _Measurements()
    monitors = surgecollapse.Monitoring([name], budget=None)
    _train(lambda m, o: _attached(m, o, monitors=monitors, recorders=[kept]), _loss, every=STEPS)
    shown, series = next(iter(kept.values.items()))
    of = ", mean over layers" if any(len(values) > 1 for values in series.values()) else ""
    line = [(step, statistics.fmean(values)) for step, values in series.items()]
    return over_steps([line], STEPS, f"<code>{shown}</code>{of}, {_TRAINING}, target {TARGET:.0%}.")


_CHANGES: dict[str, tuple[Prepare, Watch, str]] = {
    "orthograd": (lambda _, o: transform_gradients(o, [OrthoGrad()]), _weight_norm, "Norm of all weight matrices"),
    "clip_norm": (lambda _, o: transform_gradients(o, [ClipNorm(0.5)]), _gradient_norm, "Gradient norm, at most 0.5,"),
    "clip_rows": (lambda _, o: surgecollapse.clip_rows(o, 1.0), _longest_row, "Longest row of weights, at most 1,"),
    "single_step_sam": (
        lambda m, o: surgecollapse.single_step_sam(m, o, rho=0.5),
        _rise,
        "Rise of the training loss at a distance of 0.5 along its gradient, ρ = 0.5,",
    ),
}


def _spectra() -> str:
    """Singular values of a gradient before and after it is equalized."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    (layer(torch.randn(8, 32)) ** 2).sum().backward()
    before = layer.weight.grad.clone()
    EqualizeSpectrum()([layer.weight], [layer.weight.grad])
    spectra = [torch.linalg.svdvals(gradient) for gradient in (layer.weight.grad, before)]
    lines = [[(k / 31, float(value / spectrum[0])) for k, value in enumerate(spectrum)] for spectrum in spectra]
    x = [(0.0, "1st"), (7 / 31, "8th"), (1.0, "32nd singular value")]
    caption = "Singular values over the largest, of a layer's gradient from 8 samples; dashed: before."
    return figure(lines, x, [(0.0, "0"), (1.0, "1")], caption)


def _gain(lamb: float, b: Sequence[float], a: Sequence[float], setting: str) -> str:
    """Gain of a filter over the period of a wave in the gradient."""
    periods = [2.0 * 10 ** (k / 40) for k in range(134)]
    frequencies = torch.tensor([1.0 / period for period in periods], dtype=torch.float64)
    gains = (1.0 + lamb * frequency_response(b, a, frequencies)).abs().tolist()
    first, last, highest = math.log(periods[0]), math.log(periods[-1]), max(gains)
    points = [((math.log(p) - first) / (last - first), g / highest) for p, g in zip(periods, gains, strict=True)]
    marks = [(math.log(p / periods[0]) / (last - first), f"{p:,} steps") for p in (10, 100, 1000)]
    levels = [(0, "0"), (1 / highest, "1"), (1, f"{highest:.2g}")]
    return figure([points], marks, levels, f"Gain by the period of an oscillation in the gradient, for {setting}.")


def figure_of_transform(name: str) -> str:
    """Gain of a filter, or a quantity that the transform changes through a short training with and without it."""
    if name == "grokfast":
        return _gain(2.0, *ema_coefficients(0.98), "α = 0.98, λ = 2")
    if name == "grokfast_ma":
        return _gain(5.0, [0.01] * 100, [1.0], "a window of 100, λ = 5")
    if name == "gradient_filter":
        low_pass = [0.0029, 0.0087, 0.0087, 0.0029], [1.0, -2.3741, 1.9294, -0.5321]
        return _gain(2.0, *low_pass, "a Butterworth filter of order 3, λ = 2")
    if name == "equalize_spectrum":
        return _spectra()
    prepare, watch, what = _CHANGES[name]
    (changed, _), (plain, _) = (_train(each, watch, adaptive=False) for each in (prepare, _nothing))
    return over_steps([changed, plain], STEPS, f"{what} {_COMPARED}", [0.0])
