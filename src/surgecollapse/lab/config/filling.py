"""What is not given is taken from the experiment, the recipe and the presets, whichever has it first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.lab.config.experiments import EXPERIMENTS
from surgecollapse.lab.config.presets import DEFAULT_TASK_PRESET, MODEL_PRESETS, OPTIMIZER_PRESETS, TASK_PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what was not given from the presets of the task, the model and the optimizer."""
    experiment = dict(EXPERIMENTS.get(str(given.get("task")), {}))
    if given.get("recipe") is not None:  # what is asked for comes before what is preset
        experiment.pop("policy", None)
    asked = given
    given = {**experiment, **given, **({"task": experiment["task"]} if experiment else {})}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if asked.get(one) is not None and asked.get(other) is None:
            given.pop(other, None)
    recipe = {"policy": "cyclic_pruning"} if given.get("recipe") == "surge-collapse" else {}
    if recipe and given.get("policy", recipe["policy"]) == recipe["policy"]:
        given = {**recipe, **given}
    merged = {**DEFAULT_TASK_PRESET, **TASK_PRESETS.get(str(given.get("task")), {})}
    model = given.get("model")
    if model is not None and model != merged["model"]:
        merged.update(MODEL_PRESETS.get(str(model), {}))
    merged.update(OPTIMIZER_PRESETS.get(str(given.get("optimizer")), {}))
    if given.get("epochs") is not None:
        merged.pop("steps", None)
    return {**merged, **given}
