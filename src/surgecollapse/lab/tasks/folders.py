"""Large data sets in folders of their own formats, given by ``data_dir``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import TEXT_LENGTH, StreamedTask, task

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.data.streamed import BadSamples
    from surgecollapse.lab.tasks.registry import Preset, Representation

_PICTURES = {"model": "cnn", "widths": (32, 64), "batch_size": 64, "schedule": "cosine", "loss": "auto"}


class _InFolders(StreamedTask):
    """A task whose parts are sources."""

    def _parts(self, bad: BadSamples) -> list[Any]:
        raise NotImplementedError

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets, of which all but a few rows stay on disk."""
        from surgecollapse.lab.data.own import from_parts
        from surgecollapse.lab.data.streamed import BadSamples

        del representation
        bad = BadSamples(self.max_bad)
        return from_parts(
            self._parts(bad),
            self.task,
            str(self.data_dir),
            seed,
            bad,
            workers=self.workers,
            held=self.validation_samples,
        )


class _Pictures(_InFolders):
    preset: ClassVar[Preset] = _PICTURES

    image_size: int = Field(224, ge=1, le=10_000, description="Pictures: side of the squares that the model reads.")
    augment: bool = Field(
        True, description="Pictures: cut training samples at random and mirror half of them, instead of their center."
    )


@task("image-folder")
class ImageFolders(_Pictures):
    """Pictures in one folder for each class, as ImageNet has them."""

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.folders import part_folders
        from surgecollapse.lab.data.loaders.image_folder import ImageFolder

        del bad
        first, *others = part_folders(self.data_dir, self.task)
        train = ImageFolder(first, self.image_size, augment=self.augment)
        held = [ImageFolder(place, self.image_size, augment=False, classes=train.classes) for place in others]
        return [train, *held]


class _Shards(_Pictures):
    """Files that do not say how many classes there are."""

    classes: int | None = Field(
        None, ge=2, le=10_000_000, description="Shards: number of classes, which models of the library must know."
    )

    def _counted(self, parts: list[Any]) -> list[Any]:
        for part in parts:
            part.num_classes = self.classes
        return parts


@task("webdataset")
class WebDatasets(_Shards):
    """WebDataset shards: tar files of pictures or arrays, and their labels."""

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.webdataset import WebDataset

        return self._counted(
            _of_files(self, (".tar",), lambda files, train: WebDataset(files, bad, size=self.image_size, augment=train))
        )


@task("parquet")
class ParquetShards(_Shards):
    """Parquet shards of numbers, lists of numbers or encoded pictures."""

    input_column: str = Field("image", description="Parquet: column of the inputs.")
    label_column: str = Field("label", description="Parquet: column of the labels.")

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.parquet import Parquet

        columns = (self.input_column, self.label_column)
        return self._counted(
            _of_files(
                self,
                (".parquet",),
                lambda files, train: Parquet(files, columns, bad, size=self.image_size, augment=train),
            )
        )


def _of_files(task: _Pictures, suffixes: tuple[str, ...], make: Callable[[Any, bool], Any]) -> list[Any]:
    from surgecollapse.lab.data.loaders.folders import part_files

    parts = part_files(task.data_dir, task.task, suffixes)
    return [make(files, task.augment and number == 0) for number, files in enumerate(parts)]


@task("coco-detection")
class COCODetection(_InFolders):
    """Pictures and the boxes of their objects; the loss is the user's own."""

    preset: ClassVar[Preset] = _PICTURES
    image_size: int = Field(224, ge=1, le=10_000, description="Pictures: side of the squares that the model reads.")
    most_objects: int = Field(100, ge=1, le=10_000, description="Detection: objects of a label, the largest first.")

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.coco import Detection, annotation_files

        del bad
        places = annotation_files(self.data_dir, self.task, "instances")
        train, held = (Detection(file, folder, self.image_size, self.most_objects) for file, folder in places)
        if held.categories != train.categories:
            from surgecollapse.errors import ConfigError

            raise ConfigError(f"{places[1][0]} has other categories than {places[0][0].name}: classes are their order")
        return [train, held]


@task("coco-captions")
class COCOCaptions(_Pictures):
    """Pictures and their captions as bytes."""

    text_length: int = Field(128, ge=1, le=100_000, description=TEXT_LENGTH)

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.coco import Captions, annotation_files

        del bad
        places = annotation_files(self.data_dir, self.task, "captions")
        size, length = self.image_size, self.text_length
        return [
            Captions(file, folder, size, length, augment=self.augment and number == 0)
            for number, (file, folder) in enumerate(places)
        ]


@task("text-files")
class TextFiles(_InFolders):
    """The next byte of text files."""

    preset: ClassVar[Preset] = {
        "model": "gpt",
        "widths": (128, 512),
        "activation": "gelu",
        "batch_size": 16,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 50,
        "clip": 1.0,
    }
    labels = "characters"

    text_length: int = Field(128, ge=1, le=100_000, description=TEXT_LENGTH)

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.folders import part_files
        from surgecollapse.lab.data.loaders.tokens import BYTES, Tokens

        del bad
        return [Tokens(files, self.text_length, BYTES) for files in part_files(self.data_dir, self.task, (".txt",))]


@task("token-files")
class TokenFiles(_InFolders):
    """The next token of files of tokens."""

    preset: ClassVar[Preset] = TextFiles.preset
    labels = "characters"

    text_length: int = Field(128, ge=1, le=100_000, description=TEXT_LENGTH)
    vocab_size: int = Field(50_257, ge=2, le=10_000_000, description="Token files: number of different tokens.")

    def _parts(self, bad: BadSamples) -> list[Any]:
        from surgecollapse.lab.data.loaders.folders import part_files
        from surgecollapse.lab.data.loaders.tokens import Tokens

        del bad
        parts = part_files(self.data_dir, self.task, (".bin", ".npy"))
        return [Tokens(files, self.text_length, self.vocab_size) for files in parts]
