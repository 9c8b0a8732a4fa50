"""The HTML of the report: one file that asks for nothing outside itself. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from surgecollapse.report.style import Picture, to_svg

CSS = """
:root{--ink:#1b1f24;--paper:#fffffe;--grid:#d8dce1;--faint:#5f6872;--shade:#e9ecef;--blue:#0072b2;
--vermillion:#d55e00;--green:#009e73;--purple:#b6588e;--orange:#c98500;--sky:#3f9fd8;--line:#d8dce1;--back:#f5f6f8;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",Arial;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaee;--paper:#1a1d21;--grid:#363c43;--faint:#9aa4af;--shade:#2b3036;
--blue:#52aee8;--vermillion:#f58b3c;--green:#2fc89c;--purple:#dc95bc;--orange:#f0b43a;--sky:#93d0f7;--line:#363c43;
--back:#121417}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 var(--sans),sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3em}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;scroll-margin-top:12px}
p{max-width:75ch}
a{color:var(--blue)}
nav ol{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;padding:0;margin:1rem 0 0;list-style:none}
nav a{display:inline-block;padding:.3rem 0}
.grid{margin-top:16px;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px;align-items:start}
figure{margin:0;background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:14px;min-width:0}
figure.wide{grid-column:1/-1}
figure h3{margin:0 0 .5rem;font-size:1rem}
.scroll{overflow-x:auto}
.picture{display:block;width:100%;height:auto;margin:0 auto}
.wide .picture{min-width:760px}
figcaption{font-size:.87rem;color:var(--faint);margin-top:.6rem}
.note{background:var(--shade);border-radius:8px;padding:.7rem 1rem}
.tablebox{overflow:auto;max-height:70vh;background:var(--paper);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.87rem;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{position:sticky;top:0;background:var(--shade);white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
td.number,th.number{text-align:right;white-space:nowrap}
td.words{min-width:20rem}
details{margin:1rem 0}
summary{cursor:pointer;padding:.3rem 0;font-weight:600}
footer{color:var(--faint);font-size:.87rem;padding-top:2rem;padding-bottom:3rem}
code{font-size:.92em;overflow-wrap:anywhere}
@media (max-width:600px){main,header,footer{padding-left:12px;padding-right:12px}figure{padding:10px}
th,td{padding:.42rem .4rem}table.few{font-size:.8rem}.few td.number,.few th{white-space:normal;overflow-wrap:anywhere}}
@media print{.tablebox{max-height:none}figure{break-inside:avoid}}
"""


@dataclass
class Section:
    """One part of the page: a heading, words, tables and pictures."""

    anchor: str
    title: str
    words: str = ""
    pictures: list[Picture] = field(default_factory=list)
    before: str = ""
    """Ready-made HTML over the pictures."""
    html: str = ""
    """The same, under them."""
    missing: list[str] = field(default_factory=list)
    """What cannot be shown, each with its reason."""

    def add(self, picture: Picture | None, otherwise: str) -> None:
        """Add a picture, or say why there is none."""
        if picture is None:
            self.missing.append(otherwise)
        else:
            self.pictures.append(picture)


def words(text: str) -> str:
    """Escape text; what stands between backticks becomes code.

    >>> words("a < b, `w.0`")
    'a &lt; b, <code>w.0</code>'
    """
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str], label: str) -> str:
    """A table in a box that scrolls; columns named in ``left`` are text, the others numbers.

    Args:
        heads: column headings.
        rows: cells as text, one for each heading; the first cell of a row is its heading.
        left: headings of columns of words.
        label: what the table is, for screen readers.
    """
    kinds = ["" if head in left else ' class="number"' for head in heads]
    top = "".join(f'<th scope="col"{kind}>{escape(head)}</th>' for kind, head in zip(kinds, heads, strict=True))
    body = []
    for row in rows:
        cells = []
        for i, (kind, cell) in enumerate(zip(kinds, row, strict=True)):
            if not kind and len(cell) > 40:
                kind = ' class="words"'
            tag = 'th scope="row"' if i == 0 else "td"
            cells.append(f"<{tag}{kind}>{escape(cell)}</{tag.split()[0]}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    few = ' class="few"' if len(heads) <= 3 else ""
    return (
        f'<div class="tablebox" tabindex="0" role="region" aria-label="{escape(label, quote=True)}"><table{few}>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def figure_html(picture: Picture) -> str:
    """A picture with its heading, caption and a link to the PNG beside the page."""
    label = escape(picture.title, quote=True)
    svg = to_svg(picture.figure, f"p-{picture.name}")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return (
        f'<figure class="{"wide" if picture.wide else "half"}"><h3>{escape(picture.title)}</h3>'
        f'<div class="scroll">{svg}</div><figcaption>{words(picture.caption)} '
        f'<a href="{escape(picture.name, quote=True)}.png">PNG</a></figcaption></figure>'
    )


def section_html(section: Section) -> str:
    """One section of the page."""
    parts = [f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>']
    if section.words:
        parts.append(f"<p>{words(section.words)}</p>")
    parts += [f'<p class="note">{words(text)}</p>' for text in section.missing]
    parts.append(section.before)
    if section.pictures:
        parts.append(f'<div class="grid">{"".join(figure_html(p) for p in section.pictures)}</div>')
    return "".join([*parts, section.html, "</section>"])


def page_html(title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page.

    Args:
        title: heading of the page.
        lead: one sentence under it.
        sections: the parts, in order.
        foot: words at the end.
    """
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{words(lead)}</p>"
        f'<nav aria-label="Contents"><ol>{links}</ol></nav></header>'
        f"<main>{''.join(section_html(s) for s in sections)}</main>"
        f"<footer><p>{words(foot)}</p></footer></body></html>\n"
    )
