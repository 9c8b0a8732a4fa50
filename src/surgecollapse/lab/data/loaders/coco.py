"""COCO (Lin et al. 2014, arXiv 1405.0312): pictures with the boxes of their objects, or with captions."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.loaders.pictures import opened, squeezed, with_changes

if TYPE_CHECKING:
    from torch import Tensor

PAD = 256
"""What follows the bytes of a caption."""
NOTHING = -1.0
"""Class and box that fill the rows after the last object."""


def annotation_files(data_dir: Path | None, task: str, kind: str) -> list[tuple[Path, Path]]:
    """Annotations and folder of pictures of training and validation, as ``annotations/instances_train2017.json``.

    Args:
        data_dir: folder of COCO.
        task: for errors.
        kind: ``instances`` or ``captions``.

    Raises:
        MissingDataError: if one of them is not there.
    """
    if data_dir is None or not data_dir.is_dir():
        raise MissingDataError(f"{task} needs --data-dir: the folder of COCO, with annotations, train2017 and val2017")
    found = []
    for part in ("train", "val"):
        files = sorted((data_dir / "annotations").glob(f"{kind}_{part}*.json"))
        if not files:
            raise MissingDataError(f"{task}: {data_dir} has no annotations/{kind}_{part}*.json")
        folder = data_dir / files[-1].stem.removeprefix(f"{kind}_")
        if not folder.is_dir():
            raise MissingDataError(f"{task}: no folder {folder} with the pictures of {files[-1].name}")
        found.append((files[-1], folder))
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: content[name] for name in ("images", "annotations")} | {
            "categories": content.get("categories", [])
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is not a file of COCO annotations ({error}): expected images, annotations"
        ) from error


class _Annotated:
    """Pictures by number, with what is said of them."""

    def __init__(self, content: dict[str, Any], folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        said: dict[int, list[Any]] = defaultdict(list)
        for one in content["annotations"]:
            said[one["image_id"]].append(one)
        self._images = [(image, said[image["id"]]) for image in content["images"] if said[image["id"]]]

    def __len__(self) -> int:
        return len(self._images)

    def name_of(self, index: int) -> str:
        """The file of a sample."""
        return str(self._folder / self._images[index][0]["file_name"])

    def _picture(self, index: int) -> Tensor:
        return squeezed(opened(Path(self.name_of(index))), self._size)


class Detection(_Annotated):
    """Pictures and the boxes of their objects, the largest first; crowds and pictures without objects are left out.

    A label has one row for each object: its class, counted from 0 in the order of the categories' ids, and center,
    width and height of its box as shares of the picture's sides. Rows of −1 follow.

    Args:
        file: ``instances_train2017.json``.
        folder: of the pictures.
        size: both sides of a picture.
        objects: rows of a label; of pictures with more, the smallest are left out.
    """

    def __init__(self, file: Path, folder: Path, size: int, objects: int) -> None:
        content = _read(file)
        content["annotations"] = [one for one in content["annotations"] if not one.get("iscrowd")]
        super().__init__(content, folder, size)
        self.categories = {one["id"]: i for i, one in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
        self._objects = objects

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, said = self._images[index]
        wide, high = image["width"], image["height"]
        label = torch.full((self._objects, 5), NOTHING)
        largest = sorted(said, key=lambda one: -one["bbox"][2] * one["bbox"][3])[: self._objects]
        for row, one in enumerate(largest):
            left, top, width, height = one["bbox"]
            box = ((left + width / 2) / wide, (top + height / 2) / high, width / wide, height / high)
            label[row] = torch.tensor((self.categories[one["category_id"]], *box))
        return self._picture(index), label


class Captions(_Annotated):
    """Pictures and one of their captions as the bytes of its UTF-8 text, then 256.

    Args:
        file: ``captions_train2017.json``.
        folder: of the pictures.
        size: both sides of a picture.
        length: bytes of a label; longer captions are cut.
        augment: one of the captions at random, instead of the first.
    """

    num_classes = PAD + 1

    def __init__(self, file: Path, folder: Path, size: int, length: int, *, augment: bool) -> None:
        super().__init__(_read(file), folder, size)
        self._length, self._augment = length, augment

    @property
    def plain(self) -> Captions:
        """The same with the first caption of each picture."""
        return with_changes(self, _augment=False)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        said = self._images[index][1]
        chosen = int(torch.randint(len(said), ())) if self._augment else 0
        text = said[chosen]["caption"].strip().encode()[: self._length]
        label = torch.full((self._length,), PAD)
        label[: len(text)] = torch.tensor(list(text))
        return self._picture(index), label
