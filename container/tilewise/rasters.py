"""Between a mask's three forms: bitmap, COCO's run lengths, and outlines. Always of a small part of an image.

Run lengths go down the columns, first what is outside. Outlines lie on the edges of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_masks

from tilewise.arrays import Array, Float64, Int64
from tilewise.fields import Corners

Bitmap = npt.NDArray[np.uint8]
"""(h, w) of 0 and 1."""

RunLengthsOfImage = dict[str, Any]
"""``{"size": [height, width], "counts": bytes}``: COCO's, compressed, as pycocotools takes them."""


def rasterise(rings: Sequence[Array], width: int, height: int, *, even_odd: bool = False) -> Bitmap:
    """The pixels of polygons, by COCO's rule: (height, width).

    Args:
        rings: each (P, 2) x and y in pixels; they may reach beyond.
        width: of the bitmap.
        height: of the bitmap.
        even_odd: whether a place inside of two rings is outside; else it is inside.

    """
    polygons = [ring.reshape(-1).astype(np.float64).tolist() for ring in rings]
    layers = [
        decode_runs(width, height, decompressed(one["counts"]))
        for one in coco_masks.frPyObjects(polygons, height, width)
    ]
    if len(layers) == 1:
        return layers[0]
    combine = np.bitwise_xor if even_odd else np.bitwise_or
    bitmap: Bitmap = combine.reduce(layers)
    return bitmap


def decode_runs(width: int, height: int, counts: Array) -> Bitmap:
    """Run lengths that fill a frame of that size -> (height, width)."""
    values = np.zeros(len(counts), np.uint8)
    values[1::2] = 1
    return np.repeat(values, counts).reshape(width, height).T


def decompressed(counts: bytes) -> Int64:
    """The run lengths in COCO's compressed form, as ``rleFrString`` of pycocotools reads them.

    Five bits a character; each run but the first three is the difference to the last one but one.

    Raises:
        ValueError: it has another form.

    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    if not len(last) or last[-1] != len(codes) - 1 or ((codes < 0) | (codes > 63)).any():
        raise ValueError("it is not COCO's compressed form")
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if places.max() > 11:
        raise ValueError("it is not COCO's compressed form")
    numbers: Int64 = np.add.reduceat((codes & 31) << (5 * places), first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * (places[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def runs_of(bitmap: Bitmap) -> Int64:
    """The run lengths of a bitmap; the first may be 0."""
    return runs_of_stripes([bitmap])


def runs_of_stripes(bitmaps: Iterable[Bitmap]) -> Int64:
    """Those of bitmaps of one height side by side, of which each is made after the last."""
    changes, length, last = [np.zeros(1, np.int64)], 0, np.uint8(0)
    for bitmap in bitmaps:
        flat = bitmap.T.reshape(-1)
        changes.append(length + np.flatnonzero(np.diff(flat, prepend=flat.dtype.type(last))))
        length, last = length + len(flat), flat[-1] if len(flat) else last
    return np.diff(np.concatenate([*changes, [length]])).astype(np.int64)


def part_of_runs(width: int, height: int, counts: Array) -> tuple[Bitmap, int, int]:
    """The part of a frame that its run lengths fill: its bitmap, and where that begins.

    No bitmap of the frame is made. Of runs without a pixel inside it is empty.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    starts, ends = ends[0::2][: len(ends) // 2], ends[1::2]
    some = ends > starts
    starts, ends = starts[some], ends[some]
    if not len(starts):
        return np.zeros((0, 0), np.uint8), 0, 0
    first, last = int(starts[0]) // height, (int(ends[-1]) - 1) // height
    # a run that goes on in the next column touches top and bottom
    whole = bool((starts // height != (ends - 1) // height).any())
    top = 0 if whole else int((starts % height).min())
    bottom = height if whole else int(((ends - 1) % height).max()) + 1
    flat = np.zeros((last - first + 1) * height + 1, np.int8)
    if (last - first + 1) * height < 1 << 20 or whole:
        np.add.at(flat, starts - first * height, 1)
        np.add.at(flat, ends - first * height, -1)
        columns = np.cumsum(flat[:-1], dtype=np.int8).view(np.uint8).reshape(-1, height)
        return np.ascontiguousarray(columns[:, top:bottom].T), first, top
    bitmap = np.zeros((bottom - top, last - first + 1), np.uint8)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        bitmap[start % height - top : (end - 1) % height + 1 - top, start // height - first] = 1
    return bitmap, first, top


def encode(bitmap: Bitmap, place: Corners, *, width: int, height: int) -> RunLengthsOfImage:
    """A bitmap at a whole-numbered place of an image -> run lengths of the image, which is never made.

    Args:
        bitmap: (h, w), inside of the image.
        place: where it is; only its left and top count.
        width: of the image.
        height: of the image.

    """
    left, top = int(place[0]), int(place[1])
    rows, columns = bitmap.shape
    padded = np.zeros((columns, rows + 2), np.int8)
    padded[:, 1:-1] = bitmap.T
    steps = np.diff(padded, axis=1)
    column, row = np.nonzero(steps)
    flat = (column + left) * height + row + top
    # where one run ends at the bottom and the next begins at the top of the next column, they are one
    same = np.flatnonzero(flat[1::2][:-1] == flat[2::2])
    flat = np.delete(flat, np.concatenate([2 * same + 1, 2 * same + 2]))
    ends = [] if len(flat) and flat[-1] == width * height else [width * height]
    counts = np.diff(np.concatenate([[0], flat, ends])).astype(np.int64)
    compressed: RunLengthsOfImage = coco_masks.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
    return compressed


def text_of(runs: RunLengthsOfImage | None) -> RunLengthsOfImage | None:
    """Run lengths as JSON has them."""
    return None if runs is None else {"size": runs["size"], "counts": runs["counts"].decode()}


def area_of(runs: RunLengthsOfImage) -> int:
    """The pixels of a mask; pycocotools 2.0.11 fails for a list of more than 255."""
    return int(decompressed(runs["counts"])[1::2].sum())


def outline(bitmap: Bitmap, most_points: int | None = None) -> list[Float64]:
    """The rings around a bitmap's pixels, along their edges: outer ones and, turned the other way, holes.

    COCO's rule makes the same bitmap of them again, by even-odd. Pixels that only touch at a corner are
    in rings of their own. With ``most_points`` all rings together have at most so many, but each at least
    three: the outline is simplified (Douglas and Peucker 1973) as much as that takes. The smallest rings are
    left out where that costs less of the area than to simplify the others would.

    Returns:
        each (P, 2) x and y, not closed, largest first.

    """
    rings = sorted(_rings(bitmap), key=lambda ring: -_area(ring))
    if most_points is None or sum(map(len, rings)) <= most_points:
        return rings
    rings, tolerance = rings[: max(1, most_points // 3)], 0.5
    around = np.cumsum([_length(ring) for ring in rings])
    while True:
        simple = [_simplified(ring, tolerance) for ring in rings]
        while sum(map(len, simple)) > most_points and len(simple) > 1:
            if _area(rings[len(simple) - 1]) > tolerance / 2 * around[len(simple) - 2]:
                break
            simple.pop()
        rings = rings[: len(simple)]
        if sum(map(len, simple)) <= most_points or all(len(ring) <= 3 for ring in simple):
            return simple
        tolerance *= 1.3


def joined(rings: Sequence[Array]) -> Array:
    """One ring of several, joined by lines there and back, which by even-odd is the same: (P, 2)."""
    first, *others = rings
    parts = [first]
    for ring in others:
        parts += [first[:1], ring, ring[:1]]
    return np.concatenate([*parts, first[:1]] if others else parts)


def _simplified(ring: Float64, tolerance: float) -> Float64:
    if len(ring) <= 3:
        return ring
    points = cv2.approxPolyDP(ring.astype(np.float32), tolerance, closed=True).reshape(-1, 2)
    if len(points) >= 3:
        return points.astype(np.float64)
    # what collapses to a line stays a triangle: its two ends and the point farthest from them
    spread = np.linalg.norm(ring - ring.mean(axis=0), axis=1)
    one = int(spread.argmax())
    other = int(np.linalg.norm(ring - ring[one], axis=1).argmax())
    along = ring[other] - ring[one]
    offset = ring - ring[one]
    third = int(np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0]).argmax())
    return ring[sorted({one, other, third})]


def _rings(bitmap: Bitmap) -> list[Float64]:
    """The directed edges between inside and outside, inside to the right, linked to rings of corners."""
    padded = np.pad(bitmap.astype(np.int8), 1)
    down = np.argwhere(np.diff(padded, axis=0))  # horizontal edges: (row, column) of the padded bitmap
    across = np.argwhere(np.diff(padded, axis=1))  # vertical edges
    follows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, column in down.tolist():
        left, right = (column - 1, row), (column, row)
        one, other = (left, right) if padded[row + 1, column] else (right, left)
        follows.setdefault(one, []).append(other)
    for row, column in across.tolist():
        upper, lower = (column, row - 1), (column, row)
        one, other = (lower, upper) if padded[row, column + 1] else (upper, lower)
        follows.setdefault(one, []).append(other)
    rings = []
    while follows:
        start = next(iter(follows))
        place, direction, corners = start, (0, 0), []
        while True:
            ends = follows[place]
            following = ends[0] if len(ends) == 1 else _right_turn(place, direction, ends)
            ends.remove(following)
            if not ends:
                del follows[place]
            step = following[0] - place[0], following[1] - place[1]
            if step != direction:
                corners.append(place)
            place, direction = following, step
            if place == start:
                break
        # the start is a corner only where the ring turns there
        first = corners[1][0] - corners[0][0], corners[1][1] - corners[0][1]
        if first[0] * direction[1] == first[1] * direction[0]:
            corners = corners[1:]
        rings.append(np.asarray(corners, np.float64))
    return rings


def _right_turn(
    place: tuple[int, int], direction: tuple[int, int], ends: list[tuple[int, int]]
) -> tuple[int, int]:
    """Where two pixels touch at a corner: the way around the same pixel."""
    turned = place[0] - direction[1], place[1] + direction[0]
    return turned if turned in ends else ends[0]


def _length(ring: Float64) -> float:
    return float(np.linalg.norm(ring - np.roll(ring, -1, axis=0), axis=1).sum())


def _area(ring: Float64) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
