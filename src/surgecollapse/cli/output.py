"""What the commands write: results on standard output, mistakes and notes on standard error, and the exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Column

INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C or SIGTERM, as shells have it."""
UNREAD = 141
"""Exit code where the reader of the output has left, as shells have it."""
MISTAKE = 2
"""Exit code of anything that the user can put right."""


def say(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(line + "\n")


def say_now(line: str) -> None:
    """Write a line of the result at once, although the command goes on."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """Write a line that is no part of the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def fail(line: str, code: int) -> int:
    """Say what went wrong; returns the exit code."""
    sys.stderr.write(f"surgecollapse: {line}\n")
    return code


def write_table(headings: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Write a table; without vertical lines it fits 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*headings, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)
