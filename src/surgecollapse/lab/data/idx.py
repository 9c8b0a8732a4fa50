"""IDX files, the format of MNIST and Fashion-MNIST: where they lie, and a strict reader."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08
_FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw", "package/data", "data")
_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class MissingDataError(FileNotFoundError):
    """Data that a task needs is not on this machine; says what is missing and how to get it."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped or not (told from its content, not from its name).

    The format: two zero bytes, the type (0x08), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values in C order.

    Args:
        path: the file.

    Returns:
        A new array of the dimensions that the file states.

    Raises:
        ValueError: if the file is cut short, too long, not gzip though it says so, or of another type.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}): fetch it again") from error
    if len(content) < 4 or content[:2] != b"\x00\x00":
        raise ValueError(f"{path} is no IDX file: expected two zero bytes first, got {content[:4].hex() or 'nothing'}")
    kind, rank = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"{path} holds IDX type 0x{kind:02x}: expected 0x08 (unsigned bytes)")
    start = 4 + 4 * rank
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4")) if len(content) >= start else ()
    expected = start + math.prod(shape)
    if rank == 0 or len(shape) != rank or len(content) != expected:
        raise ValueError(f"{path} states shape {shape}: expected {expected} bytes, got {len(content)}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def read_four(folders: Sequence[Path], *, what: str, how: str) -> list[NDArray[np.uint8]]:
    """Find and read the four files of an MNIST-like data set.

    Args:
        folders: where to look; in each also the layouts ``raw``, ``MNIST/raw``, ``FashionMNIST/raw``,
            ``data`` and ``package/data``. Files may be named ``train-images-idx3-ubyte`` or
            ``train-images.idx3-ubyte``, with or without ``.gz``.
        what: name of the data set, for errors.
        how: how to get it, for errors.

    Returns:
        Training images (n, h, w) and labels (n,), test images and labels.

    Raises:
        MissingDataError: if no folder holds all four.
        ValueError: if a file is damaged or images and labels do not correspond.
    """
    best: list[str] = list(_PARTS)
    for folder in [root / sub for root in folders for sub in _FOLDERS]:
        found = {part: path for part in _PARTS for path in _spellings(folder, part) if path.is_file()}
        missing = [part for part in _PARTS if part not in found]
        if not missing:
            arrays = [read_idx(found[part]) for part in _PARTS]
            _check_pairs(arrays, folder)
            return arrays
        best = min(best, missing, key=len)
    places = ", ".join(str(folder) for folder in folders) or "nowhere: no --data-dir given"
    raise MissingDataError(f"{what} needs {', '.join(f'{part}-ubyte' for part in best)}; looked in {places}. {how}")


def _spellings(folder: Path, part: str) -> list[Path]:
    dotted = part.replace("-idx", ".idx")
    return [folder / f"{name}-ubyte{end}" for end in (".gz", "") for name in (dotted, part)]


def _check_pairs(arrays: list[NDArray[np.uint8]], folder: Path) -> None:
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"the files in {folder} do not correspond: images {images.shape}, "
                f"labels {labels.shape}; fetch them again"
            )
