"""Elec2: will the price of electricity rise? Half-hours of New South Wales, in time order."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.idx import MissingDataError

_FILES = ("electricity.csv", "elec.csv")
_LABELS = {"UP": 1, "DOWN": 0, "1": 1, "0": 0}
_HOW = (
    "pip download --no-deps --no-build-isolation scikit-multiflow==0.4.1 brings an archive; unpack it and pass "
    "--data-dir scikit-multiflow-0.4.1/src/skmultiflow/data/datasets, or a folder that holds electricity.csv, as river "
    "downloads it"
)


def elec2(data_dir: Path | None = None) -> tuple[Tensor, Tensor]:
    """45,312 half-hours with normalized prices and demands; 1 where the price is above its mean of the last 24 hours.

    Args:
        data_dir: folder of ``electricity.csv`` or ``elec.csv``: a header, numbers, and the class in the last column (UP
            and DOWN, or 1 and 0). The default is the copy in the package ``scikit-multiflow``.

    Returns:
        Features ``(n, d)`` in float32, labels ``(n,)``.

    Raises:
        ConfigError: if the file has another form.
        MissingDataError: if neither a file nor the package is there.

    Reference: Harries 1999, "Splice-2 comparative evaluation: Electricity pricing", University of New South Wales.
    """
    if data_dir is not None:
        folders = [data_dir]
    else:
        # The folder of the package, found without running it.
        spec = find_spec("skmultiflow")
        packaged = list(spec.submodule_search_locations or ()) if spec is not None else []
        folders = [Path(folder) / "data" / "datasets" for folder in packaged]
    for path in (folder / name for folder in folders for name in _FILES):
        if path.is_file():
            return _read(path)
    where = f"no {' or '.join(_FILES)} in {data_dir}" if data_dir is not None else "the file is missing"
    raise MissingDataError(f"elec2: {where}: {_HOW}")


def _read(path: Path) -> tuple[Tensor, Tensor]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows, None)
        try:
            x, y = [], []
            for *features, label in rows:
                x.append([float(feature) for feature in features])
                y.append(_LABELS[label.strip()])
            return torch.tensor(x), torch.tensor(y)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{path} has not numbers and a last column of UP and DOWN, or 1 and 0, in every row: {error!r}"
            ) from error
