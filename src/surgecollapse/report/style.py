"""How every picture of the report looks: one palette, marks that need no color, themes that follow the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

P = ParamSpec("P")
R = TypeVar("R")

INK, PAPER, GRID, FAINT, SHADE = "#1b1f24", "#fffffe", "#d8dce1", "#5f6872", "#e9ecef"
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY = "#e69f00", "#56b4e9"
"""Okabe and Ito's palette (2008) without yellow, which cannot be seen on white."""

THEMED = {
    INK: "--ink", PAPER: "--paper", GRID: "--grid", FAINT: "--faint", SHADE: "--shade", BLUE: "--blue",
    VERMILLION: "--vermillion", GREEN: "--green", PURPLE: "--purple", ORANGE: "--orange", SKY: "--sky",
}  # fmt: skip
"""Colors that the inline pictures take from the page, so that they follow light and dark."""

RUNS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))
"""Color and mark of the first, second, … run."""
LINES = (
    (BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (PURPLE, ":"),
    (ORANGE, (0, (7, 2))), (SKY, (0, (4, 1, 1, 1, 1, 1))), (INK, (0, (1, 3))), (FAINT, (0, (9, 3, 2, 3))),
)  # fmt: skip
"""Color and dash of the first, second, … layer."""
MARKS = {
    "collapse": ("v", VERMILLION), "surge": ("^", GREEN), "pump": ("o", SKY), "freeze": ("s", INK),
    "finalize": ("*", INK), "skip": ("x", PURPLE), "join": ("P", ORANGE),
}  # fmt: skip
"""Shape and color of each kind of intervention; the shapes alone tell them apart."""
HATCHES = {"dense": "", "sparse": "////", "open": "....", "pump": "oo", "frozen": "xxxx", "hold": ""}
"""Hatching of each phase; version 0.1 had a phase hold, under the policy that is no_op now."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10.5, "axes.titlesize": 11,
    "axes.labelsize": 10.5, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 9.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": PAPER, "savefig.facecolor": "auto", "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "legend.handlelength": 2.4, "lines.linewidth": 1.7,
    "lines.markersize": 5, "hatch.linewidth": 0.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "svg.fonttype": "none", "axes.formatter.useoffset": False, "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06, "axes.formatter.use_mathtext": False,
    "figure.autolayout": False, "figure.constrained_layout.use": False,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure with what the page says about it."""

    name: str
    """File stem of the PNG, also the anchor."""
    title: str
    caption: str
    figure: Figure
    wide: bool = False
    """Whether it takes the full width of the page."""


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Draw in the report's style and leave matplotlib's settings as they were."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return inner


def canvas(width: float = 4.8, height: float = 3.6) -> Figure:
    """An empty figure (inches) that needs no pyplot and no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_above(figure: Figure, axes: Sequence[Axes], columns: int = 3, extra: Sequence[Artist] = ()) -> None:
    """One legend over the axes of the figure, so that it never covers data; each label once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found.update({str(artist.get_label()): artist for artist in extra})
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside upper left", ncols=min(columns, len(found)),
            columnspacing=1.4, handletextpad=0.6,
        )  # fmt: skip


def step_axis(ax: Axes) -> None:
    """Label the horizontal axis as optimizer steps, with few whole ticks."""
    ax.set_xlabel("optimizer step")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


def thousands(value: float) -> str:
    """A tick with commas between thousands, as in the tables.

    >>> thousands(12500.0)
    '12,500'
    """
    return f"{value:,.0f}"


def power(value: float, _position: int | None = None) -> str:
    """A tick of a decimal logarithmic axis, in plain Unicode.

    >>> power(0.001), power(0.0001), power(100.0), power(1.0), power(20.0)
    ('0.001', '10⁻⁴', '100', '1', '20')
    """
    if value <= 0:
        return "0"
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash.

    >>> percent(0.9), percent(None)
    ('90.0 %', '–')
    """
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def shorten(text: str, most: int) -> str:
    """Text of at most ``most`` characters, with its middle left out.

    >>> shorten("blocks.0.attention.out_proj", 15)
    'blocks…out_proj'
    """
    if len(text) <= most:
        return text
    tail = (most - 1 + 1) * 8 // 15
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


@styled
def settle(figure: Figure) -> None:
    """Lay the figure out once and keep that, so that all its forms look alike and cost one layout."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        # Gone, not "none": whatever stands in its place is laid out again, twice for each form.
        figure.set_layout_engine(None)


def save_png(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write the figure as a PNG on white."""
    settle(figure)
    with matplotlib.rc_context(STYLE):
        FigureCanvasAgg(figure).print_figure(str(path), format="png", dpi=dpi)


def to_svg(figure: Figure, identifier: str) -> str:
    """The figure as an SVG element for the inside of a page: scalable, themed, its ids its own.

    Args:
        figure: what was drawn.
        identifier: unique in the page; salts the ids of clip paths and markers.
    """
    settle(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": identifier}):
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata={"Date": None, "Creator": None})
    FigureCanvasAgg(figure)  # the figure keeps the canvas that needs no file format
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # No larger than its text wants: a little over the size that it was drawn for (96 pixels an inch).
    most = f'style="max-width:{figure.get_figwidth() * 96 * 1.15:.0f}px"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 class="picture" {most} id="{identifier}"', text, count=1)
    # matplotlib numbers groups anew in each picture; what is referred to has a salted hash instead.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = text.replace("'DejaVu Sans'", "var(--sans), sans-serif").replace("DejaVu Sans,", "")
    for color, name in THEMED.items():
        text = text.replace(color, f"var({name})").replace(color.upper(), f"var({name})")
    return re.sub(r"\n\s*", "\n", text)
