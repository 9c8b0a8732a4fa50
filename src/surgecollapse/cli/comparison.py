"""``compare``: many methods on the same tasks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from surgecollapse.cli.output import INTERRUPTED, fail, say
from surgecollapse.compare.command import Choices, failures, outlook, prepare

typed: list[str] = []
"""The words of the command line, for the record of how rows came about."""


def compare(
    suite: str,
    /,
    *,
    choices: Annotated[Choices | None, Parameter(name="*")] = None,
    out: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Train many methods on the same tasks with paired seeds, and write tables and plots.

    What is finished is kept: the same command goes on where it stopped, on any machine that has the folder.

    Args:
        suite: What to train: smoke, quick, quick-mlp, quick-cnn, noise, full or long-text. It may also be a TOML file
            of keys, or a Python file of your own that defines data and model.
        choices: What of the suite, and how.
        out: Folder of rows, tables and plots. Default: runs/compare-SUITE.
        dry_run: Only say how many runs are to do, and how long they will take.
    """
    from surgecollapse.compare.display import for_terminal

    folder = out or Path("runs") / f"compare-{Path(suite).stem}"
    command = shlex.join(["surgecollapse", *typed])
    comparison = prepare(suite, folder, choices or Choices(), command=command)
    if dry_run:
        say("\n".join(outlook(comparison)))
        return 0
    outcome = comparison.run(for_terminal())
    say(f"{outcome.done} of {outcome.total} runs done: {folder / 'table.md'}")
    if not comparison.drawn:
        say("for plots beside the tables: pip install 'surgecollapse[lab]'")
    if outcome.status == "interrupted":
        say("stopped, what is finished is kept; go on with the same command")
        return INTERRUPTED
    for line in failures(outcome):
        fail(line, 1)
    return 1 if outcome.failures else 0
