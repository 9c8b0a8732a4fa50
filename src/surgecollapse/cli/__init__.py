"""The command line: ``surgecollapse run | send | fork | watch | report | compare | study | tune | export | analyze …``.

It belongs to the extra ``lab``; without it, :func:`main` knows ``--version``, and says what to install.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from surgecollapse import __version__
from surgecollapse.cli.extras import extra_of
from surgecollapse.cli.output import INTERRUPTED, MISTAKE, UNREAD, fail, say

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["INTERRUPTED", "MISTAKE", "UNREAD", "extra_of", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after the program's name; by default those of the process.
    """
    if "JPY_PARENT_PID" in os.environ:  # a cell of a notebook: it has a terminal that shows escape codes as they are
        os.environ["TERM"] = "dumb"
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has left, as `head` does; the exit must not write the rest either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    return code


def _run(argv: Sequence[str] | None) -> int:
    if (sys.argv[1:] if argv is None else list(argv)) == ["--version"]:
        say(__version__)
        return 0
    try:
        from surgecollapse.cli.app import run_command_line
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == "surgecollapse":
            raise
        return fail(
            f"the command line needs {missing}, which is not installed: pip install 'surgecollapse[lab]'", MISTAKE
        )
    return run_command_line(argv)
