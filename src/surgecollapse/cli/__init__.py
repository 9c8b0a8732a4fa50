"""The command line: ``surgecollapse run | send | fork | watch | report | compare | study | tune | export | analyze …``.

It belongs to the extra ``lab``; without it, :func:`main` knows ``--version``, and says what to install.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from surgecollapse import __version__
from surgecollapse.cli.extras import extra_of
from surgecollapse.cli.output import INTERRUPTED, MISTAKE, fail, say

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["INTERRUPTED", "MISTAKE", "extra_of", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after the program's name; by default those of the process.
    """
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
