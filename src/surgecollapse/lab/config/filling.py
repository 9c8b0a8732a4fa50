"""What is not given is taken from the file or the experiment, and then from the presets, whichever has it first."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

from surgecollapse.errors import ConfigError, unknown
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.config.keys import flat, unfit
from surgecollapse.lab.config.presets import DEFAULT_TASK_PRESET, OPTIMIZER_PRESETS
from surgecollapse.lab.references import FORM, is_reference
from surgecollapse.lab.section import NONE, shown
from surgecollapse.lab.tasks.project import ReferencedTask
from surgecollapse.lab.tasks.registry import TASKS, is_offered

if TYPE_CHECKING:
    from collections.abc import Mapping


_PUBLISHED = "a published experiment (`surgecollapse list experiments`)"


def filled(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Values by own name: later layers override earlier ones, and presets fill the rest.

    Where a layer chooses another kind (``optimizer = "sgd"``), what only the old kind had is dropped with it.

    Raises:
        ConfigError: for a key that is unknown, given twice, or has no effect beside the others of its layer.
    """
    values: dict[str, Any] = {}
    for number, layer in enumerate(map(flat, layers)):
        experiment = experiments().get(str(layer.get("task")))
        if experiment is not None:
            base = _read(str(layer["task"]))
            values, layer = _laid(base, values), {**layer, "task": base["task"]}
        values = _laid(values, layer)
        if "task" not in values and number == len(layers) - 1:
            raise ConfigError(f"no task given: choose one of {', '.join(TASKS.names())}, or {_PUBLISHED}")
    task = values.get("task")
    if isinstance(task, str) and task not in TASKS and not is_reference(task) and not is_offered(task):
        own = f". Your own data: {FORM}" if task.endswith(".py") else ""
        raise ConfigError(unknown("task", task, TASKS.names(), unlisted=experiments(), see=_PUBLISHED) + own)
    return _laid(_presets(values), values)


def _laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One layer over another."""
    below = {name: value for name, value in below.items() if name not in _excluded(above)}
    values = {**below, **above}
    for name, why in unfit({**_presets(values), **values}).items():
        if name in above:
            raise ConfigError(f"{name} = {shown(above[name])} {why}: drop it")
        values.pop(name, None)
    return values


def _excluded(above: Mapping[str, Any]) -> set[str]:
    """Steps take the place of epochs, and one goal that of another, each the other way round, too."""
    pairs = [("epochs", "steps"), ("steps", "epochs"), ("stop_at_accuracy", "until")]
    if above.get("until") == "grokked":
        pairs.append(("until", "stop_at_accuracy"))
    return {other for one, other in pairs if above.get(one) not in (None, NONE) and other not in above}


def _presets(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the task and the optimizer bring along, but for what it takes away from others to give it."""
    name = str(values.get("task"))
    chosen = ReferencedTask if is_reference(name) else TASKS.get(name)
    task = {**DEFAULT_TASK_PRESET, **(chosen.preset if chosen is not None else {})}
    if "task" in values:
        task["task"] = values["task"]
    if values.get("model", task["model"]) != task["model"]:
        task.pop("widths")
    task.update(OPTIMIZER_PRESETS.get(str(values.get("optimizer")), {}))
    task = {name: value for name, value in task.items() if name not in _excluded(values)}
    useless = unfit({**task, **values})
    return {name: value for name, value in task.items() if name not in useless}


@cache
def _read(name: str) -> Mapping[str, Any]:
    return flat(tomllib.loads(experiments()[name].read_text(encoding="utf-8")))
