"""The tasks by name. A new task is a new file in this package, with ``@task("its-name")``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from surgecollapse.lab.references import label
from surgecollapse.lab.section import Section
from surgecollapse.plugins import Registry, fitting, offered

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data

Preset = Mapping[str, Any]
Representation = Literal["tokens", "pairs"]
TEXT_LENGTH = "Reviews: words of each that are read; kjv and text: characters or tokens of a window."


class Task(Section):
    """The section ``data``: what is learned, and from which samples. A subclass has the keys of one task."""

    preset: ClassVar[Preset] = {}
    """Keys of any section that make the task just work, on one thread of a small machine in a minute or two."""
    labels: ClassVar[Literal["classes", "characters", "numbers", "any"]] = "classes"
    """What the labels are: most losses and forecasts are for classes. ``any``: only the data themselves say."""
    draws_samples: ClassVar[bool] = False
    """Whether ``load`` takes no more than ``train_samples`` itself."""

    task: str = Field(description="What is learned.")
    data_dir: Path | None = Field(
        None, description="Folder with the data files of mnist, fashion-mnist, imdb and qm9; text file of kjv."
    )
    train_samples: int | None = Field(None, ge=1, description="Use only that many training samples, drawn at random.")

    @property
    def label(self) -> str:
        """What the task is called in titles and names of folders."""
        return label(self.task)

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets; the same arguments give the same tensors.

        Args:
            seed: of the split and of generated data.
            representation: of modular arithmetic: ``tokens`` ``x op y =``, or ``pairs``, two one-hots side by side.

        Raises:
            ConfigError: for a setting that leaves a set empty.
            MissingDataError: if files or packages are missing, with how to get them.
        """
        raise NotImplementedError


class ClassTask(Task):
    """A task of classification."""

    label_noise: float = Field(0.0, ge=0, le=1, description="Share of training labels replaced by another class.")


class StreamedTask(Task):
    """A task whose samples are read while the run trains."""

    labels: ClassVar[Literal["classes", "characters", "numbers", "any"]] = "any"
    workers: int = Field(0, ge=0, le=256, description="Processes that read samples ahead; 0 reads in the run's own.")
    max_bad: int = Field(
        0, ge=0, description="Samples that may be missing or damaged: each is named, counted and skipped."
    )
    validation_samples: int | None = Field(
        None, ge=1, description="Evaluate on that many held-out samples, evenly spaced, until the end; default: all."
    )


class EnumeratedTask(ClassTask):
    """A task with a fixed number of samples, of which a share is for training."""

    train_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the samples for training in modular, permutations and parity; the rest is halved.",
    )


task: Registry[type[Task]] = Registry("tasks", "task", "surgecollapse.lab.tasks")
"""Decorator that gives a task its name, and the mapping of all named ones."""
TASKS = task
"""The tasks that have a name, in files and on the command line."""


class OfferedTask(ClassTask):
    """A task that another package offers; it has no keys of its own."""

    def load(self, seed: int, representation: Representation) -> Data:
        """Call what the package offers.

        Raises:
            TypeError: if it gives no :class:`~surgecollapse.lab.data.dataset.Data`.
        """
        from surgecollapse.lab.data.dataset import Data

        del representation
        found = TASKS.find(self.task)(seed, self.data_dir)
        data: Data = fitting("tasks", self.task, found, lambda data: isinstance(data, Data))
        return data


def is_offered(name: str) -> bool:
    """Whether another package offers this task."""
    return name in offered("tasks")
