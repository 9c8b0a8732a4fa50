"""Shows docstrings as they are meant: turns Sphinx roles and RST tables into Markdown while the docs are built."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|obj|exc|math):`([^`]+)`")
_EQUATION = re.compile(r"^( *)\.\. math:: (.+)$", re.MULTILINE)
_TABLE = re.compile(r"^ *=+(?: +=+)+\n(?:.+\n)+? *=+(?: +=+)+\n(?:.+\n)+? *=+(?: +=+)+$", re.MULTILINE)


def to_markdown(text: str) -> str:
    """Rewrite roles and equations as code, tables as preformatted text.

    >>> to_markdown("See :func:`~pkg.masks.pack`, where ``x > 0``.")
    'See `pack`, where `x > 0`.'
    """

    def role(match: re.Match[str]) -> str:
        target = match[1]
        return f"`{target.rpartition('.')[2] if target.startswith('~') else target}`"

    def table(match: re.Match[str]) -> str:
        return f"```text\n{match[0]}\n```"

    return _TABLE.sub(table, _EQUATION.sub(r"\1`\2`", _ROLE.sub(role, text)).replace("``", "`"))


class Roles(Extension):
    """Applies :func:`to_markdown` to every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
