"""What people note about a run: a title, tags, a text, whether it is archived; and how a run is thrown away.

The notes lie in ``notes.json`` in the run's folder, beside the record, which they never change. Runs that are deleted
go to ``.trash`` in the folder of runs, from where a person may move them back.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from surgecollapse.record.whole_files import read_plain, write_whole

if TYPE_CHECKING:
    from pathlib import Path

NOTES = "notes.json"
TRASH = ".trash"
_LARGEST = 65_536
_TITLE, _TEXT, _TAG, _TAGS = 120, 8_000, 40, 20


def read_notes(folder: Path) -> dict[str, Any]:
    """The notes of a run: ``title``, ``tags``, ``text``, ``archived``; without what is missing or damaged.

    Args:
        folder: of the run.
    """
    try:
        found = json.loads(read_plain(folder / NOTES, _LARGEST).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    kept: dict[str, Any] = {}
    for name, value in found.items():
        try:
            kept |= checked_notes({name: value})
        except ValueError:
            continue
    return kept


def checked_notes(given: dict[str, Any]) -> dict[str, Any]:
    """The notes as they are kept.

    Raises:
        ValueError: if a name is unknown, or a value is too long or of another type.

    >>> checked_notes({"tags": ["best", " best", "paper"], "archived": True})
    {'tags': ['best', 'paper'], 'archived': True}
    """
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if name == "tags":
            if not isinstance(value, list) or len(value) > _TAGS:
                raise ValueError(f"tags must be a list of at most {_TAGS} words")
            kept[name] = list(dict.fromkeys(filter(None, (_words("tag", tag, _TAG) for tag in value))))
        elif name == "archived":
            if not isinstance(value, bool):
                raise ValueError(f"archived must be true or false, got {value!r}"[:200])
            kept[name] = value
        elif name in ("title", "text"):
            kept[name] = _words(name, value, _TITLE if name == "title" else _TEXT)
        else:
            raise ValueError(f"unknown note {name[:40]!r}: expected title, tags, text, archived")
    return kept


def _words(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name} must be text of at most {most} characters")
    return value.encode(errors="replace").decode().strip()


def write_notes(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Change some notes of a run and return all.

    Args:
        folder: of the run.
        given: the notes that change.

    Raises:
        ValueError: if one cannot be kept, or ``notes.json`` is a link.
        OSError: if the folder cannot be written.
    """
    if (folder / NOTES).is_symlink():
        raise ValueError(f"{NOTES} is a link: remove it, then note again")
    kept = {name: value for name, value in (read_notes(folder) | checked_notes(given)).items() if value}
    write_whole(folder / NOTES, json.dumps(kept, indent=1) + "\n")
    return kept


def throw_away(folder: Path, root: Path) -> Path:
    """Move a run that nobody trains to the trash folder, and return where it is now.

    Args:
        folder: of the run.
        root: the folder of runs; the trash is there.

    Raises:
        ValueError: if the run is the folder of runs itself, a link, or trains.
        OSError: if it cannot be moved.
    """
    inside = folder.resolve()
    if inside == root.resolve() or not inside.is_relative_to(root.resolve()):
        raise ValueError(f"{folder.name} is the folder that is watched: watch the folder above it to delete this run")
    if folder.is_symlink():
        raise ValueError(f"{folder.name} is a link: remove the link itself")
    if is_held(folder):
        raise ValueError(f"{folder.name} still trains: stop it first")
    trash = root / TRASH
    if trash.is_symlink():
        raise ValueError(f"{TRASH} is a link: remove it first")
    trash.mkdir(exist_ok=True)
    name = "-".join(folder.relative_to(root).parts)
    place = trash / name
    number = 1
    while place.exists() or place.is_symlink():
        number += 1
        place = trash / f"{name}-{number}"
    shutil.move(str(folder), str(place))
    note = f"{time.strftime('%Y-%m-%d %H:%M:%S')} from {folder.relative_to(root)}\n"
    (place / "thrown-away.txt").write_text(note, encoding="utf-8")
    return place


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a run's folder, which it does for as long as it trains there."""
    from filelock import FileLock, Timeout

    place = folder / "run.lock"
    if not place.is_file():
        return False
    try:
        with FileLock(place).acquire(timeout=0):
            return False
    except Timeout:
        return True
