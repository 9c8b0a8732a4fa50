"""Pictures in one folder for each class, as ImageNet has them: ``train/n01440764/n01440764_10026.JPEG``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.loaders.pictures import centered, cropped, opened, with_changes

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class ImageFolder:
    """The pictures of one part.

    Args:
        folder: has one folder for each class.
        size: side of the squares that are cut.
        augment: cut at random and mirror, instead of the center.
        classes: names of the class folders; by default all that are there.

    Raises:
        ConfigError: if there are no class folders, an empty one, or others than ``classes``.
    """

    def __init__(self, folder: Path, size: int, *, augment: bool, classes: tuple[str, ...] | None = None) -> None:
        there = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        if not there:
            raise ConfigError(f"{folder} has no folders: expected one for each class, with its pictures")
        unknown = sorted(set(there) - set(classes or there))
        if unknown:
            raise ConfigError(f"{folder} has classes that the training data lack: {', '.join(unknown[:3])}")
        self.classes = classes or there
        self._folder, self._size, self._augment = folder, size, augment
        self._files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            place = folder / name
            names = sorted(os.listdir(place)) if place.is_dir() else []
            files = [f"{name}/{file}" for file in names if os.path.splitext(file)[1].lower() in SUFFIXES]
            if not files and classes is None:
                raise ConfigError(f"{place} has no pictures ({', '.join(SUFFIXES)}): add some, or remove the folder")
            self._files += files
            labels += [label] * len(files)
        self._labels = torch.tensor(labels, dtype=torch.int64)

    @property
    def plain(self) -> ImageFolder:
        """The same without augmentation."""
        return with_changes(self, _augment=False)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = opened(self._folder / self._files[index])
        cut = cropped if self._augment else centered
        return cut(picture, self._size), self._labels[index]

    def name_of(self, index: int) -> str:
        """The file of a sample."""
        return str(self._folder / self._files[index])
