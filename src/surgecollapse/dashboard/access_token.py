"""The token of a folder's page, kept so that the page's address outlives its server."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

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
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "surgecollapse" / "watch"
    drawn = secrets.token_urlsafe(24)
    if not hasattr(os, "getuid"):
        return drawn  # no rights that would tell whose the file is
    try:
        return _read(folder / name) or _write(folder, name, drawn)
    except OSError:
        return drawn


def _read(path: Path) -> str:
    """What the file says, or nothing if it is not to be believed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(file, encoding="ascii", errors="replace") as text:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            return ""
        found = text.read(100).strip()
    return found if _FORM.fullmatch(found) else ""


def _write(folder: Path, name: str, token: str) -> str:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = folder / f"{name}.{os.getpid()}"
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as text:
        text.write(token + "\n")
    beside.replace(folder / name)
    return token
