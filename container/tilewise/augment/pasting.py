"""The pixels of objects that are pasted into a view of an image: all of a view's at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from tilewise.arrays import Array, Float32, Float64, Int64
from tilewise.augment.copy_paste import Pastes, extents
from tilewise.data.decoding.decode import DecodedImage
from tilewise.masks import Masks, masks_in
from tilewise.targets import Targets
from tilewise.views.view import View, Window

MOST_ROWS, MOST_PIXELS = 16_000, 1 << 20
"""Objects of so many rows of their own images, and pixels of the view, are pasted at a time."""

COLUMNS = 1024
"""Places to sample are given to OpenCV in rows of so many."""

LONGEST_SIDE = 32_766
"""OpenCV samples no larger images."""


def paste_objects(
    pixels: Tensor,
    view: View,
    pastes: Pastes,
    *,
    objects: Targets[Array],
    image: DecodedImage,
    image_of: Callable[[int], DecodedImage] | None = None,
) -> None:
    """Paste what a view shows of it, in place.

    Objects are sampled in their own image where the view's pixels lie on them: no image is copied, and all
    views of an image show the same. A view that is smaller than the image sees them reduced, so that no pixel
    is passed over: in what it shows of them already, where it does.

    Args:
        pixels: (3, h, w) uint8 of the view.
        view: of the image that is pasted into.
        pastes: into that image.
        objects: that their sources are numbers of, in the pixels of their own images.
        image: of the view.
        image_of: from the number of an object to its own image; None where that is the view's.

    """
    canvas = pixels.permute(1, 2, 0).numpy()
    for seen in _Seen.of(view, pastes, objects).parts():
        if image_of is None:
            source = _Source.of_one(seen, image, view, canvas)
        else:
            source = _Source.of_several(seen, [image_of(number) for number in seen.numbers.tolist()], view)
        _paste(canvas, seen, source)


@dataclass(frozen=True)
class _Seen:
    """The K objects of which a view shows something.

    Attributes:
        numbers: (K,) among those that they were chosen from.
        own: (K, 2, 2) from the view's pixels to those of their own images.
        start: (K, 2) where the middle of the first of the view's pixels lies there, from the object's middle.
        boxes: (K, 4) around them there.
        feather: (K,) pixels there over which they fade out.
        masks: theirs, where objects have such.
        low, high: (K, 2) the view's pixels whose middles each covers; no two cover the same.

    """

    numbers: Int64
    own: Float64
    start: Float64
    boxes: Float32
    feather: Int64
    masks: Masks | None
    low: Int64
    high: Int64

    @staticmethod
    def of(view: View, pastes: Pastes, objects: Targets[Array]) -> _Seen:
        """Those of all that are pasted into the view's image."""
        corner, scale = np.array(view.window[:2]), np.array(view.scale)
        covered = (pastes.covered.reshape(-1, 2, 2) - corner) * scale
        places = np.ceil(covered - 0.5).astype(np.int64)
        low, high = places[:, 0].clip(min=0), np.minimum(places[:, 1], view.size)
        seen = np.flatnonzero((low < high).all(axis=1))
        low, high, to_image = low[seen], high[seen], pastes.to_image[seen]
        shown = objects.select(pastes.sources[seen])
        boxes = extents(shown)
        linear, shift = to_image[:, :, :2], to_image[:, :, 2]
        back = linear.transpose(0, 2, 1) / (linear[:, :, 0] ** 2).sum(axis=1)[:, None, None]  # a similarity's
        first = (back @ ((low + 0.5) / scale + corner - shift)[..., None])[..., 0]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        return _Seen(
            numbers=pastes.sources[seen],
            own=back / scale,
            start=first - middle,
            boxes=boxes,
            feather=pastes.feather[seen],
            masks=masks_in(shown.fields),
            low=low,
            high=high,
        )

    def parts(self) -> Iterator[_Seen]:
        """Some at a time, so many that their pixels fit into memory, and their patches on each other."""
        rows = np.cumsum(np.ceil(self.boxes[:, 3] - self.boxes[:, 1]) + 16)
        pixels = np.cumsum((self.high - self.low).prod(axis=1))
        part = rows // MOST_ROWS + pixels // MOST_PIXELS
        if len(part) and part[0] == part[-1]:
            yield self
            return
        for some in np.split(np.arange(len(part)), np.flatnonzero(np.diff(part)) + 1):
            if len(some):
                masks = None if self.masks is None else self.masks.select(some)
                names = [name for name in self.__dataclass_fields__ if name != "masks"]
                yield replace(self, masks=masks, **{name: getattr(self, name)[some] for name in names})


def _paste(canvas: Array, seen: _Seen, source: _Source) -> None:
    """Paste objects into a view's pixels, (h, w, 3)."""
    x, y, alpha = _samples(seen, source)
    colours = _sampled(source.pixels, x, y)
    pixels = (seen.high - seen.low).prod(axis=1)
    if source.shapes is not None:
        has_shape = np.zeros(alpha.size, np.bool_)
        has_shape[: pixels.sum()] = np.repeat(source.has_shape, pixels)
        shape = _sampled(source.shapes, x, y)
        alpha = np.where(has_shape.reshape(alpha.shape), alpha * shape, alpha)
    under = np.zeros_like(colours)
    ends = np.cumsum(pixels)
    places = np.concatenate([seen.low, seen.high], axis=1).tolist()
    parts = list(zip(places, (ends - pixels).tolist(), ends.tolist(), strict=True))
    row = under.reshape(-1, 3)
    for (x0, y0, x1, y1), start, end in parts:
        row[start:end].reshape(y1 - y0, x1 - x0, 3)[:] = canvas[y0:y1, x0:x1]
    row = np.asarray(cv2.blendLinear(colours, under, alpha, 1 - alpha)).reshape(-1, 3)
    for (x0, y0, x1, y1), start, end in parts:
        canvas[y0:y1, x0:x1] = row[start:end].reshape(y1 - y0, x1 - x0, 3)


def _samples(seen: _Seen, source: _Source) -> tuple[Float32, Float32, Float32]:
    """Where a view's pixels are sampled, x and y in a source's pixels, and how much of each that shows.

    Returns:
        (…, :data:`COLUMNS`) each: all pixels of the first object, row by row, then of the next. The last row
        goes on to the end.

    """
    # the unit is what a rectangle fades out over
    unit = np.where(source.has_shape, 1, seen.feather)[:, None]
    reach = (seen.boxes[:, 2:] - seen.boxes[:, :2]) / 2 / unit + np.where(source.has_shape, 2, 1)[:, None]
    own = seen.own / unit[..., None]
    numbers = [seen.start / unit, own[..., 0], reach, unit * source.scale, source.middle]
    wide, high = (seen.high - seen.low).T
    of_row = np.repeat(np.arange(len(wide)), high)
    row = np.arange(len(of_row)) - (np.cumsum(high) - high)[of_row]
    of_rows = np.concatenate(numbers, axis=1).T[:, of_row]
    of_rows[:2] += own[..., 1].T[:, of_row] * row
    columns = wide[of_row]
    starts = np.cumsum(columns) - columns
    columns[-1] += -int(columns.sum()) % COLUMNS
    across = (np.arange(columns.sum()) - np.repeat(starts, columns)).astype(np.float32)
    spread = np.repeat(of_rows.astype(np.float32), columns, axis=1)
    u, v = spread[:2] + spread[2:4] * across
    alpha = fade(u, spread[4]) * fade(v, spread[5])
    x, y = spread[6] * u + spread[8], spread[7] * v + spread[9]
    if source.limits is not None:
        low_x, low_y, high_x, high_y = np.repeat(
            source.limits.T[:, of_row].astype(np.float32), columns, axis=1
        )
        x, y = x.clip(low_x, high_x), y.clip(low_y, high_y)
    return x.reshape(-1, COLUMNS), y.reshape(-1, COLUMNS), alpha.reshape(-1, COLUMNS)


def fade(places: Float32, reach: Float32) -> Float32:
    """How much of an object shows along one axis: all up to one unit before its reach, nothing beyond it."""
    return np.asarray((reach - abs(places)).clip(0, 1))


def _sampled(image: Array, x: Float32, y: Float32) -> Array:
    """An image, (h, w, …), at places, of which the centres of its pixels are the whole numbers: bilinear."""
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@dataclass(frozen=True)
class _Source:
    """What K objects are sampled from.

    Attributes:
        pixels: (H, W, 3) uint8: of their image or a view of it, or their patches on each other.
        shapes: (H, W) float32, the share of each pixel that a mask covers; None where no object has one.
        has_shape: (K,) which objects have a mask.
        middle: (K, 2) where the middle of each one's box is; the centre of the first pixel is 0.
        limits: (K, 4) the first and the last pixel of each one's patch; None for one image.
        scale: (2,) pixels of it for one of their own images, along x and y.

    """

    pixels: Array
    shapes: Float32 | None
    has_shape: Array
    middle: Float64
    limits: Array | None
    scale: Float64

    @staticmethod
    def of_one(seen: _Seen, image: DecodedImage, view: View, canvas: Array) -> _Source:
        """The image itself, or what the view shows of it, if that will do."""
        none = np.zeros(len(seen.numbers), np.bool_)
        if image.scene or (seen.masks is not None and seen.masks.known.any()):
            return _Source.of_several(seen, [image] * len(none), view)
        middle, scale = (seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2, np.array(view.scale)
        if _reduction(image, view) == 1 and max(image.pixels.shape) <= LONGEST_SIDE:
            pixels, scale = np.moveaxis(image.pixels, 0, 2), np.full(2, 1 / image.factor)
            return _Source(pixels, None, none, middle * scale - 0.5, None, scale)
        corner = np.array(view.window[:2])
        low = np.ceil((-corner * scale).clip(min=0)).astype(np.int64)
        high = np.minimum((([image.width, image.height] - corner) * scale).astype(np.int64), view.size)
        boxes = (seen.boxes.reshape(-1, 2, 2) - corner) * scale
        if len(none) and not ((boxes[:, 0] > low - 1).all() and (boxes[:, 1] < high + 1).all()):
            return _Source.of_several(seen, [image] * len(none), view)
        pixels = canvas[low[1] : high[1], low[0] : high[0]]
        return _Source(pixels, None, none, (middle - corner) * scale - 0.5 - low, None, scale)

    @staticmethod
    def of_several(seen: _Seen, images: Sequence[DecodedImage], view: View) -> _Source:
        """Patches out of the images of each, reduced as the view needs them."""
        factor = images[0].factor if images[0].scene is None else 1
        reduction = _reduction(images[0], view)
        has_shape = np.zeros(len(images), np.bool_) if seen.masks is None else seen.masks.known
        middle = (seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2
        margin = seen.feather[:, None] + factor
        ends = np.array([[image.width, image.height] for image in images])
        low = np.floor((seen.boxes[:, :2] - margin).clip(min=0) / factor).astype(np.int64)
        high = np.ceil(np.minimum(seen.boxes[:, 2:] + margin, ends) / factor).astype(np.int64)
        sizes = -(-(high - low) // reduction)
        rows = np.cumsum(sizes[:, 1]) - sizes[:, 1]
        shape = reduction * int(sizes[:, 1].sum()), reduction * int(sizes[:, 0].max())
        pixels = np.zeros((*shape, 3), np.uint8)
        shapes: Float32 | None = np.zeros(shape, np.float32) if has_shape.any() else None
        places = np.concatenate([low, high, reduction * sizes, reduction * rows[:, None]], axis=1).tolist()
        for number, (x0, y0, x1, y1, wide, tall, top) in enumerate(places):
            patch = _cut(images[number], (x0, y0, x1, y1))
            _fill(pixels[top : top + tall, :wide], patch)
            if shapes is not None and has_shape[number]:
                assert seen.masks is not None
                window = factor * x0, factor * y0, factor * x1, factor * y1
                mask = seen.masks.select(slice(number, number + 1))
                shapes[top : top + y1 - y0, : x1 - x0] = silhouette(mask, window, size=(x1 - x0, y1 - y0))
        if reduction > 1:
            size = shape[1] // reduction, shape[0] // reduction
            pixels = _reduced(pixels, size)
            shapes = None if shapes is None else _reduced(shapes, size)
        scale, corner = 1 / (factor * reduction), np.stack([0 * rows, rows], axis=1)
        return _Source(
            pixels,
            shapes,
            has_shape,
            (middle - factor * low) * scale - 0.5 + corner,
            np.concatenate([corner, corner + sizes - 1], axis=1),
            np.full(2, scale),
        )


def _reduction(image: DecodedImage, view: View) -> int:
    """By how much an image, as it was decoded, is reduced so that a view passes over none of its pixels."""
    factor = image.factor if image.scene is None else 1
    return max(1, round(1 / (min(view.scale) * factor)))


def _reduced(image: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _cut(image: DecodedImage, window: Window) -> Array:
    """(h, w, 3) of an image, in its pixels as it was decoded; the window is inside of it."""
    x0, y0, x1, y1 = window
    if not image.scene:
        return np.moveaxis(image.pixels[:, y0:y1, x0:x1], 0, 2)
    source, _ = image.seen_by(View(window, (x1 - x0, y1 - y0)))
    read, (x0, y0, x1, y1) = source.part(window)
    return np.moveaxis(np.asarray(read[:, y0:y1, x0:x1]), 0, 2)


def _fill(place: Array, patch: Array) -> None:
    """Put a patch into a place that may be larger, where its last row and column go on."""
    height, width = patch.shape[:2]
    place[:height, :width] = patch
    if len(place) > height:
        place[height:, :width] = patch[-1:]
    if place.shape[1] > width:
        place[:, width:] = place[:, width - 1 : width]


def silhouette(mask: Masks, window: Window, *, size: tuple[int, int]) -> Float32:
    """(h, w) the shape of an object whose mask is known: the share of each pixel that the mask covers.

    Args:
        mask: in pixels of its image.
        window: of the image.
        size: (width, height) in pixels of the shape.

    """
    x0, y0, x1, y1 = window
    shape = np.zeros((y1 - y0, x1 - x0), np.float32)
    grid, place = mask.crop(window, (x1 - x0, y1 - y0)).grid(0)
    left, top, right, bottom = map(int, place)
    shape[top:bottom, left:right] = grid
    return np.asarray(cv2.resize(shape, size, interpolation=cv2.INTER_AREA))
