"""Decoding of image files by Pillow."""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

Source = TypeVar("Source")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet, red, green and blue: the usual constants of its classifiers."""
_MARGIN = 256 / 224
"""Shorter side of a picture before its center is cut, over the side of the cut (He et al. 2015, arXiv 1512.03385)."""
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def opened(source: Path | bytes) -> Any:
    """A decoded picture in red, green and blue.

    Raises:
        OSError: if the file is missing, truncated or no picture.
        ValueError: if its content is damaged.
        ModuleNotFoundError: without Pillow.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return picture.convert("RGB")
    except UnidentifiedImageError as error:
        raise OSError("not a picture that can be read") from error
    except (SyntaxError, Image.DecompressionBombError) as error:  # damaged PNGs; sizes that no picture has
        raise ValueError(str(error)) from error


def centered(picture: Any, size: int) -> Tensor:
    """The center of a picture: its shorter side made 256/224 of ``size``, and a square cut out.

    Returns:
        float32 (3, size, size), standardized.
    """
    width, height = picture.size
    scale = size * _MARGIN / min(width, height)
    side = size / scale
    left, top = (width - side) / 2, (height - side) / 2
    return as_tensor(_resized(picture, size, (left, top, left + side, top + side)))


def cropped(picture: Any, size: int) -> Tensor:
    """A random part of a picture, mirrored half of the time (Szegedy et al. 2014, arXiv 1409.4842).

    Its area is 8 to 100% of the picture's, its aspect ratio 3/4 to 4/3; drawn from torch's global generator.

    Returns:
        float32 (3, size, size), standardized.
    """
    width, height = picture.size
    box: tuple[float, float, float, float] = (0.0, 0.0, width, height)
    for _ in range(_TRIES):
        draws = torch.rand(4).tolist()
        area = width * height * (_AREA[0] + draws[0] * (_AREA[1] - _AREA[0]))
        ratio = float(np.exp(np.log(_RATIO[0]) + draws[1] * (np.log(_RATIO[1]) - np.log(_RATIO[0]))))
        wide, high = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if wide <= width and high <= height:
            left, top = draws[2] * (width - wide), draws[3] * (height - high)
            box = (left, top, left + wide, top + high)
            break
    found = as_tensor(_resized(picture, size, box))
    return found.flip(-1) if torch.rand(()).item() < 0.5 else found


def squeezed(picture: Any, size: int) -> Tensor:
    """The whole picture, both sides made ``size``: boxes in shares of the sides stay what they are.

    Returns:
        float32 (3, size, size), standardized.
    """
    return as_tensor(_resized(picture, size, (0.0, 0.0, *picture.size)))


def as_tensor(picture: Any) -> Tensor:
    """Pixels as float32 (3, height, width), less their mean, over their deviation."""
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)
    return pixels.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(DEVIATION)[:, None, None]).contiguous()


def with_changes(source: Source, **attributes: Any) -> Source:
    """The same source with other attributes; its files are not listed again."""
    other = copy.copy(source)
    vars(other).update(attributes)
    return other


def _resized(picture: Any, size: int, box: tuple[float, float, float, float]) -> Any:
    from PIL import Image

    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
