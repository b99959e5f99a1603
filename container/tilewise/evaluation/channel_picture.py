"""A channel as a picture: how large its objects are, how many an image has, and some images with boxes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from tilewise.arrays import Float32, Float64, Int64
from tilewise.data.channel_table import SIZE_LIMITS
from tilewise.data.decoding.decode import DecodeError, decode_reduced
from tilewise.data.records import Record, Records
from tilewise.evaluation.tiles import ASPECT, Tile, choose_tiles
from tilewise.masks import masks_in
from tilewise.rasters import outline
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View, Window

_COLUMNS, _ROWS = 4, 3
_TILE_PIXELS = 640
_DOTS = 130
_WIDTH, _CHART_HEIGHT, _ROW_HEIGHT = 16.0, 4.7, 3.25
_COLOURS = (
    "#22c55e", "#2f7bff", "#ff8a1f", "#e8274b", "#a855f7", "#06b6d4", "#ec4899", "#b5b800", "#8c564b",
)  # fmt: skip
_OTHERS, _INK, _QUIET = "#8a8f98", "#1f2933", "#6b7280"
_BANDS = ("very tiny", "tiny", "small", "medium", "large")
_MIN_BOX = 0.011  # of a tile's width: what is drawn smaller than this nobody sees


def draw_channels(
    channels: Mapping[str, Records],
    sides: Mapping[str, Float64],
    classes: tuple[str, ...],
    *,
    title: str,
    path: Path,
    seed: int = 0,
    rendering: Rendering = AS_STORED,
) -> dict[str, str]:
    """Write one picture of some channels, one below the other.

    Args:
        channels: name -> records.
        sides: name -> (N,) the sizes of its objects that the histogram shows.
        classes: names by label.
        title: what these sizes are.
        path: a PNG file.
        seed: draws the images that are shown at random.
        rendering: of the images.

    Returns:
        Key -> reason, of the images that were to be shown but cannot be decoded.

    """
    palette = _Palette(channels, classes)
    heights = [_CHART_HEIGHT + _ROW_HEIGHT * _rows(records) for records in channels.values()]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DOTS, facecolor="white")
    FigureCanvasAgg(figure)
    damaged: dict[str, str] = {}
    parts = figure.subfigures(len(channels), 1, squeeze=False, height_ratios=heights)
    for part, (name, records) in zip(parts.flat, channels.items(), strict=True):
        high = _ROW_HEIGHT * _rows(records)
        charts, sheet = part.subfigures(2, 1, height_ratios=(_CHART_HEIGHT, high))
        _draw_charts(charts, name, records, sides[name], palette, title)
        tiles = choose_tiles(records, _COLUMNS * _ROWS, seed)
        damaged |= _draw_sheet(sheet, records, palette, tiles, rendering)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class's name in a script that the font lacks
        figure.savefig(path)
    return damaged


def _rows(records: Records) -> int:
    return -(-min(len(records), _COLUMNS * _ROWS) // _COLUMNS)


class _Palette:
    """The classes with most objects have a colour each, the others share one."""

    def __init__(self, channels: Mapping[str, Records], classes: tuple[str, ...]):
        counts = sum(
            np.bincount(records.targets.labels, minlength=len(classes)) for records in channels.values()
        )
        order = np.argsort(-np.asarray(counts), kind="stable")
        one_each = order[: len(_COLOURS) if len(classes) <= len(_COLOURS) else len(_COLOURS) - 1]
        self.groups: list[tuple[str, str, Int64]] = [
            (classes[label], colour, np.asarray([label]))
            for label, colour in zip(one_each, _COLOURS, strict=False)
        ]
        if len(one_each) < len(classes):
            rest = order[len(one_each) :]
            self.groups.append((f"{len(rest)} other classes", _OTHERS, rest))
        self._of = {int(label): colour for _, colour, labels in self.groups for label in labels}

    def colours(self, labels: Int64) -> list[str]:
        return [self._of[label] for label in labels.tolist()]


def _draw_charts(
    part: SubFigure, name: str, records: Records, sides: Float64, palette: _Palette, title: str
) -> None:
    part.text(0.035, 0.92, name, size=20, weight="bold", color=_INK, va="center", parse_math=False)
    caption = f"{len(records):,} images    {len(records.targets):,} objects"
    ignored = int(records.targets.ignored.sum())
    caption += f"    {ignored:,} of them ignored (crowd, difficult), grey" if ignored else ""
    part.text(0.965, 0.92, caption, size=12, color=_QUIET, va="center", ha="right")
    left, right = part.subplots(
        1,
        2,
        width_ratios=(2, 1),
        gridspec_kw={"left": 0.05, "right": 0.965, "top": 0.68, "bottom": 0.11, "wspace": 0.13},
    )
    _draw_sizes(left, records, sides, palette, title)
    _draw_counts(right, records)


def _draw_sizes(axes: Axes, records: Records, sides: Float64, palette: _Palette, title: str) -> None:
    """Stacked by class, over bins of √area that are half an octave wide."""
    _style(axes, f"Size of the objects: √area in {title}")
    logs = np.log2(np.maximum(sides, 1.0))
    edges = np.arange(
        min(2.0, np.floor(logs.min(initial=2))), max(7.5, np.ceil(logs.max(initial=7)) + 0.5), 0.5
    )
    stacks = [logs[np.isin(records.targets.labels, labels)] for _, _, labels in palette.groups]
    colours = [colour for _, colour, _ in palette.groups]
    axes.hist(stacks, edges.tolist(), stacked=True, color=colours, edgecolor="white", linewidth=0.7, zorder=2)
    axes.set_xlim(edges[0], edges[-1])
    ticks = np.arange(np.ceil(edges[0]), edges[-1] + 0.01)
    axes.set_xticks(ticks, [f"{2**tick:g}" for tick in ticks])
    limits = [edges[0], *np.log2(SIZE_LIMITS), edges[-1]]
    shares = np.histogram(sides, [0, *SIZE_LIMITS, np.inf])[0] / max(1, len(sides))
    for index, band in enumerate(_BANDS):
        begin, end = limits[index], limits[index + 1]
        if index % 2 == 0:
            axes.axvspan(begin, end, color="#eef2f7", zorder=0)
        text = f"{band}\n{_percent(shares[index])}"
        axes.text((begin + end) / 2, 1.015, text, transform=axes.get_xaxis_transform(), size=9.5,
                  color=_INK if shares[index] else _QUIET, ha="center", va="bottom")  # fmt: skip
    handles = [Patch(color=colour) for _, colour, _ in palette.groups]
    names = [
        f"{_short(name, 24)}  {np.isin(records.targets.labels, labels).sum():,}"
        for name, _, labels in palette.groups
    ]
    legend = axes.legend(handles, names, fontsize=9, frameon=True, edgecolor="none", framealpha=0.85)
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def _percent(share: float) -> str:
    return "none" if not share else "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _draw_counts(axes: Axes, records: Records) -> None:
    """How many images have no object, and how many have 1, 2 or 3, 4 to 7, …: doubling bins."""
    _style(axes, "Objects in an image: number of images")
    counts = records.object_counts
    bins = np.where(counts > 0, np.floor(np.log2(np.maximum(counts, 1))) + 1, 0).astype(np.int64)
    heights = np.bincount(bins)
    names = ["0", "1", *(f"{2**power} to\n{2 ** (power + 1) - 1}" for power in range(1, len(heights) - 1))]
    bars = axes.bar(np.arange(len(heights)), heights, color="#64748b", width=0.82, zorder=2)
    axes.bar_label(
        bars, [f"{height:,}" if height else "" for height in heights], size=9, color=_QUIET, padding=2
    )
    axes.set_xticks(np.arange(len(heights)), names[: len(heights)])
    axes.margins(y=0.14)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", size=12, color=_INK, pad=34)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#cbd2d9")
    axes.tick_params(colors=_QUIET, length=0, labelsize=9.5)
    axes.yaxis.grid(visible=True, color="#e4e7eb", zorder=1)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_axisbelow(True)


def _draw_sheet(
    part: SubFigure, records: Records, palette: _Palette, tiles: Sequence[Tile], rendering: Rendering
) -> dict[str, str]:
    rows = _rows(records)
    places = {"left": 0.035, "right": 0.965, "top": 1 - 0.22 / rows, "bottom": 0.05 / rows}
    grid = part.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw={**places, "wspace": 0.05, "hspace": 0.2})
    damaged = {}
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_anchor("NW")
    for axes, tile in zip(grid.flat, tiles, strict=False):
        record = records[tile.index]
        try:
            _draw_tile(axes, tile, record, palette, rendering)
        except DecodeError as error:
            damaged[record.key] = str(error)
            axes.text(0.5, 0.5, "cannot be decoded", transform=axes.transAxes, ha="center", color="#e8274b")
            _caption(axes, tile, record)
    return damaged


def _draw_tile(axes: Axes, tile: Tile, record: Record, palette: _Palette, rendering: Rendering) -> None:
    x0, y0, x1, y1 = tile.window
    pixels = _pixels(record, tile.window, rendering)
    axes.imshow(pixels, extent=(x0, x1, y1, y0), interpolation="nearest", aspect="equal")
    _caption(axes, tile, record)
    lines = _outlines(record.targets.boxes, _MIN_BOX * max(x1 - x0, (y1 - y0) * ASPECT))
    colours = palette.colours(record.targets.labels)
    colours = [
        _OTHERS if ignored else colour
        for colour, ignored in zip(colours, record.targets.ignored.tolist(), strict=True)
    ]
    _draw_masks(axes, tile, record, colours)
    crowded = len(lines) > 60 and tile.window == (0, 0, record.width, record.height)
    width = 0.9 if crowded else 1.4
    axes.add_collection(
        LineCollection(lines, colors="black", linewidths=width + 0.8, alpha=0.5, joinstyle="miter")
    )
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, joinstyle="miter"))
    axes.set_xlim(x0, x1)
    axes.set_ylim(y1, y0)


def _draw_masks(axes: Axes, tile: Tile, record: Record, colours: list[str]) -> None:
    """Masks, filled, of the objects that the tile shows."""
    x0, y0, x1, y1 = tile.window
    masks = masks_in(record.targets.fields)
    if masks is None:
        return
    left, top, right, bottom = masks.boxes.T
    seen = masks.known & (right > x0) & (left < x1) & (bottom > y0) & (top < y1)
    for index in np.flatnonzero(seen).tolist():
        grid, (left, top, _, _) = masks.grid(index)
        place = np.array([left, top])
        rings = [np.concatenate([ring, ring[:1]]) + place for ring in outline(grid)]
        if rings:
            path = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in rings))
            axes.add_patch(PathPatch(path, facecolor=colours[index], alpha=0.35, linewidth=0))


def _caption(axes: Axes, tile: Tile, record: Record) -> None:
    x0, y0, x1, y1 = tile.window
    size = f"{record.width} x {record.height}"
    if (x1 - x0, y1 - y0) != (record.width, record.height):
        size = f"{x1 - x0} x {y1 - y0} of {size}"
    name = _short(record.key, 30)
    axes.set_title(
        f"{tile.why}\n{name}, {size} px", loc="left", size=9.5, color=_INK, pad=5, parse_math=False
    )


def _pixels(record: Record, window: Window, rendering: Rendering) -> npt.NDArray[np.uint8]:
    """A window of an image, reduced to what its tile shows."""
    x0, y0, x1, y1 = window
    scale = min(1.0, _TILE_PIXELS / max(x1 - x0, y1 - y0))
    view = View(window, (max(1, round(scale * (x1 - x0))), max(1, round(scale * (y1 - y0)))))
    return decode_reduced(record.source, lambda *_: view.reduction, rendering=rendering).show(view)


def _outlines(boxes: Float32, smallest: float) -> Any:
    """(N, 5, 2) closed outlines; boxes smaller than ``smallest`` are drawn larger, around their centre."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = np.maximum(boxes[:, 2:] - boxes[:, :2], smallest) / 2
    (left, top), (right, bottom) = (centres - halves).T, (centres + halves).T
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"
