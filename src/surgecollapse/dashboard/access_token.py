"""The token of a folder's page, kept so that the page's address outlives its server; files for one user alone."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from surgecollapse.record.whole_files import write_whole

_MOST = 2**16
_FORM = re.compile(r"[A-Za-z0-9_-]{32}")


def kept_token(root: Path) -> str:
    """The token of a folder of runs: the one that its last server had, or a new one.

    It lies in the user's state folder (``$XDG_STATE_HOME/surgecollapse/watch``, by default below ``~/.local/state``)
    rather than beside the runs, which people copy and publish. A file that belongs to somebody else, that others may
    read, or that is a link is not believed but replaced. Where nothing can be kept, each server draws its own.

    Args:
        root: the folder of runs.
    """
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    folder, drawn = state_folder("watch"), secrets.token_urlsafe(24)
    if not hasattr(os, "getuid"):
        return drawn  # no rights that would tell whose the file is
    try:
        found = read_private(folder / name).strip()
        if not _FORM.fullmatch(found):
            found = drawn
            write_private(folder / name, found + "\n")
        return found
    except OSError:
        return drawn


def state_folder(name: str) -> Path:
    """Where this user's programs keep what is not for others, by kind."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "surgecollapse" / name


def read_private(path: Path) -> str:
    """What a small file says, or nothing if another user could have written or read it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(file, encoding="ascii", errors="replace") as text:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            return ""
        return text.read(_MOST)


def write_private(path: Path, content: str) -> None:
    """Write a file that only this user can read, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, content, rights=0o600)
