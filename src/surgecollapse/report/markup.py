"""The HTML of the report: one file that asks for nothing outside itself. Jinja escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from surgecollapse.report.style import Picture, to_svg

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table in a box that scrolls."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells as text, one for each heading; the first cell of a row is its heading."""
    left: Sequence[str]
    """Headings of columns of words; the others are numbers."""
    label: str
    """What the table is, for screen readers, and its heading where it can be folded."""
    opened: bool = False
    """Whether a table that can be folded is open at first."""
    note: str = ""
    """Words under it."""


@dataclass
class Section:
    """One part of the page: a heading, words, tables and pictures."""

    anchor: str
    title: str
    words: str = ""
    paragraphs: list[str] = field(default_factory=list)
    """More of them, one after another."""
    pictures: list[Picture] = field(default_factory=list)
    before: Table | None = None
    """Over the pictures."""
    tables: list[Table] = field(default_factory=list)
    """Under them; these can be folded."""
    missing: list[str] = field(default_factory=list)
    """What cannot be shown, each with its reason."""

    def add(self, picture: Picture | None, otherwise: str) -> None:
        """Add a picture, or say why there is none."""
        if picture is None:
            self.missing.append(otherwise)
        else:
            self.pictures.append(picture)


def words(text: str) -> Markup:
    """Escape text; what stands between backticks becomes code.

    >>> words("a < b, `w.0`")
    Markup('a &lt; b, <code>w.0</code>')
    """
    code = Markup("<code>{}</code>")
    parts = text.split("`")
    return Markup().join(code.format(part) if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))


def page_html(title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page.

    Args:
        title: heading of the page.
        lead: one sentence under it.
        sections: the parts, in order.
        foot: words at the end.
    """
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(words=words, svg=_svg)
    css = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    page = environment.get_template("page.html.j2")
    return page.render(title=title, lead=lead, sections=sections, foot=foot, css=css)


def _svg(picture: Picture) -> Markup:
    """The picture as an element of the page, with its title for screen readers."""
    named = Markup('<svg role="img" aria-label="{}" ').format(picture.title)
    return Markup(to_svg(picture.figure, f"p-{picture.name}")).replace(Markup("<svg "), named, 1)
