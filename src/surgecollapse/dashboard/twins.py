"""Results of twins that lie beside a run, read as files that somebody else may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from surgecollapse.record.whole_files import read_plain

RESULT = "twin.json"
LARGEST = 2**24
"""Bytes of a result that are read."""
_MOST = 50


def twins_of(run: Path) -> list[dict[str, Any]]:
    """The results of twins of a run, newest first; what is damaged, too large or of another run is left out.

    Args:
        run: the run directory.
    """
    found: list[tuple[float, dict[str, Any]]] = []
    for path in sorted(run.parent.glob(f"*/{RESULT}"))[:_MOST]:
        try:
            if path.parent.is_symlink():
                continue
            changed = path.lstat().st_mtime
            said = json.loads(read_plain(path, LARGEST))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(said, dict) and isinstance(said.get("run"), str) and said.get("version") == 1:
            place = Path(os.path.normpath(path.parent / said["run"]))
            if place == Path(os.path.normpath(run)):
                found.append((changed, said | {"name": path.parent.name}))
    return [said for _, said in sorted(found, key=lambda pair: -pair[0])]
