"""What docs/limits.md promises: the rows of its table of training loops, and the messages that they quote."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"


def rows() -> list[tuple[str, str]]:
    """First and second cell of each row of the table of training loops."""
    table = PAGE.read_text(encoding="utf-8").split("## Training loops")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| situation")]
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]


def promised(start: str) -> str:
    """A pattern of the message that the row with this beginning quotes, for ``pytest.raises(match=…)``.

    An ellipsis on the page stands for anything.
    """
    (happens,) = [what for situation, what in rows() if situation.startswith(start)]
    assert not happens.startswith("no message"), start
    quoted = re.findall(r"`([^`]+)`", happens)[-1]
    return "(?s)" + ".*".join(re.escape(part.strip()) for part in quoted.split("…"))
