"""The section ``data``: what is learned, and from which samples. The task decides which keys there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator

from surgecollapse.errors import unknown
from surgecollapse.lab.config.experiments import experiments
from surgecollapse.lab.config.section import Section
from surgecollapse.plugins import offered


class AnyData(Section):
    """What every task has."""

    labels: ClassVar[Literal["classes", "characters", "numbers"]] = "classes"
    """What the labels are: most losses and forecasts are for classes."""

    task: str = Field(description="What is learned.")
    data_dir: Path | None = Field(
        None, description="Folder with the data files of mnist, fashion-mnist, imdb and qm9; text file of kjv."
    )
    train_samples: int | None = Field(None, ge=1, description="Use only that many training samples, drawn at random.")


class ClassData(AnyData):
    """Tasks of classification."""

    label_noise: float = Field(0.0, ge=0, le=1, description="Share of training labels replaced by another class.")


class ImageData(ClassData):
    """Images from files."""

    task: Literal["digits", "mnist5k", "mnist", "fashion-mnist"] = Field(description="What is learned.")
    standardize: bool = Field(
        True, description="Image files: subtract the training mean and divide by the deviation; else 0 to 1."
    )


class SeriesData(ClassData):
    """MNIST-1D (Greydanus and Kobak, arXiv 2011.14439)."""

    task: Literal["mnist1d"] = Field(description="What is learned.")


class _Enumerated(ClassData):
    train_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the samples for training in modular and parity; the rest is halved.",
    )


class ModularData(_Enumerated):
    """x ∘ y mod p over all pairs."""

    task: Literal["modular"] = Field(description="What is learned.")
    operation: Literal["add", "sub", "mul", "div"] = Field("add", description="Modular arithmetic: which operation.")
    modulus: int = Field(97, ge=2, le=10_000, description="Modular arithmetic: the modulus.")


class ParityData(_Enumerated):
    """Parity of a few bits among irrelevant ones."""

    task: Literal["parity"] = Field(description="What is learned.")
    parity_bits: int = Field(3, ge=1, description="Sparse parity: relevant bits.")
    noise_bits: int = Field(40, ge=0, description="Sparse parity: irrelevant bits.")


class DummyData(ClassData):
    """Generated clusters."""

    task: Literal["dummy"] = Field(description="What is learned.")
    noise: float = Field(
        2.5, ge=0, allow_inf_nan=False, description="Dummy data: standard deviation of the noise on the inputs."
    )


_LENGTH = "Reviews: words of each that are read; kjv: characters of a window."


class ReviewData(ClassData):
    """Film reviews (IMDb), good or bad."""

    task: Literal["imdb"] = Field(description="What is learned.")
    vocabulary: int = Field(1_000, ge=1, le=1_000_000, description="Reviews: most frequent words that are known.")
    text_length: int = Field(500, ge=1, le=100_000, description=_LENGTH)
    drop_stop_words: bool = Field(
        False, description="Reviews: read known words alone, and no stop words; else unknown ones have a number, too."
    )


class VerseData(AnyData):
    """The next character of the King James text."""

    labels = "characters"
    task: Literal["kjv"] = Field(description="What is learned.")
    text_length: int = Field(500, ge=1, le=100_000, description=_LENGTH)


class MoleculeData(AnyData):
    """Isotropic polarizability of molecules (QM9)."""

    labels = "numbers"
    task: Literal["qm9"] = Field(description="What is learned.")
    qm9_first_molecules: bool = Field(
        False, description="Molecules: train and validate on the first of the files, the smallest."
    )


class OfferedData(ClassData):
    """A task that another package offers; it has no keys of its own."""

    @field_validator("task")
    @classmethod
    def _is_offered(cls, task: str) -> str:
        if not is_offered(task):
            raise ValueError(unknown("task", task, [*task_names(), *experiments()]))
        return task


OWN = (ImageData, SeriesData, ModularData, ParityData, ReviewData, VerseData, MoleculeData, DummyData)
"""The kinds of data that are the library's own."""


def kind_of(task: Any) -> type[AnyData]:
    """The section that a task has.

    >>> kind_of("kjv").__name__, kind_of("mine").__name__
    ('VerseData', 'OfferedData')
    """
    return next((kind for kind in OWN if task in get_args(kind.model_fields["task"].annotation)), OfferedData)


def is_offered(task: str) -> bool:
    """Whether another package offers this task."""
    return task in offered("tasks")


def task_names() -> list[str]:
    """All tasks, those of the library first."""
    from surgecollapse.lab.config.presets import TASK_PRESETS

    return [*TASK_PRESETS, *offered("tasks")]


def _tag(given: Any) -> str:
    return kind_of(given.get("task") if isinstance(given, dict) else given.task).__name__


Data = Annotated[
    Annotated[ImageData, Tag("ImageData")]
    | Annotated[SeriesData, Tag("SeriesData")]
    | Annotated[ModularData, Tag("ModularData")]
    | Annotated[ParityData, Tag("ParityData")]
    | Annotated[ReviewData, Tag("ReviewData")]
    | Annotated[VerseData, Tag("VerseData")]
    | Annotated[MoleculeData, Tag("MoleculeData")]
    | Annotated[DummyData, Tag("DummyData")]
    | Annotated[OfferedData, Tag("OfferedData")],
    Discriminator(_tag),
]
