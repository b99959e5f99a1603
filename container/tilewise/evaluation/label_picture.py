"""A channel of images with classes as a picture: how many images each class has, and some of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from tilewise.arrays import Bool
from tilewise.data.decoding.decode import DecodeError, decode_reduced
from tilewise.data.image_labels import shown_classes
from tilewise.data.records import Records
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View

COLUMNS, IMAGES, MOST_BARS = 6, 24, 40
PIXELS = 320


def draw_labels(
    channels: Mapping[str, Records],
    classes: tuple[str, ...],
    *,
    path: Path,
    seed: int = 0,
    rendering: Rendering = AS_STORED,
) -> dict[str, str]:
    """Write one picture of some channels, one below the other.

    Args:
        channels: name -> records.
        classes: names by label.
        path: a PNG file.
        seed: draws the images that are shown.
        rendering: of the images.

    Returns:
        Key -> reason, of the images that were to be shown but cannot be decoded.

    """
    heights = [3.2 + 2.6 * -(-min(len(records), IMAGES) // COLUMNS) for records in channels.values()]
    figure = Figure(figsize=(15, sum(heights)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    damaged: dict[str, str] = {}
    parts = figure.subfigures(len(channels), 1, squeeze=False, height_ratios=heights)
    for part, (name, records), height in zip(parts.flat, channels.items(), heights, strict=True):
        chart, sheet = part.subfigures(2, 1, height_ratios=(3.2, height - 3.2))
        shown = shown_classes(records, len(classes))
        _draw_bars(chart, f"{name}: {len(records):,} images", shown, classes)
        damaged |= _draw_sheet(sheet, records, shown, classes, seed=seed, rendering=rendering)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class's name in a script that the font lacks
        figure.savefig(path)
    return damaged


def _draw_bars(part: SubFigure, title: str, shown: Bool, classes: tuple[str, ...]) -> None:
    """Images of each class, the commonest first; those of many classes together."""
    counts = shown.sum(axis=0)
    order = np.argsort(-counts, kind="stable").tolist()
    names, heights = [_short(classes[label]) for label in order], counts[order].tolist()
    if len(order) > MOST_BARS:
        rest = len(order) - MOST_BARS
        names = [*names[:MOST_BARS], f"each of {rest} more"]
        heights = [*heights[:MOST_BARS], sum(heights[MOST_BARS:]) / rest]
    without = int((~shown.any(axis=1)).sum())
    if without:
        names, heights = [*names, "without a class"], [*heights, without]
    many = len(names) > 8
    places = {"left": 0.05, "right": 0.98, "top": 0.85, "bottom": 0.35 if many else 0.12}
    axes = part.subplots(gridspec_kw=places)
    bars = axes.bar(np.arange(len(names)), heights, color="#2f7bff")
    axes.bar_label(bars, [f"{height:,.0f}" for height in heights], size=9)
    axes.set_xticks(
        np.arange(len(names)), names, rotation=45 if many else 0, ha="right" if many else "center"
    )
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    axes.set_title(title, loc="left", size=15, parse_math=False)


def _draw_sheet(
    part: SubFigure,
    records: Records,
    shown: Bool,
    classes: tuple[str, ...],
    *,
    seed: int,
    rendering: Rendering,
) -> dict[str, str]:
    damaged = {}
    chosen = _spread(shown, seed)
    rows = -(-len(chosen) // COLUMNS)
    grid = part.subplots(
        rows, COLUMNS, squeeze=False, gridspec_kw={"left": 0.02, "right": 0.98, "top": 0.92, "bottom": 0.01}
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, chosen, strict=False):
        record = records[index]
        names = ", ".join(classes[label] for label in np.flatnonzero(shown[index])) or "no class"
        axes.set_title(f"{_short(names)}\n{_short(record.key)}", size=8.5, loc="left", parse_math=False)
        scale = min(1.0, PIXELS / max(record.width, record.height))
        size = max(1, round(scale * record.width)), max(1, round(scale * record.height))
        view = View((0, 0, record.width, record.height), size)
        try:
            image = decode_reduced(record.source, lambda *_, view=view: view.reduction, rendering=rendering)
            axes.imshow(image.show(view))
        except DecodeError as error:
            damaged[record.key] = str(error)
            axes.text(0.5, 0.5, "cannot be decoded", transform=axes.transAxes, ha="center", color="#e8274b")
    return damaged


def _spread(shown: Bool, seed: int) -> list[int]:
    """Images at random, as many of each class as there is room for, and those without one."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(shown))
    columns = np.column_stack([shown, ~shown.any(axis=1)])
    queues = [order[columns[order, label]].tolist() for label in np.argsort(columns.sum(axis=0))]
    chosen: dict[int, None] = {}
    for turn in range(len(shown)):
        for queue in queues:
            if turn < len(queue) and len(chosen) < IMAGES:
                chosen.setdefault(queue[turn])
    return sorted(chosen, key=lambda index: np.flatnonzero(columns[index]).tolist())


def _short(text: str, length: int = 28) -> str:
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"
