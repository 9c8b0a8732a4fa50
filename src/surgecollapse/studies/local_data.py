"""Where a person keeps data files, for studies whose data no package holds here."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SURGECOLLAPSE_DATA"
"""Environment variable with a folder of data files; processes of a study inherit it, and rows do not depend on it."""


def data_dir() -> Path | None:
    """The folder that ``surgecollapse study --data-dir`` or the variable names."""
    return Path(named) if (named := os.environ.get(VARIABLE)) else None
