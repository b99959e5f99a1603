from __future__ import annotations

import tracemalloc

import numpy as np
from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps
from tilewise.inference.detections import Prediction, merge_instances
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks
from tilewise.rasters import Bitmap, area_of, decode_runs, decompressed
from tilewise.tiling.merge_masks import Pieces, masks_agree, place_masks
from tilewise.tiling.spec import MergeRule, Tiling
from tilewise.views.view import View

SIDE = 28


def soft(shape: Bitmap, box: tuple[int, int, int, int]) -> Array:
    """What a perfect mask head says of a box of a scene: the shape's pixels at the centres of the cells."""
    x0, y0, x1, y1 = box
    x = x0 + (np.arange(SIDE) + 0.5) * (x1 - x0) / SIDE
    y = y0 + (np.arange(SIDE) + 0.5) * (y1 - y0) / SIDE
    values: Array = 255 * shape[np.ix_(y.astype(int), x.astype(int))]
    return values


def disc(x: float, y: float, radius: float, size: tuple[int, int]) -> Bitmap:
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    inside: Bitmap = (((columns - x) ** 2 + (rows - y) ** 2) < radius**2).astype(np.uint8)
    return inside


def seen(shapes: list[Bitmap], view: View, scores: list[float]) -> Instances:
    """What a view finds: of each shape the box around what it shows, and the mask in it."""
    x0, y0, x1, y1 = view.window
    scale = view.scale[0]
    boxes, values = [], []
    for shape in shapes:
        part = shape[y0:y1, x0:x1]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        left, top, right, bottom = (
            int(each) for each in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        )
        boxes.append([scale * left, scale * top, scale * right, scale * bottom])
        values.append(soft(part, (left, top, right, bottom)))
    frames = np.array(boxes, np.float32)
    masks = Bitmaps(np.array(values, np.uint8), frames, np.ones(len(boxes), np.bool_))
    labels = np.zeros(len(boxes), np.int64)
    return Instances(frames, np.array(scores, np.float32), labels, {MASKS: masks})


def pixels(prediction: Prediction) -> list[Bitmap]:
    masks = prediction.detections.fields[MASKS]
    assert isinstance(masks, Masks)
    return [
        decode_runs(prediction.width, prediction.height, decompressed(one["counts"]))
        for one in masks.encoded(prediction.width, prediction.height)
        if one is not None
    ]


def iou(one: Bitmap, other: Bitmap) -> float:
    return float((one & other).sum() / (one | other).sum())


def merged(shown: list[tuple[View, Instances]], rule: MergeRule = "fragment") -> Prediction:
    return merge_instances(shown, 200, 100, Tiling(kind="grid", grid=(2, 1), merge=rule))


WHOLE = View((0, 0, 200, 100), (200, 100))
LEFT, RIGHT = View((0, 0, 110, 100), (220, 200)), View((90, 0, 200, 100), (220, 200))


def test_one_view__masks_are_placed_at_the_pixels() -> None:
    shape = disc(50, 40, 20, (200, 100))
    (found,) = pixels(merged([(WHOLE, seen([shape], WHOLE, [0.9]))]))
    assert iou(found, shape) > 0.93


def test_small_objects__keep_their_pixels() -> None:
    shape = disc(50.5, 40.5, 4, (200, 100))
    (found,) = pixels(merged([(WHOLE, seen([shape], WHOLE, [0.9]))]))
    assert iou(found, shape) > 0.9


def test_a_cut_object__is_united() -> None:
    shape = disc(100, 50, 30, (200, 100))
    shown = [(LEFT, seen([shape], LEFT, [0.9])), (RIGHT, seen([shape], RIGHT, [0.8]))]
    prediction = merged(shown)
    (found,) = pixels(prediction)
    assert iou(found, shape) > 0.93
    assert np.abs(prediction.detections.boxes[0] - [70, 20, 130, 80]).max() <= 1.5


def test_a_finer_view__has_the_better_mask() -> None:
    shape = disc(40, 50, 30, (200, 100))
    shape[::4, 30:50] = 0
    coarse, fine = seen([shape], WHOLE, [0.9]), seen([shape], LEFT, [0.6])
    fine_masks = fine.fields[MASKS]
    assert isinstance(fine_masks, Bitmaps)
    prediction = merged([(WHOLE, coarse), (LEFT, fine)])
    only = merged([(LEFT, fine)])
    assert len(prediction.detections) == 1 and prediction.detections.scores[0] == np.float32(0.9)
    assert np.array_equal(pixels(prediction)[0], pixels(only)[0])


def test_crowded_objects__boxes_overlap_and_masks_do_not() -> None:
    rows, columns = np.mgrid[:100, :200]
    upper = ((columns >= 20) & (columns < 60) & (rows >= 20) & (columns - rows > 2) & (rows < 60)).astype(
        np.uint8
    )
    lower = ((columns >= 20) & (columns < 60) & (rows >= 20) & (columns - rows < -2) & (rows < 60)).astype(
        np.uint8
    )
    one, other = seen([upper], WHOLE, [0.9]), seen([lower], LEFT, [0.8])
    assert len(merged([(WHOLE, one), (LEFT, other)]).detections) == 2
    boxes_only = [
        (view, Instances(each.boxes, each.scores, each.labels))
        for view, each in ((WHOLE, one), (LEFT, other))
    ]
    assert len(merged(boxes_only).detections) == 1


def test_wbf__is_the_mean_of_whole_masks() -> None:
    shape = disc(40, 50, 30, (200, 100))
    shown = [(WHOLE, seen([shape], WHOLE, [0.9])), (LEFT, seen([shape], LEFT, [0.8]))]
    (found,) = pixels(merged(shown, "wbf"))
    assert iou(found, shape) > 0.93


def test_masks_agree__by_what_they_share() -> None:
    values = np.zeros((3, SIDE, SIDE), np.uint8)
    values[0, :, :14] = values[1, :, 14:] = 255  # two halves of one box
    values[2, :, :16] = 255
    frames = np.array([[0, 0, 10, 10]] * 3, np.float32)
    masks = Bitmaps(values, frames, np.array([True, True, True]))
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    assert masks_agree(masks, first, second).tolist() == [False, True, False]
    unknown = Bitmaps(values, frames, np.array([True, False, True]))
    assert masks_agree(unknown, first, second).tolist() == [True, True, True]


def test_limit_and_empty_views() -> None:
    shapes = [disc(30 + 60 * number, 50, 20, (200, 100)) for number in range(3)]
    shown = [(WHOLE, seen(shapes, WHOLE, [0.3, 0.9, 0.6])), (LEFT, Instances.none())]
    prediction = merge_instances(shown, 200, 100, Tiling(kind="grid", grid=(2, 1)), limit=2)
    found = pixels(prediction)
    assert [iou(one, shapes[which]) > 0.9 for one, which in zip(found, (1, 2), strict=True)] == [True, True]


def test_place__a_mask_as_large_as_its_image_takes_a_few_bytes_a_pixel() -> None:
    width, height = 3000, 2000
    values = np.full((1, 28, 28), 255, np.uint8)
    frame = np.array([[0, 0, width, height]], np.float32)
    fields = {MASKS: Bitmaps(values, frame, np.ones(1, np.bool_))}
    found = Instances(frame, np.ones(1, np.float32), np.zeros(1, np.int64), fields)
    pieces = Pieces.alone(found)
    assert pieces is not None
    tracemalloc.start()
    placed = place_masks(found, pieces, (width, height))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * width * height
    (mask,) = placed.fields[MASKS].encoded(width, height)  # type: ignore[attr-defined]
    assert area_of(mask) > 0.99 * width * height
