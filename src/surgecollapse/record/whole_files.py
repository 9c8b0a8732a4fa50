"""Files that appear whole or not at all, and archives that carry a checksum of themselves."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

_MARK = b"surgecollapse sha256 "
_SEAL = len(_MARK) + 64
_END_RECORD = 22
_CHUNK = 2**20


def read_plain(path: Path, most: int) -> bytes:
    """The content of a small file that another user may have written.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: if it is a pipe, a link, a device or a folder, is larger, or cannot be read.
    """
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path} is not a plain file")
    if facts.st_size > most:
        raise OSError(f"{path} has {facts.st_size} bytes, expected at most {most}")
    return path.read_bytes()


def write_whole(
    path: Path, *content: bytes | memoryview | str, through_links: bool = False, rights: int | None = None
) -> None:
    """Write a file under another name, flush it to the disk, then rename it.

    Args:
        path: the file; its folder is made, and a file of that name is replaced by one with the same rights.
        content: parts of the file, in order; text is written as UTF-8.
        through_links: write the file that a symbolic link leads to, and keep the link. That is for places that the
            user names. A link in a record may be another user's: by default the file takes its place.
        rights: permission bits; default: those of the file that is there.

    Raises:
        OSError: if it cannot be written; a file of that name from before stays whole.
    """
    place = Path(os.path.realpath(path)) if through_links and path.is_symlink() else path
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    rights = _rights(place) if rights is None else rights
    try:
        with temporary.open("wb") as file:
            if rights is not None:
                os.chmod(temporary, rights)  # before there is content that others may not read
            for part in content:
                file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _rights(path: Path) -> int | None:
    """Permission bits of a plain file that is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None


def drop_cut_off(file: BinaryIO) -> None:
    """Cut what follows the last line feed: a line that an interruption left unfinished. The file stands at its end.

    Args:
        file: opened for reading and writing.
    """
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - (1 << 16))
    file.seek(start)
    tail = file.read()
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def seal_of(archive: bytes | memoryview) -> bytes:
    """What takes the place of the last two bytes of a zip archive without a comment: the SHA-256 of all before it.

    It is the archive's comment, so that every reader of archives still reads it.

    Args:
        archive: as :mod:`zipfile`, ``torch.save`` and ``numpy.savez`` write it.
    """
    length = _SEAL.to_bytes(2, "little")  # the last two bytes of an archive say how long its comment is
    digest = hashlib.sha256(archive[:-2])
    digest.update(length)
    return length + _MARK + digest.hexdigest().encode()


def is_sealed(file: BinaryIO) -> bool:
    """Whether an archive ends in the checksum of the rest; false for one that ends as archives without a comment do.

    Raises:
        zipfile.BadZipFile: if the checksum is that of another file, or the end of the file is neither.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _SEAL, 0))
    end = file.read()
    if not end.startswith(_MARK):
        if end[-_END_RECORD:-18] == b"PK\x05\x06" and end.endswith(b"\0\0"):
            return False
        raise zipfile.BadZipFile("its end is missing or changed")
    file.seek(0)
    digest, left = hashlib.sha256(), size - _SEAL
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise zipfile.BadZipFile("it became shorter while it was read")
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest().encode() != end[len(_MARK) :]:
        raise zipfile.BadZipFile("its contents do not have the checksum that was written")
    return True
