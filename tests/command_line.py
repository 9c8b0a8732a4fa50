"""What tests of the command line share."""

from __future__ import annotations

from surgecollapse.cli import MISTAKE, main


def fails(capsys, *argv: str) -> str:
    """Run a command that must fail; return its one line."""
    assert main(argv) == MISTAKE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("surgecollapse: ")
    assert captured.out == ""
    return captured.err
