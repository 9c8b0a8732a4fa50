"""Which pages this user serves now: each server notes itself in a file of its own and takes it away at its end."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgecollapse.dashboard.access_token import read_private, state_folder, write_private
from surgecollapse.record import heartbeat

_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class PageServer:
    """A server that answers."""

    address: str
    """With the token; whoever has it can change the runs."""
    folder: str
    """Of the runs."""
    pid: int


@contextmanager
def noted(address: str, folder: Path, host: str, port: int) -> Iterator[None]:
    """Note a server of this process for the length of a block; where nothing can be kept, it is not listed."""
    place = state_folder("servers") / f"{os.getpid()}-{port}.json"
    said = {**heartbeat.beat(), "address": address, "folder": str(folder.resolve()), "host": host, "port": port}
    if hasattr(os, "getuid"):
        with suppress(OSError):
            write_private(place, json.dumps(said))
    try:
        yield
    finally:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def running() -> list[PageServer]:
    """The servers of this user on this machine that answer now, the oldest first.

    Notes of killed processes are removed. Those of other machines that share the folder are let be.
    """
    found = []
    with suppress(OSError):
        for place in sorted(state_folder("servers").glob("*.json")):
            said = _read(place)
            if said is None:
                continue
            if not heartbeat.is_here(said):
                continue
            if heartbeat.gone(said, stale=float("inf")) or not _answers(said["host"], said["port"]):
                place.unlink(missing_ok=True)
                continue
            found.append((said["time"], PageServer(address=said["address"], folder=said["folder"], pid=said["pid"])))
    return [server for _, server in sorted(found, key=lambda pair: pair[0])]


_TYPES = {"time": (int, float), "pid": (int,), "address": (str,), "folder": (str,), "host": (str,), "port": (int,)}


def _read(place: Path) -> dict[str, Any] | None:
    """What a server noted; nothing where the file is damaged or another user could have written it."""
    try:
        said = json.loads(read_private(place))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or any(type(said.get(name)) not in types for name, types in _TYPES.items()):
        return None
    return said


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True
