"""The pixels of objects that are pasted into a view of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from torch import Tensor

from tilewise.arrays import Array, Float32, Float64
from tilewise.augment.copy_paste import Paste, extents
from tilewise.data.decode import DecodedImage
from tilewise.masks import Masks, masks_in
from tilewise.targets import Targets
from tilewise.views.view import View, Window


def paste_objects(
    pixels: Tensor,
    view: View,
    pastes: Sequence[Paste],
    *,
    objects: Targets[Array],
    image_of: Callable[[int], DecodedImage],
) -> None:
    """Paste what a view shows of it, in place.

    Objects are cut from their own image at the view's zoom and turned into the view itself: no image is
    copied, and all views of an image show the same.

    Args:
        pixels: (3, h, w) uint8 of the view.
        view: of the image that is pasted into.
        pastes: into that image.
        objects: that their sources are numbers of, in the pixels of their own images.
        image_of: from the number of an object to its own image.

    """
    x0, y0, _, _ = view.window
    across, down = view.scale
    canvas = pixels.permute(1, 2, 0).numpy()
    shown = objects.select(np.array([paste.source for paste in pastes], np.int64))
    boxes, masks = extents(shown), masks_in(shown.fields)
    to_image = np.array([paste.to_image for paste in pastes]).reshape(-1, 2, 3)
    to_view = np.array([[across], [down]]) * (to_image - np.array([[0, 0, x0], [0, 0, y0]]))
    feather = np.array([[paste.feather] for paste in pastes]).reshape(-1, 1)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 + feather
    centre = (to_view[..., :2] @ ((boxes[:, :2] + boxes[:, 2:]) / 2)[..., None])[..., 0] + to_view[..., 2]
    reach = (abs(to_view[..., :2]) @ half[..., None])[..., 0]
    low = np.floor(centre - reach).clip(min=0).astype(int)
    high = np.minimum(np.ceil(centre + reach), view.size).astype(int)
    for number in np.flatnonzero((low < high).all(axis=1)).tolist():
        (left, top), (right, bottom) = low[number], high[number]
        region = canvas[top:bottom, left:right]
        to_region = to_view[number] - [[0, 0, left], [0, 0, top]]
        mask = masks.select(slice(number, number + 1)) if masks is not None else None
        _paste(region, pastes[number], to_region, boxes[number], image_of(pastes[number].source), mask)


def _paste(
    region: Array, paste: Paste, to_region: Float64, box: Float32, image: DecodedImage, mask: Masks | None
) -> None:
    """Paste an object into the part of a view that it covers, (h, w, 3); ``to_region`` from its own image."""
    margin = [-paste.feather, -paste.feather, paste.feather, paste.feather]
    around = np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]).astype(int) + margin
    limits = np.array([image.width, image.height, image.width, image.height])
    x0, y0, x1, y1 = around.clip(0, limits).tolist()
    # smaller than it is, it is scaled first, so that no pixel is passed over
    zoom = min(1.0, math.sqrt(abs(float(np.linalg.det(to_region[:, :2])))))
    size = max(1, round(zoom * (x1 - x0))), max(1, round(zoom * (y1 - y0)))
    patch = View((x0, y0, x1, y1), size)
    source, factor = image.seen_by(patch)
    patch = patch.snapped(factor)
    cut = np.ascontiguousarray(np.moveaxis(np.asarray(patch.pixels_from_image(source, factor)), 0, 2))
    if mask is not None and mask.known[0]:
        shape = silhouette(mask, patch.window, size=patch.size)
    else:
        shape = rectangle(box, paste.feather, patch.window, size=patch.size)
    across, down = patch.scale
    # from the patch's pixels to the region's, whose centres OpenCV puts at whole numbers
    linear = to_region[:, :2] / [across, down]
    offset = to_region[:, 2] + to_region[:, :2] @ patch.window[:2] + linear @ [0.5, 0.5] - 0.5
    matrix = np.column_stack([linear, offset])
    where = region.shape[1], region.shape[0]
    moved = cv2.warpAffine(cut, matrix, where, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(shape, matrix, where, flags=cv2.INTER_LINEAR)[..., None]
    region[...] = np.rint(region + alpha * (moved.astype(np.float32) - region)).astype(np.uint8)


def rectangle(box_4: Float32, feather: int, window: Window, *, size: tuple[int, int]) -> Float32:
    """(h, w) the shape of an object of which only the box is known: 1 in it, falling to 0 around it.

    Args:
        box_4: in pixels of its image.
        feather: pixels of the image over which it fades out.
        window: of the image.
        size: (width, height) in pixels of the shape.

    """
    x0, y0, x1, y1 = window
    sides = []
    for low, high, start, end, count in (
        (box_4[0], box_4[2], x0, x1, size[0]),
        (box_4[1], box_4[3], y0, y1, size[1]),
    ):
        places = start + (np.arange(count) + 0.5) * (end - start) / count
        outside = np.maximum(np.maximum(low - places, places - high), 0)
        sides.append((1 - outside / feather).clip(min=0))
    return np.asarray(np.outer(sides[1], sides[0]), np.float32)


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
