"""Read run directories into what the report draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgecollapse.events import Prune
from surgecollapse.lab.config import as_mapping, flat_values
from surgecollapse.lab.references import is_reference
from surgecollapse.lab.training.traces import PREFIX
from surgecollapse.record import RunStore
from surgecollapse.report.rundata import Array, Curve, Predictions, RunData

if TYPE_CHECKING:
    from surgecollapse.events import Decision
    from surgecollapse.lab.training.evaluation import CheckpointedRun

GRADIENT_ROWS = 256
"""Validation rows of the batch whose gradient is shown."""
SCALARS = (
    "loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "sparsity", "energy/weights",
    "grokfast/slow_norm", "grokfast/ratio", "grokfast/cosine", "orthograd/removed", "clip/factor",
)  # fmt: skip


def collect_all(runs: Sequence[Path | RunData]) -> list[RunData]:
    """Read all runs and give each a name of its own.

    Args:
        runs: run directories; what is collected already is taken as it is.
    """
    return with_own_names([run if isinstance(run, RunData) else collect(Path(run)) for run in runs])


def with_own_names(runs: Sequence[RunData]) -> list[RunData]:
    """Number runs that would have the same name.

    >>> [run.name for run in with_own_names([RunData("plain", Path()), RunData("plain", Path())])]
    ['plain 1', 'plain 2']
    """
    names = [run.name for run in runs]
    seen: dict[str, int] = {}
    found = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        found.append(replace(run, name=f"{run.name} {seen[run.name]}") if names.count(run.name) > 1 else run)
    return found


def collect(directory: Path) -> RunData:
    """Read one run directory: its record, and its final model on held-out data.

    Raises:
        ValueError: if the directory holds no readable run.
        FileNotFoundError: if it is not there.
    """
    from surgecollapse.lab.training.evaluation import load_checkpointed_run

    if (directory / "run.db").is_file() and not (directory / "config.toml").is_file():
        with RunStore(directory / "run.db") as store:
            return _of_own_loop(store, directory)
    loaded = load_checkpointed_run(directory)
    try:
        return _gather(loaded, directory)
    finally:
        loaded.store.close()


def _of_own_loop(store: RunStore, directory: Path) -> RunData:
    """A run that a loop of one's own recorded: no configuration, so neither a model nor data."""
    interventions, decisions, readings = tuple(store.interventions()), store.decisions(), tuple(store.readings())
    policy = str(store.get("policy", "none"))
    notes = ["this run was recorded by a loop of its own: without its configuration there are no figures of the model"]
    notes += [] if readings or interventions else ["it has no readings and no interventions: attach with recorders="]
    measured = _measurements(store)
    last = [int(curve.steps[-1]) for curve in measured.values()]
    return RunData(
        name=directory.name,
        directory=directory,
        policy=policy,
        task=directory.name,
        finished=store.get("status", "complete") == "complete",
        steps=max([0, *last, *(reading.step for reading in readings)]),
        readings=readings,
        interventions=interventions,
        phases=_phases(decisions),
        floors=_floors(decisions),
        measurements=measured,
        sketch=_array(store, "sketch/weights"),
        prunable=frozenset(change.name for event in interventions for change in event.layers),
        notes=tuple(notes),
    )


def _gather(loaded: CheckpointedRun, directory: Path) -> RunData:
    from surgecollapse.lab.training.evaluation import ENDED

    store, config, data = loaded.store, loaded.config, loaded.data
    notes: list[str] = []
    predictions = _predictions(loaded)
    if predictions is None:
        why = (
            "the labels are not classes"
            if data.y_test.is_floating_point() or is_reference(config.run.loss)
            else "the final model gives values that are not finite"
        )
        notes.append(f"{why} on the test data, so there are no metrics of classes")
    interventions = tuple(store.interventions())
    decisions = store.decisions()
    parameters = {name: value.detach().cpu().numpy() for name, value in loaded.model.named_parameters()}
    masked = {change.name for event in interventions for change in event.layers}
    if store.modified_by_user:
        count = sum(event.status == "applied" for event in store.requests())
        notes.append(f"a user changed this run while it trained ({count} commands): it is no run of its method alone")
    if loaded.status not in ENDED:
        notes.append(f"the run is {loaded.status}, the model is that of step {loaded.step:,}")
    if data.train_size > len(data.x_train):
        notes.append(f"metrics of classes are of {len(data.x_test):,} test samples; the record has the accuracy on all")
    if loaded.broken:
        notes.append(f"the run has diverged: not finite are {', '.join(loaded.broken)}")
    return RunData(
        name=directory.resolve().name,
        directory=directory,
        policy=config.method.policy,
        task=config.data.label,
        config=flat_values(as_mapping(config)),
        seconds=loaded.summary.get("seconds"),
        finished=loaded.status in ENDED,
        diverged=loaded.status == "diverged" or bool(loaded.broken),
        steps=loaded.step,
        readings=tuple(store.readings()),
        interventions=interventions,
        phases=_phases(decisions),
        floors=_floors(decisions),
        measurements=_measurements(store),
        sketch=_array(store, "sketch/weights"),
        traces={name: found for name in parameters if (found := _array(store, f"{PREFIX}{name}")) is not None},
        predictions=predictions,
        parameters=parameters,
        gradients=_gradients(loaded),
        prunable=frozenset(name for name in masked if name in parameters and parameters[name].ndim >= 2),
        modulus=getattr(config.data, "modulus", None),
        vocabulary=data.vocabulary,
        image=(data.input_shape[-2], data.input_shape[-1]) if data.kind == "image" else None,
        notes=tuple(notes),
        summary=loaded.summary,
        environment=store.get("environment", {}),
        test_samples=_test_samples(store),
    )  # fmt: skip


def _test_samples(store: RunStore) -> int | None:
    """How many samples the test accuracy is the share of."""
    found = store.get("data", {})
    count = found.get("samples", {}).get("test") if isinstance(found, dict) else None
    return count if isinstance(count, int) else None


def _floors(decisions: Sequence[tuple[int, Decision]]) -> tuple[tuple[int, float], ...]:
    """Floors of on/off entropy by the step at which a depth was searched under them."""
    found = ((step, decision.find(Prune)) for step, decision in decisions)
    return tuple(
        (step, prune.floor)
        for step, prune in found
        if prune is not None and prune.floor is not None and prune.measure == "on_off"
    )


def _phases(decisions: Sequence[tuple[int, Decision]]) -> tuple[tuple[int, str], ...]:
    """Phases by the step that they begin at; what precedes the first decision is dense.

    In records of version 0.1 it may be hold, of its policy that is no_op now.
    """
    found = [(step, decision.phase) for step, decision in decisions]
    if not found or found[0][0] == 0:
        return tuple(found)
    return ((0, "hold" if found[0][1] == "hold" else "dense"), *found)


def _measurements(store: RunStore) -> dict[str, Curve]:
    """The series that the report draws and that were measured; values that are not finite become gaps."""
    found: dict[str, Curve] = {}
    for name in SCALARS:
        steps, values = store.measurements(name)
        if len(steps):
            found[name] = Curve(steps, np.where(np.isfinite(values), values, np.nan))
    return found


def _array(store: RunStore, name: str) -> tuple[Array, Array] | None:
    """Steps, and what was recorded at them, stacked."""
    arrays = store.arrays(name)
    if not arrays:
        return None
    return np.array([step for step, _ in arrays]), np.stack([values for _, values in arrays])


def _predictions(loaded: CheckpointedRun) -> Predictions | None:
    """Class probabilities of the final model on the test data; ``None`` if any is not finite."""
    from surgecollapse.lab.training.evaluation import predict
    from surgecollapse.lab.training.outputs import as_rows

    labels = loaded.data.y_test
    logits = predict(loaded.model, loaded.data.x_test)
    if labels.is_floating_point() or logits.ndim != labels.ndim + 1:
        return None  # numbers, not classes
    rows, labels = as_rows(logits, labels)  # of text, every position is a row
    scores = rows.double().softmax(dim=1).numpy()
    if not np.isfinite(scores).all():
        return None
    names = tuple(str(k) for k in range(scores.shape[1]))  # a decoder answers over all tokens
    return Predictions(labels.numpy(), scores, names, "test")


def _gradients(loaded: CheckpointedRun) -> dict[str, Array]:
    """Gradient of the training loss on a validation batch by every parameter, in eval mode, not masked."""
    import torch

    from surgecollapse.lab.training.optim import make_loss

    names, parameters = zip(*loaded.model.named_parameters(), strict=True)
    rows, labels = (part[:GRADIENT_ROWS] for part in (loaded.data.x_validation, loaded.data.y_validation))
    loss = make_loss(loaded.config, loaded.data)(loaded.model(rows), labels)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: g.cpu().numpy() for name, g in zip(names, found, strict=True) if g is not None}
