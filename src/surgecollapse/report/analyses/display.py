"""What a person sees while runs are analyzed, and the table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from surgecollapse.errors import redraws

if TYPE_CHECKING:
    from surgecollapse.report.analyses.command import Analyzed, Tell


@contextmanager
def for_terminal() -> Iterator[Tell]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(file=sys.stderr), transient=True, disable=not redraws(sys.stderr)
    ) as progress:
        task = progress.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield tell


def table(outcome: Analyzed) -> None:
    """Print the findings, and why there are no others."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    grid = Table("finding", Column("run", overflow="fold"), "outcome", box=SIMPLE_HEAD, pad_edge=False)
    for one in outcome.findings:
        grid.add_row(Text(one.stem), Text(one.subject), Text(one.said))
    console = Console()
    console.print(grid)
    for line in outcome.diverged:
        console.print(line, markup=False, highlight=False)
    for name, reason in outcome.skipped:
        console.print(f"no {name}: {reason}", markup=False, highlight=False)
