"""A whole configuration: its sections, and what they must be together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, model_validator

from surgecollapse.lab.config.filling import filled
from surgecollapse.lab.config.keys import nested
from surgecollapse.lab.config.method import Method
from surgecollapse.lab.config.optimizer import Optimizer
from surgecollapse.lab.config.run_section import Run
from surgecollapse.lab.config.transforms import Transforms
from surgecollapse.lab.models.project import OTHER_MODELS
from surgecollapse.lab.models.registry import MODELS, AnyModel
from surgecollapse.lab.references import is_reference
from surgecollapse.lab.section import one_of_kinds
from surgecollapse.lab.tasks.project import OTHER_TASKS
from surgecollapse.lab.tasks.registry import TASKS, Task

if TYPE_CHECKING:
    from typing import Self, TypeAlias

    AnyTask: TypeAlias = Task
    ChosenModel: TypeAlias = AnyModel
else:
    AnyTask = one_of_kinds("task", TASKS, OTHER_TASKS)
    ChosenModel = one_of_kinds("name", MODELS, OTHER_MODELS)


class RunConfig(BaseModel):
    """One training run.

    Keys may be given by their own names. Those that are not given take the preset of the task (and of the model and the
    optimizer, where they are not the task's own).

    Raises:
        ConfigError: through :func:`make_config` and :func:`read_config`; the constructor itself raises
            pydantic's ``ValidationError``.

    >>> config = RunConfig(task="digits", sparsity=0.8)
    >>> config.model.name, config.model.widths, config.method.policy
    ('mlp', (256, 256), 'cyclic_pruning')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: AnyTask
    model: ChosenModel
    method: Method
    optimizer: Optimizer
    transforms: Transforms
    run: Run

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        return nested(filled(given)) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in (_labels, _tables):
            check(self)
        return self


def _labels(config: RunConfig) -> None:
    """What is for classes needs classes."""
    data, run = config.data, config.run
    if data.labels in ("classes", "any"):
        return
    if run.forecast != "none":
        raise ValueError(f"forecast = {run.forecast!r} is for classification, got the task {data.task}: drop it")
    if run.class_weights != "none":
        raise ValueError(f"class_weights = {run.class_weights!r}: the labels of {data.task} are {data.labels}; drop it")
    if data.labels == "numbers" and run.loss not in ("mse", "auto") and not is_reference(run.loss):
        raise ValueError(f"loss = {run.loss!r}: the labels of {data.task} are numbers, so its loss is mse")


def _tables(config: RunConfig) -> None:
    """Rates of tables need tables."""
    for key, there in (
        ("embedding_lr", config.model.has_embeddings),
        ("position_lr", config.model.has_positions),
    ):
        value, what = getattr(config.optimizer, key), key.removesuffix("_lr")
        if value != 1.0 and not there:
            raise ValueError(f"{key} = {value}: model {config.model.name!r} has no {what}s; drop it")
