"""Draws the small figures of method cards as inline SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 180, 46, 30
_STYLES = ('stroke="var(--md-typeset-a-color)"', 'stroke="currentColor" stroke-dasharray="5 4"')

Line = Sequence[tuple[float, float]]
Marks = Sequence[tuple[float, str]]


def _place(at: float, level: float) -> tuple[float, float]:
    across, up = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - 8
    return round(_LEFT + across * at, 1), round(8 + up * (1.0 - level), 1)


def figure(lines: Sequence[Line], x: Marks, y: Marks, caption: str) -> str:
    """One or two lines through points in the unit square, the second dashed, with labeled marks on both axes.

    Args:
        lines: points of each line.
        x: marks below, each a place in [0, 1] and its label.
        y: marks at the left.
        caption: HTML; its words are the name of the drawing for a screen reader, too.
    """
    drawn = []
    for at, word in x:
        px, py = _place(at, 0)
        anchor = "end" if at == 1 else "middle"
        drawn.append(f'<text x="{px}" y="{py + 18}" text-anchor="{anchor}">{word}</text>')
    for level, word in y:
        px, py = _place(0, level)
        drawn.append(f'<text x="{px - 6}" y="{py + 4}" text-anchor="end">{word}</text>')
        drawn.append(f'<line x1="{px}" x2="{_WIDTH - 8}" y1="{py}" y2="{py}" stroke="currentColor" opacity="0.2"/>')
    for line, style in reversed([*zip(lines, _STYLES, strict=False)]):
        path = " ".join(f"{px},{py}" for px, py in (_place(*point) for point in line))
        drawn.append(f'<polyline points="{path}" fill="none" {style} stroke-width="2"/>')
    name = escape(re.sub(r"<[^>]+>", "", caption), quote=True)
    return (
        f'<figure><svg class="card-figure" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="{name}" font-size="12" fill="currentColor">{"".join(drawn)}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _corners(line: Line) -> Line:
    """A line without the points in the middle of level parts."""
    inner = [here for before, here, after in zip(line, line[1:], line[2:], strict=False)
             if not before[1] == here[1] == after[1]]  # fmt: skip
    return [line[0], *inner, line[-1]]


def over_steps(lines: Sequence[Line], end: int, caption: str, levels: Sequence[float] = ()) -> str:
    """The figure of values over the steps of a training: points are a step and a value; non-finite ones are left out.

    Args:
        lines: points of each line.
        end: the last step.
        caption: as of :func:`figure`.
        levels: values that are marked, ascending; the first and the last are the ends of the axis where they lie
            outside of the values.
    """
    known = [[(step, value) for step, value in line if math.isfinite(value)] for line in lines]
    values = [*levels, *(value for line in known for _, value in line)]
    low, high = min(values), max(values)
    shown = [[(step / end, (value - low) / ((high - low) or 1.0)) for step, value in _corners(line)] for line in known]
    marks = [(0.0, _number(low)), *(((level - low) / (high - low), _number(level)) for level in levels)]
    x = [(0.0, "0"), (0.5, f"step {end // 2:,}"), (1.0, f"{end:,}")]
    return figure(shown, x, list(dict([*marks, (1.0, _number(high))]).items()), caption)
