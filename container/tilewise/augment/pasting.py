"""The pixels of objects that are pasted into a view of an image: all of a view's at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from tilewise.arrays import Array, Float32, Float64, Int64
from tilewise.augment.copy_paste import Paste, extents
from tilewise.data.decode import DecodedImage
from tilewise.masks import Masks, masks_in
from tilewise.targets import Targets
from tilewise.views.view import View, Window

MOST_ROWS = 16_000
"""Patches are stacked to an image of so many rows at most: OpenCV takes no more than 32,767."""

COLUMNS = 1024
"""Places to sample are given to OpenCV in rows of so many, for the same reason."""


def paste_objects(
    pixels: Tensor,
    view: View,
    pastes: Sequence[Paste],
    *,
    objects: Targets[Array],
    image_of: Callable[[int], DecodedImage],
) -> None:
    """Paste what a view shows of it, in place.

    Objects are cut from their own image, and sampled where the view's pixels lie on them: no image is copied,
    and all views of an image show the same. A view that is smaller than the image sees them reduced, so that
    no pixel is passed over.

    Args:
        pixels: (3, h, w) uint8 of the view.
        view: of the image that is pasted into.
        pastes: into that image.
        objects: that their sources are numbers of, in the pixels of their own images.
        image_of: from the number of an object to its own image.

    """
    canvas = pixels.permute(1, 2, 0).numpy()
    shown = objects.select(np.array([paste.source for paste in pastes], np.int64))
    seen = _Seen.of(view, pastes, extents(shown))
    masks = masks_in(shown.fields)
    for some in seen.groups():
        part = seen.select(some)
        images = [image_of(pastes[number].source) for number in part.numbers.tolist()]
        own = masks.select(part.numbers) if masks is not None else None
        _paste(canvas, part, images, own, view)


@dataclass(frozen=True)
class _Seen:
    """The K objects of which a view shows something.

    Attributes:
        numbers: (K,) among all that are pasted.
        to_view: (K, 2, 3) from the pixels of their own images.
        boxes: (K, 4) around them there.
        feather: (K,) pixels there over which they fade out.
        low, high: (K, 2) the view's pixels that each can reach.

    """

    numbers: Int64
    to_view: Float64
    boxes: Float32
    feather: Int64
    low: Int64
    high: Int64

    @staticmethod
    def of(view: View, pastes: Sequence[Paste], boxes_N4: Float32) -> _Seen:
        """Those of all that are pasted into the view's image."""
        x0, y0, _, _ = view.window
        to_image = np.array([paste.to_image for paste in pastes]).reshape(-1, 2, 3)
        to_view = np.array([[view.scale[0]], [view.scale[1]]]) * (to_image - [[0, 0, x0], [0, 0, y0]])
        feather = np.array([paste.feather for paste in pastes], np.int64)
        half = (boxes_N4[:, 2:] - boxes_N4[:, :2]) / 2 + feather[:, None]
        middle = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
        centre = (to_view[..., :2] @ middle[..., None])[..., 0] + to_view[..., 2]
        reach = (abs(to_view[..., :2]) @ half[..., None])[..., 0]
        low = np.floor(centre - reach).clip(min=0).astype(np.int64)
        high = np.minimum(np.ceil(centre + reach), view.size).astype(np.int64)
        numbers = np.flatnonzero((low < high).all(axis=1))
        return _Seen(np.arange(len(pastes)), to_view, boxes_N4, feather, low, high).select(numbers)

    def select(self, some: Int64) -> _Seen:
        """Some of them."""
        return _Seen(*(getattr(self, name)[some] for name in self.__dataclass_fields__))

    def groups(self) -> Iterator[Int64]:
        """Their indices, so many at a time that their patches fit on each other."""
        rows = np.cumsum(np.ceil(self.boxes[:, 3] - self.boxes[:, 1]) + 16).astype(np.int64)
        for group in range(rows[-1] // MOST_ROWS + 1 if len(rows) else 0):
            some = np.flatnonzero(rows // MOST_ROWS == group)
            if len(some):
                yield some


def _paste(
    canvas: Array, seen: _Seen, images: Sequence[DecodedImage], masks: Masks | None, view: View
) -> None:
    """Paste objects into a view's pixels, (h, w, 3), where they lie apart from each other."""
    stack = _Stack.of(seen, images, masks, view)
    rows, columns, of = _pixels_of(seen.low, seen.high)
    # from the view's pixels to places around the middle of each box; the unit is what it fades out over
    unit = np.where(stack.has_shape, 1, seen.feather)[:, None]
    middle, half = (boxes := seen.boxes)[:, :2] / 2 + boxes[:, 2:] / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    linear = np.linalg.inv(seen.to_view[..., :2]) / unit[..., None]
    offset = (linear @ (0.5 - seen.to_view[..., 2:]))[..., 0] - middle / unit
    reach = half / unit + np.where(stack.has_shape, 2, 1)[:, None]
    numbers = np.concatenate([linear.reshape(-1, 4), offset, reach], axis=1)
    xx, xy, yx, yy, x0, y0, wide, high = _repeated(numbers, of)
    across, down = columns.astype(np.float32), rows.astype(np.float32)
    u, v = xx * across + xy * down + x0, yx * across + yy * down + y0
    alpha: Float32 = fade(u, wide) * fade(v, high)
    kept = np.flatnonzero(alpha > 0)
    rows, columns, of = (each[kept] for each in (rows, columns, of))
    alpha, u, v = (each[kept] for each in (alpha, u, v))
    # from there to the stack's pixels, whose centres OpenCV puts at whole numbers
    start = (middle - stack.corners) * stack.scale - 0.5
    numbers = np.concatenate([unit * stack.scale, start, stack.sizes - 1, stack.rows[:, None]], axis=1)
    zoom, x0, y0, wide, high, first = _repeated(numbers, of)
    x, y = (zoom * u + x0).clip(0, wide), (zoom * v + y0).clip(0, high) + first
    if stack.shapes is not None:
        alpha = np.where(stack.has_shape[of], alpha * _sampled(stack.shapes, x, y), alpha)
    under = canvas[rows, columns]
    change = alpha[:, None] * (_sampled(stack.patches, x, y) - under.astype(np.float32))
    canvas[rows, columns] = np.rint(under + change).astype(np.uint8)


def _pixels_of(low_K2: Int64, high_K2: Int64) -> tuple[Int64, Int64, Int64]:
    """The rows and columns of all pixels of rectangles, and of which rectangle each is: (P,)."""
    width, height = (high_K2 - low_K2).T
    area = width * height
    of = np.repeat(np.arange(len(area)), area)
    number = np.arange(len(of)) - np.repeat(np.cumsum(area) - area, area)
    rows, columns = np.divmod(number, np.repeat(width, area))
    return rows + np.repeat(low_K2[:, 1], area), columns + np.repeat(low_K2[:, 0], area), of


def _repeated(numbers_KN: Array, of_P: Int64) -> Float32:
    """(N, P) the numbers of the object that each pixel is of; its objects come in their order."""
    counts = np.bincount(of_P, minlength=len(numbers_KN))
    return np.repeat(numbers_KN.T.astype(np.float32), counts, axis=1)


def fade(places: Float32, reach: Float32) -> Float32:
    """How much of an object shows along one axis: all up to one unit before its reach, nothing beyond it."""
    return np.asarray((reach - abs(places)).clip(0, 1))


def _sampled(image: Array, x_P: Float32, y_P: Float32) -> Array:
    """(P, …) of (h, w, …): between pixels, whose centres are at whole numbers, bilinear."""
    count = len(x_P)
    x, y = (np.zeros((-(-count // COLUMNS), COLUMNS), np.float32) for _ in range(2))
    x.reshape(-1)[:count], y.reshape(-1)[:count] = x_P, y_P
    if not count:
        return np.zeros((0, *image.shape[2:]), image.dtype)
    sampled = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled).reshape(-1, *image.shape[2:])[:count]


@dataclass(frozen=True)
class _Stack:
    """The patches of K objects on each other, reduced as a view needs them.

    Attributes:
        patches: (H, W, 3) uint8.
        shapes: (H, W) float32, the share of each pixel that a mask covers; None where no object has one.
        has_shape: (K,) which objects have a mask.
        corners: (K, 2) where each patch begins in its own image, in pixels of that.
        sizes: (K, 2) width and height of each, in pixels of the stack.
        rows: (K,) where each begins in the stack.
        scale: pixels of the stack for one of the own image.

    """

    patches: Array
    shapes: Float32 | None
    has_shape: Array
    corners: Float32
    sizes: Float32
    rows: Float32
    scale: np.float32

    @staticmethod
    def of(seen: _Seen, images: Sequence[DecodedImage], masks: Masks | None, view: View) -> _Stack:
        """Cut them out of their images."""
        zoom = float(np.sqrt(view.scale[0] * view.scale[1]))
        factor = images[0].factor if images[0].scene is None else 1
        reduction = max(1, round(1 / (zoom * factor)))
        margin = seen.feather[:, None] + factor
        limits = np.array([[image.width, image.height] for image in images])
        low = np.floor((seen.boxes[:, :2] - margin).clip(min=0) / factor).astype(np.int64)
        high = np.ceil(np.minimum(seen.boxes[:, 2:] + margin, limits) / factor).astype(np.int64)
        sizes = -(-(high - low) // reduction)
        ends = np.cumsum(sizes[:, 1])
        rows = ends - sizes[:, 1]
        shape = reduction * int(ends[-1]), reduction * int(sizes[:, 0].max())
        has_shape = np.zeros(len(images), np.bool_) if masks is None else masks.known
        patches: Array = np.zeros((*shape, 3), np.uint8)
        shapes: Float32 | None = np.zeros(shape, np.float32) if has_shape.any() else None
        places = np.concatenate([low, high, reduction * sizes, reduction * rows[:, None]], axis=1).tolist()
        pixels: dict[int, Array] = {}  # of each image, its colours last
        for number, (x0, y0, x1, y1, wide, tall, top) in enumerate(places):
            image = images[number]
            if image.scene:
                patch = _cut(image, (x0, y0, x1, y1))
            else:
                if id(image) not in pixels:
                    pixels[id(image)] = np.moveaxis(image.pixels, 0, 2)
                patch = pixels[id(image)][y0:y1, x0:x1]
            _fill(patches[top : top + tall, :wide], patch)
            if shapes is not None and has_shape[number]:
                assert masks is not None
                window = factor * x0, factor * y0, factor * x1, factor * y1
                mask = masks.select(slice(number, number + 1))
                shapes[top : top + y1 - y0, : x1 - x0] = silhouette(mask, window, size=(x1 - x0, y1 - y0))
        if reduction > 1:
            size = shape[1] // reduction, shape[0] // reduction
            patches = _reduced(patches, size)
            shapes = None if shapes is None else _reduced(shapes, size)
        return _Stack(
            patches,
            shapes,
            has_shape,
            (factor * low).astype(np.float32),
            sizes.astype(np.float32),
            rows.astype(np.float32),
            np.float32(1 / (factor * reduction)),
        )


def _reduced(image: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _cut(scene: DecodedImage, window: Window) -> Array:
    """(h, w, 3) of a scene; the window is inside of it."""
    x0, y0, x1, y1 = window
    source, _ = scene.seen_by(View(window, (x1 - x0, y1 - y0)))
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
