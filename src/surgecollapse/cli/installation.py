"""``doctor``: whether the library does here what it promises."""

from __future__ import annotations


def doctor() -> int:
    """Check torch, threads, optimizer hooks and exact masks, and measure what a controller costs here."""
    from rich.console import Console
    from rich.table import Table

    from surgecollapse.cli.doctor import examine

    table = Table("check", "result", "", box=None)
    checks = examine()
    for check in checks:
        mark = {True: "[green]ok", False: "[red]not as expected", None: ""}[check.good]
        table.add_row(check.name, check.value, mark)
    Console().print(table)
    return 0 if all(check.good is not False for check in checks) else 1
