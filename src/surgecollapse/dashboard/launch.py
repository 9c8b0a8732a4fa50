"""Branches that the page asks for: each is trained by a process of its own, which outlives the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MOST = 4
"""Processes that may train at once on the page's behalf."""
_SECONDS = 60.0
_LOOK = 0.05
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_KEY = re.compile(r"[a-z0-9_.]{1,60}")
_CHANGES = 20


class Launcher:
    """Starts ``surgecollapse fork`` and ``surgecollapse twin``, and says how that went.

    Args:
        program: the words that start the command line.
    """

    def __init__(self, program: tuple[str, ...] = (sys.executable, "-m", "surgecollapse")) -> None:
        self._program = program
        self._running: list[subprocess.Popen[bytes]] = []
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()

    def fork(self, run: Path, given: Mapping[str, Any]) -> str:
        """Start a branch of a run; returns the name of its directory, which is beside the run.

        Args:
            run: the run directory.
            given: ``at`` (step); maybe ``changes`` (key → value), ``name`` and ``seed``.

        Raises:
            ValueError: if that branch cannot be made, with the reason.
            OSError: if too many train already, or the process cannot be started.
        """
        at, changes, seed = given.get("at"), given.get("changes", {}), given.get("seed")
        if not _is_whole(at) or not (seed is None or _is_whole(seed)):
            raise ValueError("expected at, and maybe seed, as whole numbers")
        words = ["fork", str(run), "--at", str(at), *_settings(changes)]
        words += [] if seed is None else ["--seed", str(seed)]
        name = _free(run, given.get("name"), f"fork-at-{at}")
        self._start([*words, "--name", name], run.with_name(name) / "run.db")
        return name

    def twin(self, run: Path, given: Mapping[str, Any]) -> str:
        """Start the twin of a run; returns the name of the directory of its runs and its result, beside the run.

        Args:
            run: the run directory.
            given: maybe ``intervention`` (id of the command), ``seeds`` and ``name``.

        Raises:
            ValueError: as :meth:`fork`, like the other.
            OSError: likewise.
        """
        intervention, seeds = given.get("intervention"), given.get("seeds", 1)
        if not _is_whole(seeds) or not 1 <= seeds <= 100 or not (intervention is None or _is_whole(intervention)):
            raise ValueError("expected seeds from 1 to 100, and maybe intervention, as whole numbers")
        words = ["twin", str(run), "--seeds", str(seeds)]
        words += [] if intervention is None else ["--intervention", str(intervention)]
        name = _free(run, given.get("name"), "twin")
        self._start([*words, "--name", name], run.with_name(name))
        return name

    def once(self, token: str, start: Any) -> str:
        """What was started for a token; a second request with the same one starts nothing."""
        with self._lock:
            if token not in self._made:
                self._made[token] = start()
            return self._made[token]

    def _start(self, words: list[str], sign: Path) -> None:
        """Start a command line and wait until ``sign`` is there: then it trains."""
        self._running = [process for process in self._running if process.poll() is None]
        if len(self._running) >= MOST:
            raise OSError(f"{MOST} runs train on the page's behalf already: wait until one has ended")
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [*self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C on the page's server is not for it
            )
            self._running.append(process)
            threading.Thread(target=process.wait, daemon=True).start()  # nothing is left of it when it ends
            end = time.monotonic() + _SECONDS
            while not sign.exists() and time.monotonic() < end:
                if process.poll() is not None:
                    break
                time.sleep(_LOOK)
            if process.poll():
                raise ValueError(_reason(said))


def _reason(said: IO[bytes]) -> str:
    """The last line that a process wrote."""
    said.seek(0)
    lines = said.read()[-4_000:].decode("utf-8", "replace").strip().splitlines()
    return (lines or ["it ended at once"])[-1].removeprefix("surgecollapse: ")[:500]


def _free(run: Path, name: Any, what: str) -> str:
    """The given name, checked, or the first free one."""
    if name is not None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("name must be up to 80 letters, digits, dots, dashes and underscores")
        if run.with_name(name).exists():
            raise ValueError(f"{name} is there already: choose another name")
        return name
    found, number = f"{run.name}-{what}", 2
    while run.with_name(found).exists():
        found, number = f"{run.name}-{what}-{number}", number + 1
    return found


def _settings(changes: Any) -> list[str]:
    """Changes as words of a command line; none may name code to run."""
    if not isinstance(changes, Mapping) or len(changes) > _CHANGES:
        raise ValueError("changes must be a table of keys and values")
    words = []
    for key, value in changes.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError("changes must be a table of keys and values")
        if isinstance(value, str) and ":" in value:
            raise ValueError(f"{key}: code of your own is named in a terminal, not on the page")
        words += ["--set", f"{key}={json.dumps(value)}"]
    return words


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
