"""COCO (Lin et al. 2014, arXiv 1405.0312): pictures with the boxes of their objects, or with captions."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.errors import ConfigError, counted
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.loaders.pictures import opened, squeezed, with_changes

if TYPE_CHECKING:
    from torch import Tensor

PAD = 256
"""What follows the bytes of a caption."""
_NEEDED: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int},
    "categories": {"id": int},
}
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


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a file of annotations, each entry a table with what it cannot lack.

    Raises:
        ConfigError: if it is another file, or names the first wrong entry.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not a file of COCO annotations ({error}): expected JSON") from error
    lists = content if isinstance(content, dict) else {}
    lists = {"categories": [], **lists}
    wrong = [name for name in _NEEDED if not isinstance(lists.get(name), list)]
    if wrong:
        raise ConfigError(f"{file} is not a file of COCO annotations: it has no list of {' and of '.join(wrong)}")
    for name, needed in _NEEDED.items():
        for number, one in enumerate(lists[name]):
            if not isinstance(one, dict) or not all(isinstance(one.get(key), kind) for key, kind in needed.items()):
                kinds = ", ".join(f"{key} ({'a name' if kind is str else 'a number'})" for key, kind in needed.items())
                raise ConfigError(f"{file}: {name}[{number}] is {str(one)[:80]}: expected a table with {kinds}")
    for number, one in enumerate(lists["images"]):
        path = PurePosixPath(one["file_name"])
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"{file}: images[{number}] lies outside of the folder: {one['file_name']!r}")
    known = {one["id"] for one in lists["images"]}
    lost = [number for number, one in enumerate(lists["annotations"]) if one["image_id"] not in known]
    if lost:
        image = lists["annotations"][lost[0]]["image_id"]
        raise ConfigError(
            f"{file}: {counted(len(lost), 'annotation')} of pictures that are not in it, first annotations[{lost[0]}] "
            f"of image {image}: remove them, or add the images"
        )
    return {name: lists[name] for name in _NEEDED}


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


def _are_numbers(values: Any, count: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    good = isinstance(values, list) and len(values) == count
    return good and all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _is_flat(box: Any) -> bool:
    return _are_numbers(box, 4) and min(box[2:]) <= 0


class Detection(_Annotated):
    """Pictures and the boxes of their objects, the largest first.

    Left out are crowds, boxes without area (COCO has a few), and pictures without objects. A picture with a box that is
    not four finite numbers, or of an unknown category, is damaged.

    A label has one row for each object. It begins with its class, counted from 0 in the order of the categories' ids.
    Center, width and height of its box follow, as shares of the picture's sides. Rows of −1 follow.

    Args:
        file: ``instances_train2017.json``.
        folder: of the pictures.
        size: both sides of a picture.
        objects: rows of a label; of pictures with more, the smallest are left out.
    """

    def __init__(self, file: Path, folder: Path, size: int, objects: int) -> None:
        content = _read(file)
        content["annotations"] = [
            one for one in content["annotations"] if not one.get("iscrowd") and not _is_flat(one.get("bbox"))
        ]
        super().__init__(content, folder, size)
        if not content["categories"]:
            raise ConfigError(f"{file} has no categories: they are the classes of the objects")
        self.categories = {one["id"]: i for i, one in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
        self._objects = objects

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, said = self._images[index]
        wide, high = image.get("width"), image.get("height")
        if not _are_numbers([wide, high], 2) or min(wide, high) <= 0:
            raise ValueError(
                f"its width and height in the annotations are {wide!r} and {high!r}: expected numbers above 0"
            )
        for one in said:
            if not _are_numbers(one.get("bbox"), 4):
                raise ValueError(f"an object has the box {one.get('bbox')!r}: expected left, top, width and height")
            if one.get("category_id") not in self.categories:
                raise ValueError(f"an object has the category {one.get('category_id')!r}, which the file does not have")
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
        caption = said[chosen].get("caption")
        if not isinstance(caption, str):
            raise ValueError(f"its caption is {caption!r}: expected a text")
        text = caption.strip().encode(errors="replace")[: self._length]
        label = torch.full((self._length,), PAD)
        label[: len(text)] = torch.tensor(list(text))
        return self._picture(index), label
