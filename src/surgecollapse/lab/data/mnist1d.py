"""MNIST-1D: ten shapes in forty numbers, small enough for many runs and hard enough to tell methods apart."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.idx import MissingDataError

_TRAIN, _VALIDATION, _TEST = 4_000, 2_000, 8_000


@lru_cache(maxsize=1)
def mnist1d() -> Data:
    """MNIST-1D (Greydanus and Kobak, arXiv 2011.14439), generated with 14,000 samples instead of 5,000.

    The published generator with its published seed and settings: templates of ten digits, padded, shifted, sheared,
    with correlated noise, 40 values a sample. The set is the same for every seed of a run. The first 4,000 samples are
    for training, 2,000 for validation and 8,000 for the test. That makes the standard error of a test accuracy 0.5
    points. Made once a process (about 2 seconds).

    Raises:
        MissingDataError: without the package ``mnist1d``.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDataError("mnist1d needs its generator: pip install 'surgecollapse[data]'") from error
    settings: Any = get_dataset_args()
    settings.num_samples = _TRAIN + _VALIDATION + _TEST
    settings.train_split = 1.0
    then, numpy_then = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator seeds the global ones)
    try:
        with torch.random.fork_rng(devices=[]):
            made = make_dataset(settings)
    finally:
        random.setstate(then)
        np.random.set_state(numpy_then)  # noqa: NPY002
    x = torch.from_numpy(np.asarray(made["x"], dtype=np.float32)).unsqueeze(1)
    y = torch.from_numpy(np.asarray(made["y"], dtype=np.int64))
    ends = (_TRAIN, _TRAIN + _VALIDATION)
    return Data(
        name="mnist1d",
        kind="series",
        x_train=x[: ends[0]],
        y_train=y[: ends[0]],
        x_validation=x[ends[0] : ends[1]],
        y_validation=y[ends[0] : ends[1]],
        x_test=x[ends[1] :],
        y_test=y[ends[1] :],
        num_classes=10,
        description="ten digits as noisy curves of 40 values, 14,000 generated",
        source="the package mnist1d, seed 42",
    )
