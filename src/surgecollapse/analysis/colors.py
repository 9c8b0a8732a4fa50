"""Colors of marks that are always the same, after Okabe and Ito (2008), and ticks that do not crowd."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"


def plain(text: str) -> str:
    r"""Text that matplotlib draws as it is: a dollar is no formula, and a leading underscore hides no label.

    >>> plain("$x$"), plain("fc")
    ('\\$x\\$', 'fc')
    """
    escaped = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{escaped}" if escaped.startswith("_") else escaped


def decimal_ticks(axes: Axes, axis: str, low: float, high: float) -> None:
    """Set few plain ticks on a logarithmic axis: at powers of ten, and between them where there are less than two.

    Args:
        axes: whose axis is logarithmic already.
        axis: ``x`` or ``y``.
        low: lower end of what is shown, above 0.
        high: upper end.
    """
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    narrow = high / low < 100
    chosen.set_major_locator(LogLocator(10.0, subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=8))
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    chosen.set_major_formatter(plain if low > 1e-4 and high < 1e5 else LogFormatterSciNotation(minor_thresholds=(9, 9)))
    chosen.set_minor_formatter(NullFormatter())
    if narrow:
        chosen.set_minor_locator(NullLocator())
