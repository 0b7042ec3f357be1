"""Line plots as SVG, with nothing but text: panels next to each other, both axes from zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 430, 300
"""Of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 48, 28, 34, 44
LEGEND = 24
COLORS = ("#0072b2", "#d55e00", "#009e73")
"""Of Okabe and Ito, which color-blind readers tell apart."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in a color that lines of one group share."""

    name: str
    group: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one pair of axes."""

    title: str
    x: str
    lines: tuple[Line, ...]


def svg(panels: Sequence[Panel]) -> str:
    """Return the picture; the legend below is that of the first panel."""
    lines = panels[0].lines
    groups = list(dict.fromkeys(line.group for line in lines))
    rows = math.ceil(len(lines) / 3)
    width, height = WIDTH * len(panels), HEIGHT + rows * LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(panel, groups), "</g>"]
    for number, line in enumerate(lines):
        x = LEFT + number // rows * (width - LEFT) / 3
        y = HEIGHT + number % rows * LEGEND + 6
        parts.append(_path([(x, y), (x + 32, y)], line, groups))
        parts.append(f'<text x="{x + 40:g}" y="{y + 4:g}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, groups: Sequence[str]) -> list[str]:
    across = _ticks(max(x for line in panel.lines for x, _ in line.points))
    up = _ticks(max(y for line in panel.lines for _, y in line.points))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (right - LEFT) * x / across[-1],
            bottom - (bottom - TOP) * y / up[-1],
        )

    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(panel.title)}</text>']
    for value in up:
        y = place(0, value)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    for value in across:
        x = place(value, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:,g}</text>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle:g}" y="{bottom + 34}" text-anchor="middle">{escape(panel.x)}</text>'
    )
    for line in panel.lines:
        places = [place(*point) for point in line.points]
        parts.append(_path(places, line, groups))
        color = COLORS[groups.index(line.group)]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return parts


def _path(places: Sequence[tuple[float, float]], line: Line, groups: Sequence[str]) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    color = COLORS[groups.index(line.group)]
    return f'<path d="M{steps}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'


def _ticks(most: float) -> list[float]:
    """Return 0 and multiples of 1, 2 or 5 times a power of ten, the last at or above `most`."""
    step = next(
        size
        for power in range(-6, 16)
        for size in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if most / size <= 5
    )
    return [step * n for n in range(math.ceil(most / step) + 1)]
