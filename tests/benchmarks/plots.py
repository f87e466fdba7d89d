"""Ratios as a picture: a dot for each, a line for its spread, a tick for its goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, RIGHT, ROW, HEAD = 760, 60, 20, 30
LETTER = 6.8
"""The width of one, more or less: the reader's own font is not known here."""
PAPER, INK, FAINT, OURS, OTHER, TARGET = "#ffffff", "#24292f", "#d0d7de", "#0b6bcb", "#8c959f", "#c4432b"


@dataclass(frozen=True)
class Dot:
    """One ratio.

    Args:
        title: of the variant.
        value, low, high: the ratio and its spread.
        goal: that it is to reach, if there is one.
        ours: whether it stands out.
    """

    title: str
    value: float
    low: float
    high: float
    goal: float | None = None
    ours: bool = False


def draw(title: str, base: str, groups: Sequence[tuple[str, Sequence[Dot]]]) -> str:
    """Draw groups of ratios below each other, on one scale.

    Args:
        title: for those who do not see the picture.
        base: what 1 is.
        groups: each with a title.

    Returns:
        An SVG, on a paper of its own: it is read on light and on dark pages.
    """
    dots = [dot for _, group in groups for dot in group]
    most = max([1.0, *(max(dot.high, dot.goal or 0) for dot in dots)])
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, math.inf) if most / step <= 8)
    end = math.ceil(most / step + 0.2) * step
    height = HEAD + sum(ROW * (len(group) + 1) + 8 for _, group in groups) + 26

    left = 24 + round(LETTER * max(len(dot.title) for dot in dots))

    def across(value: float) -> float:
        return round(left + (WIDTH - left - RIGHT) * value / end, 1)

    parts = [_rectangle(0, 0, WIDTH, height, PAPER)]
    for number in range(round(end / step) + 1):
        at = across(number * step)
        parts.append(_line(at, HEAD, at, height - 20, FAINT, 1))
        parts.append(_text(at, height - 6, f"{number * step:g}", "middle", OTHER))
    parts.append(_line(across(1), HEAD - 8, across(1), height - 20, INK, 1))
    parts.append(_text(across(1), HEAD - 12, f"1 = {base}", "middle", INK))
    y = HEAD
    for heading, group in groups:
        y += ROW
        parts.append(_text(12, y - 5, heading, "start", INK, bold=True))
        for dot in group:
            y += ROW
            middle, colour = y - 9, OURS if dot.ours else OTHER
            parts.append(_text(left - 12, y - 5, dot.title, "end", INK))
            parts.append(_line(across(dot.low), middle, across(dot.high), middle, colour, 3))
            parts.append(f'<circle cx="{across(dot.value)}" cy="{middle}" r="5" fill="{colour}"/>')
            if dot.goal is not None:
                parts.append(_line(across(dot.goal), middle - 8, across(dot.goal), middle + 8, TARGET, 2))
            parts.append(_text(WIDTH - 12, y - 5, f"{dot.value:.2f}", "end", INK))
        y += 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12">\n<title>{escape(title)}</title>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{colour}"/>'
