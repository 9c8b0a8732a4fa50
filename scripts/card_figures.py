"""Small figures of method cards as inline SVG: sparsity under a policy, values of a monitor, gain of a filter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import surgecollapse
from surgecollapse import Controller
from surgecollapse.events import Measurement
from surgecollapse.functional import ema_coefficients, frequency_response

STEPS, EVERY, TARGET = 1000, 20, 0.9
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 180, 46, 30
_AXIS = [(0.0, "0"), (0.5, f"step {STEPS // 2}"), (1.0, str(STEPS))]


def _svg(points: Sequence[tuple[float, float]], x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]]) -> str:
    """A line through points in the unit square, with labeled marks on both axes."""
    across, up = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - 8

    def place(at: float, level: float) -> tuple[float, float]:
        return round(_LEFT + across * at, 1), round(8 + up * (1.0 - level), 1)

    path = " ".join(f"{px},{py}" for px, py in (place(*point) for point in points))
    marks = []
    for at, word in x:
        px, py = place(at, 0)
        anchor = "end" if at == 1 else "middle"
        marks.append(f'<text x="{px}" y="{py + 18}" text-anchor="{anchor}">{word}</text>')
    for level, word in y:
        px, py = place(0, level)
        marks.append(f'<text x="{px - 6}" y="{py + 4}" text-anchor="end">{word}</text>')
        marks.append(f'<line x1="{px}" x2="{px + across}" y1="{py}" y2="{py}" stroke="currentColor" opacity="0.2"/>')
    return (
        f'<svg class="card-figure" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" font-size="12" '
        f'fill="currentColor">{"".join(marks)}<polyline points="{path}" fill="none" '
        'stroke="var(--md-typeset-a-color)" stroke-width="2"/></svg>'
    )


def _train(**options: Any) -> Controller:
    """A small MLP through a short training on noise; its controller has let go of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.randn(256, 16)
    y = torch.randint(4, (256,))
    with surgecollapse.attach(
        model, optimizer, TARGET, STEPS, readings=surgecollapse.Readings(every=EVERY), **options
    ) as controller:
        for step in range(STEPS):
            rows = torch.arange(step * 64, step * 64 + 64) % len(x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return controller


def _sparsities(policy: str) -> list[tuple[int, float]]:
    """Step and sparsity of a small MLP through a training, before and after every event."""
    line = [(0, 0.0)]
    for event in _train(policy=policy).events:
        line += [(event.step, event.sparsity_before), (event.step, event.sparsity_after)]
    return [*line, (STEPS, line[-1][1])]


def schedule_of_policy(name: str) -> str:
    """Sparsity over the steps of a short training under a policy; empty where nothing is ever pruned."""
    line = _sparsities(name)
    if not any(sparsity for _, sparsity in line):
        return ""
    points = [(step / STEPS, sparsity) for step, sparsity in line]
    drawn = _svg(points, _AXIS, [(0.0, "0"), (TARGET, str(TARGET)), (1.0, "1")])
    caption = f"Sparsity while a small MLP trains for {STEPS:,} steps on noise, target {TARGET:.0%}."
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


class _Measurements:
    """Keeps what monitors measure, without what they cost."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, list[float]]] = {}

    def record(self, event: object) -> None:
        if isinstance(event, Measurement) and not event.name.startswith("budget/"):
            self.values.setdefault(event.name, {}).setdefault(event.step, []).append(event.value)


def values_of_monitor(name: str) -> str:
    """The first number of a monitor through a short training; empty where it measures nothing in such a training."""
    kept = _Measurements()
    _train(monitors=surgecollapse.Monitoring([name], budget=None), recorders=[kept])
    if not kept.values:
        return ""
    shown, series = next(iter(kept.values.items()))
    line = {step: statistics.fmean(values) for step, values in series.items()}
    low, high = min(line.values()), max(line.values())
    if low == high:
        return ""
    points = [(step / STEPS, (value - low) / (high - low)) for step, value in line.items()]
    drawn = _svg(points, _AXIS, [(0.0, f"{low:.2g}"), (1.0, f"{high:.2g}")])
    of = ", mean over layers" if any(len(values) > 1 for values in series.values()) else ""
    caption = f"<code>{shown}</code>{of}, while a small MLP trains for {STEPS:,} steps on noise, target {TARGET:.0%}."
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _drawn_gain(gains: Sequence[float], periods: Sequence[float], caption: str) -> str:
    first, last = math.log(periods[0]), math.log(periods[-1])
    highest = max(gains)
    points = [((math.log(p) - first) / (last - first), g / highest) for p, g in zip(periods, gains, strict=True)]
    marks = [(math.log(p / periods[0]) / (last - first), f"{p:,} steps") for p in (10, 100, 1000)]
    drawn = _svg(points, marks, [(0, "0"), (1 / highest, "1"), (1, f"{highest:.2g}")])
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def gain_of_filter(name: str) -> str:
    """Gain of a gradient filter over the period of a wave in the gradient; empty for what is not a filter."""
    periods = [2.0 * 10 ** (k / 40) for k in range(134)]
    frequencies = torch.tensor([1.0 / period for period in periods], dtype=torch.float64)
    filters = {
        "grokfast": (2.0, *ema_coefficients(0.98), "α = 0.98, λ = 2"),
        "grokfast_ma": (5.0, [0.01] * 100, [1.0], "a window of 100, λ = 5"),
        "gradient_filter": (
            2.0,
            [0.0029, 0.0087, 0.0087, 0.0029],
            [1.0, -2.3741, 1.9294, -0.5321],
            "a Butterworth filter of order 3, λ = 2",
        ),
    }
    if name not in filters:
        return ""
    lamb, b, a, setting = filters[name]
    gains = (1.0 + lamb * frequency_response(b, a, frequencies)).abs().tolist()
    return _drawn_gain(gains, periods, f"Gain by the period of an oscillation in the gradient, for {setting}.")
