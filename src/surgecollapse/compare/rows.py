"""The file of finished runs: one line each, on the disk before the next is begun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from surgecollapse.compare.methods.registry import current_name
from surgecollapse.compare.plan import key_of, version
from surgecollapse.errors import ConfigError, warn_user
from surgecollapse.record.whole_files import drop_cut_off

Row = Mapping[str, Any]
NAME = "rows.jsonl"
_OWN = ("seed", "sparsity")
"""What the rows of one configuration differ in."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep a second comparison from writing to the same folder; a process that dies gives it free.

    Where the file system has no locks, nothing is checked, and a warning says so.

    Raises:
        ConfigError: if another process is writing there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another process is writing to {folder}: wait for it, or choose another --out") from error
    except (OSError, NotImplementedError) as error:
        warn_user(f"{folder} cannot be locked ({error}): see to it that no other process writes there")
        yield
        return
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


class Rows:
    """All finished runs of a folder, by key.

    The key is computed anew from the configuration that stands in the row. So rows survive new options of the library,
    which have their default in old rows. They do not survive a change of what they were run with. Rows of failures and
    of another major or minor version stay in the file and are not used for a comparison.

    A configuration is written once for all rows that differ in seed and sparsity alone. It is a line ``{"base": ID,
    "config": {…}}``, to which the ``config`` of a row refers. So is a ``machine``: a line ``{"machine": ID, "facts":
    {…}}``.

    Args:
        folder: where ``rows.jsonl`` is, or will be.
        key: of a row; ``None`` for one that is not used. By default that of a run of the lab.

    Raises:
        ConfigError: if a line of it is damaged, other than a last one that was cut off.
    """

    def __init__(self, folder: Path, key: Callable[[Row], str | None] | None = None) -> None:
        self.path = folder / NAME
        self._key = key or _key
        self._rows: dict[str, Row] = {}
        self._earlier: dict[str, Row] = {}
        self._bases: dict[str, Mapping[str, Any]] = {}
        self._machines: dict[str, Mapping[str, Any]] = {}
        for line in self._read():
            if "base" in line:
                self._bases[line["base"]] = line.get("config", {})
            elif "facts" in line:
                self._machines[line["machine"]] = line["facts"]
            else:
                self._keep(self._whole(line))

    def _keep(self, row: Row) -> None:
        key = self._key(row)
        if key is not None:
            (self._rows if row.get("version") == version() else self._earlier)[key] = row

    def _whole(self, row: Row) -> Row:
        """The row with its machine and its full configuration; without one, it is used for nothing."""
        if isinstance(row.get("machine"), str):
            row = {**row, "machine": self._machines.get(row["machine"], {})}
        row = {**row, "method": current_name(str(row["method"]))} if "method" in row else row
        config = row.get("config")
        if not isinstance(config, dict) or "base" not in config:
            return row
        shared = self._bases.get(config["base"], {})
        return {
            **row,
            "config": {**shared, **{name: config[name] for name in _OWN if name in config}} if shared else None,
        }

    def _read(self) -> Iterator[Row]:
        if not self.path.is_file():
            return
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            # What follows the last line feed was cut off while it was written.
            if line.strip() and number < len(lines) - 1:
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ConfigError(f"{self.path}: line {number + 1} is damaged ({error}): remove it") from error
                if not isinstance(row, dict):
                    raise ConfigError(f"{self.path}: line {number + 1} is no row but {line[:40]!r}: remove it")
                yield row

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Row | None:
        """The row of a key, if it is there."""
        return self._rows.get(key)

    def earlier(self, key: str) -> Row | None:
        """The row of the same configuration that another version wrote: to be shown, and never to be mixed in."""
        return self._earlier.get(key)

    def __iter__(self) -> Iterator[Row]:
        """All rows that are used."""
        return iter(self._rows.values())

    def append(self, row: Row) -> None:
        """Write one row, and return when the disk has it.

        Raises:
            OSError: if it cannot be written.
        """
        own = {name: row["config"][name] for name in _OWN if name in row.get("config", {})}
        lines = [row]
        if "seed" in own:
            shared = {name: value for name, value in row["config"].items() if name not in _OWN}
            base = _id(shared)
            lines = [{**row, "config": {"base": base, **own}}]
            if base not in self._bases:
                lines.insert(0, {"base": base, "config": shared})
                self._bases[base] = shared
        if isinstance(facts := row.get("machine"), dict):
            place = _id(facts)
            lines[-1] = {**lines[-1], "machine": place}
            if place not in self._machines:
                lines.insert(0, {"machine": place, "facts": facts})
                self._machines[place] = facts
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            drop_cut_off(file)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._keep(row)


def _id(facts: Mapping[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _key(row: Row) -> str | None:
    """The key of a finished run; ``None`` for all else."""
    if "error" in row or not isinstance(row.get("config"), dict):
        return None
    try:
        return key_of(row["config"])
    except (ValueError, TypeError, KeyError):
        return None  # of a policy or an option that is no more
