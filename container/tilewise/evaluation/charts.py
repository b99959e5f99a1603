"""Charts as inline SVG: they take their colours from the page, so that they follow its light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40
SERIES = 8
"""So many series have a colour and a dash pattern of their own; further ones are drawn alike, and faint."""


@dataclass(frozen=True)
class Line:
    """A named line through points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axes:
    """From the numbers of a chart to its pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, up = _share(x, *self.x), _share(y, *self.y)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )


def line_chart(
    lines: Sequence[Line],
    description: str,
    x_label: str,
    *,
    y_max: float | None = None,
    x_range: tuple[float, float] | None = None,
    mark: float | None = None,
    whole_numbers: bool = False,
) -> Markup:
    """Lines over a common axis, with a legend where there are several.

    Args:
        lines: at most :data:`SERIES` of them are named in the legend.
        description: what the chart shows, for those who cannot see it.
        x_label: below the chart.
        y_max: the upper end of the axis, which begins at 0; None to fit it.
        x_range: the ends of the other one; None to fit it.
        mark: an x to draw a line at.
        whole_numbers: whether x takes whole numbers only.

    """
    points = [point for line in lines for point in line.points]
    top = y_max or max([y for _, y in points], default=1.0) * 1.02 or 1.0
    low, high = x_range or (min([x for x, _ in points], default=0), max([x for x, _ in points], default=1))
    axes = _Axes((low, high if high > low else low + 1), (0, top))
    parts = [_grid(axes, x_label, whole_numbers=whole_numbers)]
    if mark is not None:
        x, bottom = axes.at(mark, 0)
        parts.append(Markup('<path class="mark" d="M{:.1f} {:.1f}V{}"/>').format(x, bottom, TOP))
    for index, line in reversed(list(enumerate(lines))):
        style = f"s{index}" if index < SERIES else "faint"
        places = [axes.at(x, y) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        if len(places) > 1:
            parts.append(
                Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(style, path, line.name)
            )
        if len(places) == 1 or (places and whole_numbers and len(places) <= 40):
            dots = "".join(f"M{x:.1f} {y:.1f}h.01" for x, y in places)
            parts.append(Markup('<path class="dots {}" d="{}"/>').format(style, dots))
    chart = _svg(description, parts)
    return chart + _legend([line.name for line in lines]) if len(lines) > 1 else chart


def bar_chart(
    groups: Sequence[str], bars: Sequence[tuple[str, Sequence[float | None]]], description: str
) -> Markup:
    """Bars from 0 to 1, side by side in each group.

    Args:
        groups: their names; a part after a line break stands in a second line.
        bars: name and a height for each group; None where there is none.
        description: what the chart shows, for those who cannot see it.

    """
    axes = _Axes((0, len(groups)), (0, 1))
    parts = [_grid(axes, "", labels=False)]
    width = 0.76 / len(bars)
    for group, name in enumerate(groups):
        for index, (what, heights) in enumerate(bars):
            x, bottom = axes.at(group + 0.12 + index * width, 0)
            right, _ = axes.at(group + 0.12 + (index + 0.94) * width, 0)
            height = heights[group]
            text = "-" if height is None else f"{height:.2f}"
            _, top = axes.at(0, height or 0)
            parts.append(
                Markup('<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">').format(
                    index, x, top, right - x, bottom - top
                )
                + Markup("<title>{} {}: {}</title></rect>").format(name, what, text)
                + Markup('<text class="value" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    (x + right) / 2, top - 4, text
                )
            )
        middle, _ = axes.at(group + 0.5, 0)
        for row, line in enumerate(name.split("\n")):
            parts.append(
                Markup('<text class="middle" x="{:.1f}" y="{}">{}</text>').format(
                    middle, HEIGHT - BOTTOM + 16 + 15 * row, line
                )
            )
    return _svg(description, parts) + _legend([name for name, _ in bars])


def histogram(
    series: Sequence[tuple[str, Sequence[tuple[float, int]]]],
    limits: Sequence[float],
    description: str,
    *,
    x_label: str,
) -> Markup:
    """Steps over a logarithmic axis, each series as shares of its own sum.

    Args:
        series: name, and where each bar begins (above 0) with its count; the bars' ratio is 2^(1/4).
        limits: where to draw vertical lines.
        description: what the chart shows, for those who cannot see it.
        x_label: below the chart.

    """
    ratio = 2**0.25
    starts = [start for _, bars in series for start, _ in bars]
    low, high = min(starts, default=1), max(starts, default=64) * ratio
    shares = [(name, bars, sum(count for _, count in bars) or 1) for name, bars in series]
    top = max([count / total for _, bars, total in shares for _, count in bars], default=1.0) * 1.05
    axes = _Axes((math.log2(low), math.log2(high)), (0, top))
    parts = [_grid(axes, x_label, labels=False, percent=True)]
    for limit in limits:
        if low < limit < high:
            x, bottom = axes.at(math.log2(limit), 0)
            parts.append(Markup('<path class="mark" d="M{:.1f} {:.1f}V{}"/>').format(x, bottom, TOP))
    for index, (name, bars, total) in reversed(list(enumerate(shares))):
        corners = [axes.at(math.log2(bars[0][0]), 0)] if bars else []
        for start, count in bars:
            corners.append(axes.at(math.log2(start), count / total))
            corners.append(axes.at(math.log2(start * ratio), count / total))
        corners += [axes.at(math.log2(bars[-1][0] * ratio), 0)] if bars else []
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) if corners else ""
        parts.append(
            Markup('<path class="line step s{}" d="{}"><title>{}</title></path>').format(index, path, name)
        )
    for exponent in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1):
        x, bottom = axes.at(exponent, 0)
        parts.append(
            Markup('<text class="middle" x="{:.1f}" y="{:.1f}">{:g}</text>').format(
                x, bottom + 16, 2.0**exponent
            )
        )
    return _svg(description, parts) + _legend([name for name, _ in series])


def _share(value: float, low: float, high: float) -> float:
    return (min(max(value, low), high) - low) / (high - low)


def ticks(low: float, high: float, *, whole_numbers: bool = False, most: int = 6) -> list[float]:
    """Round numbers between two: 1, 2 or 5 times a power of ten apart, at most ``most`` + 1 of them."""
    span = (high - low) / most
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span * (1 - 1e-9))
    if whole_numbers:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(
    axes: _Axes, x_label: str, *, whole_numbers: bool = False, labels: bool = True, percent: bool = False
) -> Markup:
    parts = []
    for value in ticks(*axes.y, most=5):
        x, y = axes.at(axes.x[0], value)
        text = f"{100 * value:g} %" if percent else f"{value:g}"
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT)
            + Markup('<text class="end" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, y + 4, text)
        )
    for value in ticks(*axes.x, whole_numbers=whole_numbers) if labels else []:
        x, bottom = axes.at(value, 0)
        parts.append(
            Markup('<text class="middle" x="{:.1f}" y="{:.1f}">{:g}</text>').format(x, bottom + 16, value)
        )
    if x_label:
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            Markup('<text class="middle axis" x="{}" y="{}">{}</text>').format(middle, HEIGHT - 6, x_label)
        )
    return Markup("").join(parts)


def _svg(description: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, description, Markup("").join(parts)
    )


def _legend(names: Sequence[str]) -> Markup:
    swatch = (
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><path class="line {}" d="M0 4H26"/></svg>'
    )
    items = [
        Markup("<li>" + swatch + "{}</li>").format(f"s{index}", name)
        for index, name in enumerate(names[:SERIES])
    ]
    if len(names) > SERIES:
        items.append(Markup("<li>" + swatch + "{} others</li>").format("faint", len(names) - SERIES))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
