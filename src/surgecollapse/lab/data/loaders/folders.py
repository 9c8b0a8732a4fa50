"""Where the parts of a data set lie in its folder, and which files are in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgecollapse.lab.data.idx import MissingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS: tuple[tuple[str, ...], ...] = (("train",), ("val", "validation", "valid"), ("test",))
"""Names of the folders or files of each part."""


def part_folders(data_dir: Path | None, task: str) -> list[Path]:
    """The folders ``train``, ``val`` (or ``validation``) and, if it is there, ``test``.

    Raises:
        MissingDataError: if no folder was given, or one of the first two is not in it.
    """
    root = _root(data_dir, task)
    found = [next((root / name for name in names if (root / name).is_dir()), None) for names in PARTS]
    for folder, names in zip(found[:2], PARTS, strict=False):
        if folder is None:
            raise MissingDataError(
                f"{task}: {root} has no folder {names[0]}: expected train, val and, if need be, test"
            )
    return [folder for folder in found if folder is not None]


def part_files(data_dir: Path | None, task: str, suffixes: Sequence[str]) -> list[list[Path]]:
    """The files of each part, by name: in folders ``train`` and ``val``, or beside each other as ``train-0001.tar``.

    Raises:
        MissingDataError: if there are none of ``train`` or ``val``.
    """
    root = _root(data_dir, task)
    parts: list[list[Path]] = []
    for names in PARTS:
        inside = [path for name in names for path in _of(root / name, "", suffixes)]
        beside = [path for name in names for path in _of(root, name, suffixes)]
        parts.append(inside or beside)
    for files, names in zip(parts[:2], PARTS, strict=False):
        if not files:
            raise MissingDataError(
                f"{task}: {root} has no {'/'.join(suffixes)} files of {names[0]}: expected a folder {names[0]}, "
                f"or as {names[0]}-0001{suffixes[0]}"
            )
    return [files for files in parts if files]


def _root(data_dir: Path | None, task: str) -> Path:
    if data_dir is None:
        raise MissingDataError(f"{task} needs --data-dir: the folder of its data")
    if not data_dir.is_dir():
        raise MissingDataError(f"{task}: no folder {data_dir}")
    return data_dir


def _of(folder: Path, start: str, suffixes: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith(start) and path.suffix in suffixes)
