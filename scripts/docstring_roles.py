"""Rewrites docstrings for the documentation: Sphinx roles, RST tables and doctests become Markdown."""

from __future__ import annotations

import re

_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|obj|exc|math):`([^`]+)`")
_EQUATION = re.compile(r"^( *)\.\. math:: (.+)$", re.MULTILINE)
_TABLE = re.compile(r"^ *=+(?: +=+)+\n(?:.+\n)+? *=+(?: +=+)+\n(?:.+\n)+? *=+(?: +=+)+$", re.MULTILINE)
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)


def to_markdown(text: str) -> str:
    """Rewrite roles and equations as code, doctests and tables as preformatted text.

    >>> to_markdown("See :func:`~pkg.masks.pack`, where ``x > 0``.")
    'See `pack`, where `x > 0`.'
    """

    def role(match: re.Match[str]) -> str:
        target = match[1]
        return f"`{target.rpartition('.')[2] if target.startswith('~') else target}`"

    def table(match: re.Match[str]) -> str:
        return f"```text\n{match[0]}\n```"

    def doctest(match: re.Match[str]) -> str:
        return f"{match[1]}```pycon\n{match[0]}\n{match[1]}```"

    text = _EQUATION.sub(r"\1`\2`", _ROLE.sub(role, text)).replace("``", "`")
    return _TABLE.sub(table, _DOCTEST.sub(doctest, text))
