"""What was found in a channel, as data: for ``metrics.json`` and the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.channel_table import SIZE_NAMES, masks_of, size_histogram
from tilewise.data.records import Records

MAX_NAMED = 1000
"""So many images left out, and so many dropped boxes, are named; the counts are always whole."""

OCTAVE_PARTS = 4
"""Bars of the histogram of sizes for each doubling of the size."""


def channel_statistics(
    records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, whole: bool = True
) -> dict[str, Any]:
    """The facts of one channel, as JSON takes them.

    Args:
        records: those that can be used.
        issues: what became of the others.
        classes: names by label.
        whole: whether these are all its records; of a pipe only the first ones may be known.

    """
    counts = np.bincount(records.targets.labels, minlength=len(classes)).tolist()
    known = masks_of(records)
    masks = (
        {}
        if known is None
        else {
            "masks": int(known.sum()),
            "masks_dropped_count": len(issues.masks_dropped),
            "masks_dropped": issues.masks_dropped[:MAX_NAMED],
        }
    )
    return {
        "images": len(records),
        "whole": whole,
        "without_objects": int((records.object_counts == 0).sum()),
        "left_out_count": len(issues.left_out),
        "left_out": dict(list(issues.left_out.items())[:MAX_NAMED]),
        "boxes": len(records.targets),
        "ignored": int(records.targets.ignored.sum()),
        "clipped": issues.clipped,
        "dropped_count": len(issues.dropped),
        "dropped": issues.dropped[:MAX_NAMED],
        "repeated": issues.repeated,
        **masks,
        "doubts": issues.doubts,
        "most_objects": int(records.object_counts.max(initial=0)),
        "image_sizes": _range(records),
        "classes": dict(zip(classes, counts, strict=True)),
        "sizes": dict(zip(SIZE_NAMES, size_histogram(records).tolist(), strict=True)),
        "size_histogram": size_bars(records),
    }


def size_bars(records: Records) -> dict[str, int]:
    """How many objects there are of each size, by the √area in pixels at which a bar begins.

    Each bar is 2^(1/:data:`OCTAVE_PARTS`) as long as the one before, and the bars are without gaps.
    """
    sizes = records.object_sizes
    if not len(sizes):
        return {}
    bars = np.floor(OCTAVE_PARTS * np.log2(sizes)).astype(np.int64)
    first = int(bars.min())
    counts = np.bincount(bars - first).tolist()
    return {f"{2 ** ((first + bar) / OCTAVE_PARTS):.4g}": count for bar, count in enumerate(counts)}


def _range(records: Records) -> dict[str, list[int]]:
    """Smallest, median and largest image, by area: width and height."""
    if not len(records):
        return {}
    order = records.sizes[np.argsort(records.sizes.prod(axis=1), kind="stable")].tolist()
    return {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}
