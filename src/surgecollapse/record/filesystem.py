"""Which file systems can hold a write-ahead log that several processes share, and ways from folder to folder."""

from __future__ import annotations

import os
from pathlib import Path

_SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"}
)


def is_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether ``path`` lies on a network file system, as far as the mount table tells.

    SQLite's write-ahead log keeps its index in shared memory and is unsafe across hosts
    (https://www.sqlite.org/wal.html). Such a place takes a rollback journal instead.

    Args:
        path: a file or folder; it need not exist.
        mounts: the mount table, in the form of ``/proc/mounts``; where there is none, the answer is
            ``False``.

    Returns:
        ``True`` for the known network file systems and every FUSE bridge (sshfs, s3fs …).
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    target = os.path.realpath(path)
    best, kind = "", ""
    for line in table:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind in _SHARED or kind.startswith("fuse.")


def way(to: Path, start: Path) -> str:
    """The way from a folder to a place, with slashes; the whole path where there is none, as between drives of Windows.

    >>> way(Path("runs/mine"), Path("runs/branch"))
    '../mine'
    """
    try:
        return Path(os.path.relpath(to, start)).as_posix()
    except ValueError:
        return Path(os.path.abspath(to)).as_posix()
