"""Made-up runs with everything that a report can show, and the means to leave parts out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgecollapse.events import Intervention, LayerReading, Reading
from surgecollapse.report.rundata import Curve, Predictions, RunData

STEPS, EVERY = 2_000, 50
SITES = ("body.0", "body.3", "body.6")
SHAPES = {
    "body.0.weight": (256, 64),
    "body.0.bias": (256,),
    "body.3.weight": (256, 256),
    "body.3.bias": (256,),
    "head.weight": (10, 256),
    "head.bias": (10,),
}
PRUNABLE = frozenset({"body.0.weight", "body.3.weight"})


def make_readings(rng: np.random.Generator) -> tuple[Reading, ...]:
    found = []
    for step in range(EVERY, STEPS + 1, EVERY):
        entropies = [0.75 - 0.08 * i - 0.1 * step / STEPS + 0.02 * rng.standard_normal() for i in range(len(SITES))]
        layers = tuple(
            LayerReading(layer=site, entropy=float(e), on_off=0.9 - 0.1 * i, energy=1.0, dead=0.0, units=256, rows=64)
            for i, (site, e) in enumerate(zip(SITES, entropies, strict=True))
        )
        found.append(
            Reading(
                step=step,
                layers=layers,
                entropy=float(np.mean(entropies)),
                on_off=float(0.7 + 0.05 * rng.standard_normal()),
                target_entropy=0.97 + 0.01 * float(rng.random()),
                loss=2.3 * 0.998**step,
            )
        )
    return tuple(found)


def make_interventions() -> tuple[Intervention, ...]:
    found, sparsity, energy = [], 0.0, 400.0
    for cycle, step in enumerate(range(200, 1500, 200)):
        found.append(
            Intervention(
                step=step,
                kind="collapse",
                phase="sparse",
                sparsity_before=sparsity,
                sparsity_after=0.9,
                reason="entropy has been flat for 3 readings (slope 0.0004 < 0.001 a reading): collapse by exact |w|",
                pruned=50_000,
                energy_before=energy,
                energy_after=0.7 * energy,
            )
        )
        sparsity, energy = 0.45, 0.7 * energy + 12
        found.append(
            Intervention(
                step=step + 100,
                kind="surge",
                phase="open",
                reason="the sparse phase is over",
                sparsity_before=0.9,
                sparsity_after=sparsity,
                grown=25_000,
                energy_before=energy,
                energy_after=energy + 5,
                energy_injected=5,
            )
        )
        if cycle % 3 == 1:
            found.append(
                Intervention(
                    step=step + 150,
                    kind="pump",
                    phase="open",
                    reason="entropy under its floor",
                    sparsity_before=0.45,
                    sparsity_after=0.45,
                    details={"noise_std": 0.05},
                )
            )
    found.append(
        Intervention(
            step=1700,
            kind="freeze",
            phase="frozen",
            reason="85% of the steps are done",
            sparsity_before=0.45,
            sparsity_after=0.9,
            energy_before=300.0,
            energy_after=280.0,
        )
    )
    return tuple(found)


def make_predictions(rng: np.random.Generator, classes: int = 10, rows: int = 360) -> Predictions:
    labels = np.arange(rows) % classes
    logits = rng.standard_normal((rows, classes))
    logits[np.arange(rows), labels] += 4.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(labels, scores, tuple(map(str, range(classes))), "test")


def make_run(
    name: str = "surge-collapse", policy: str = "entropy_cycles", seed: int = 0, *, sparse: bool = True
) -> RunData:
    """A run of 2,000 steps with all that a report can show."""
    rng = np.random.default_rng(seed)
    steps = np.arange(1, STEPS + 1)
    evaluated = np.arange(50, STEPS + 1, 50)
    decay = 2.3 * np.exp(-steps / (400 + 100 * seed))
    parameters = {key: 0.1 * rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
    gradients = {key: 1e-3 * rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
    if sparse:
        for key in PRUNABLE:
            parameters[key][np.abs(parameters[key]) < np.quantile(np.abs(parameters[key]), 0.9)] = 0
    walk = np.cumsum(rng.standard_normal((60, 1024)) * np.linspace(1, 0.1, 60)[:, None], axis=0)
    interventions = make_interventions() if sparse else ()
    phases = [(0, "dense"), *((e.step, e.phase) for e in interventions)] if sparse else []
    return RunData(
        name=name,
        directory=Path("runs") / name,
        policy=policy,
        task="digits",
        seconds=12.3 + seed,
        steps=STEPS,
        readings=make_readings(rng),
        interventions=interventions,
        phases=tuple(phases),
        floors=((200, 0.4), (1000, 0.4)) if sparse else (),
        measurements={
            "loss/train": Curve(steps, decay * (1 + 0.2 * rng.random(STEPS)) + 1e-3),
            "loss/validation": Curve(evaluated, 2.3 * np.exp(-evaluated / 420) + 0.12),
            "accuracy/train": Curve(evaluated, 1 - 0.9 * np.exp(-evaluated / 200)),
            "accuracy/validation": Curve(evaluated, 0.97 - 0.88 * np.exp(-evaluated / 220)),
            "energy/weights": Curve(evaluated, 300 + 40 * np.sin(evaluated / 90 + seed)),
        },
        sketch=(np.arange(0, STEPS, STEPS // 60)[:60], walk),
        predictions=make_predictions(rng),
        parameters=parameters,
        gradients=gradients,
        prunable=PRUNABLE if sparse else frozenset(),
        image=(8, 8),
    )


@pytest.fixture(scope="session")
def make() -> Callable[..., RunData]:
    """The maker of made-up runs."""
    return make_run


@pytest.fixture(scope="session")
def pair() -> list[RunData]:
    """A plain run and a surge-collapse run."""
    return [make_run("plain", "none", 1, sparse=False), make_run()]
