"""Objects with masks are pasted by their pixels, and their masks come along."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_scenes import write_scenes
from PIL import Image
from stand_ins import make_hp, make_job
from tilewise.arrays import Array
from tilewise.augment.copy_paste import CopyPaste, extents, pasteable
from tilewise.augment.pasting import silhouette
from tilewise.bitmaps import Bitmaps
from tilewise.data.channel import ChannelFolder, Split, read_data_set
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.choice import DataChoice
from tilewise.data.records import Record, Records
from tilewise.masks import MASKS, Masks, Outline, RunLengths, Shape
from tilewise.rasters import decode_runs, runs_of
from tilewise.targets import Targets
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.view_order import Copy
from tilewise.training.job.copy_paste import make_copy_paste
from tilewise.training.train import train
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling, View

WIDTH, HEIGHT = 240, 160


def disc(x: float, y: float, radius: float) -> Array:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 < radius**2, np.uint8)


def of_shapes(*shapes: Shape | None, boxes: Array | None = None) -> Targets[Array]:
    masks = Masks.of(shapes).crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))
    count = len(shapes)
    rows = masks.boxes if boxes is None else np.asarray(boxes, np.float32)
    return Targets(rows, np.zeros(count, np.int64), np.zeros(count, np.bool_), {MASKS: masks})


def runs(bitmap: Array) -> RunLengths:
    return RunLengths(WIDTH, HEIGHT, runs_of(bitmap))


def ring(bitmap: Array) -> Outline:
    """A triangle around where the object is."""
    ys, xs = np.nonzero(bitmap)
    points = [[xs.min(), ys.max() + 1], [xs.max() + 1, ys.max() + 1], [xs.mean(), ys.min()]]
    return Outline([np.array(points, float)])


def whole(targets: Targets[Array]) -> list[Array]:
    """(H, W) of each mask."""
    masks = targets.fields[MASKS]
    assert isinstance(masks, Masks)
    found = []
    for number in range(len(masks)):
        frame = np.zeros((HEIGHT, WIDTH), np.uint8)
        grid, (left, top, right, bottom) = masks.grid(number)
        frame[int(top) : int(bottom), int(left) : int(right)] = grid
        found.append(frame)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40))
def test_plan__masks_lie_in_their_boxes_and_on_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = rng.uniform(15, [WIDTH - 15, HEIGHT - 15], (6, 2))
    discs = [disc(x, y, rng.uniform(2, 14)) for x, y in places.tolist()]
    shapes = [ring(each) if number % 2 else runs(each) for number, each in enumerate(discs)]
    own = of_shapes(*shapes[:5], None, boxes=np.array([*of_shapes(*shapes).boxes[:5], [2, 2, 10, 12]]))
    plan = CopyPaste(times=2).plan(own, WIDTH, HEIGHT, seed=seed)
    if plan is None:
        return
    before, after = whole(own), whole(plan.targets)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=False))
    pastes = plan.pastes
    rows = zip(pastes.sources.tolist(), pastes.feather.tolist(), pastes.to_image, strict=True)
    for number, (source, feather, to_image) in enumerate(rows, start=len(own)):
        known = source < 5
        assert feather == 0 if known else feather > 0
        mask, (x0, y0, x1, y1) = after[number], plan.targets.boxes[number]
        others = sum(other.astype(int) for index, other in enumerate(after) if index != number)
        assert mask.any() == known and not (mask & (others > 0)).any()
        if known:
            ys, xs = np.nonzero(mask)
            edges = [xs.min() - x0, ys.min() - y0, x1 - xs.max() - 1, y1 - ys.max() - 1]
            assert min(edges) > -1 and max(edges) < 1.5
            size = abs(np.linalg.det(to_image[:, :2])) * before[source].sum()
            assert abs(mask.sum() - size) < 4 + 0.75 * (x1 - x0 + y1 - y0)  # whole pixels at the edge


def test_pasteable__by_what_masks_hold() -> None:
    left, right = disc(60, 60, 12), disc(60, 60, 12)
    left[:, 60:], right[:, :60] = 0, 0
    # halves in one box, a disc within a large one, and a box that lies in a mask
    around = np.maximum(disc(150, 60, 14), 0)
    within = disc(150, 60, 4)
    boxes = [[48, 48, 72, 72]] * 2 + [[136, 46, 164, 74], [146, 56, 154, 64]]
    own = of_shapes(runs(left), runs(right), runs(around), runs(within), boxes=np.array(boxes))
    assert pasteable(own, 32).tolist() == [True, True, False, True]
    of_boxes = Targets(own.boxes, own.labels, own.ignored)
    assert pasteable(of_boxes, 32).tolist() == [False, False, False, True]
    hollow = around - within
    own = of_shapes(runs(hollow), None, boxes=np.array(boxes[2:]))
    assert pasteable(own, 32).tolist() == [True, True]
    filled = of_shapes(runs(around), None, boxes=np.array(boxes[2:]))
    assert pasteable(filled, 32).tolist() == [False, True]


def test_pasteable__a_mask_beyond_the_image_stays() -> None:
    triangle = Outline([np.array([[-8.0, 20], [10, 12], [10, 30]])])
    own = of_shapes(triangle, boxes=np.array([[0, 12, 10, 30]]))
    assert pasteable(own, 32).tolist() == [False]


def test_extents__hold_box_and_mask() -> None:
    own = of_shapes(runs(disc(60, 60, 10)), None, boxes=np.array([[55, 55, 80, 60], [1, 2, 3, 4]]))
    assert extents(own).tolist() == [[50, 50, 80, 70], [1, 2, 3, 4]]


def test_silhouette__is_the_masks_share_of_each_pixel() -> None:
    bitmap = disc(60, 60, 10)
    masks = Masks.of([runs(bitmap)])
    exact = silhouette(masks, (40, 45, 80, 75), size=(40, 30))
    assert np.array_equal(exact, bitmap[45:75, 40:80])
    half = silhouette(masks, (40, 46, 80, 76), size=(20, 15))
    assert half.max() == 1 and half.sum() == pytest.approx(bitmap.sum() / 4)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A red disc in a blue square, on grey; its mask is the disc, and its box that of the disc."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[20:60, 20:60] = (0, 0, 255)
    shape = disc(40, 40, 12)
    pixels[shape > 0] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return Record("a.png", tmp_path / "a.png", WIDTH, HEIGHT, of_shapes(runs(shape)))


VIEWS = {
    "whole": View((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT)),
    "smaller": View((0, 0, WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)),
    "larger": View((0, 0, WIDTH, HEIGHT), (2 * WIDTH, 2 * HEIGHT)),
    "a tile": View((60, 20, 240, 160), (180, 140)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("source", ["image", "any"])
def test_samples__show_the_masks_pixels_alone(record: Record, view: View, source: str) -> None:
    split = Split(Records([record]), ChannelIssues("train", images=1))
    copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_source=source), split, classes=3)
    samples = TrainingDataset(split.records, Scaling(square=64), copy_paste=copy_paste)
    zoom, shown = view.scale[0], 0
    for seed in range(8):
        sample = samples[Copy(0, seed), view, 0]
        assert isinstance(sample, Sample)
        red, green, blue = sample.pixels.int()
        x, y = (int(zoom * (60 - corner)) + 2 for corner in view.window[:2])  # beyond the square
        away = torch.ones_like(red, dtype=torch.bool)
        away[: max(y, 0), : max(x, 0)] = False
        # no pixel of the square came along, but what the edge is blended of
        assert not ((blue > 150) & away).any()
        masks = sample.targets.fields[MASKS]
        assert isinstance(masks, Bitmaps)
        reds = (red - green > 64) & away
        for number in range(len(sample.targets)):
            frame = masks.frames[number].tolist()
            if min(view.window[:2]) == 0 and number == 0:
                continue
            shown += 1
            expected = _on_view(masks.values[number].numpy() > 127, frame, tuple(red.shape))
            differs = reds.numpy() != expected
            near = np.ones(2 * [2 * math.ceil(zoom) + 3], np.uint8)
            edge = cv2.dilate(expected.astype(np.uint8), near) > cv2.erode(expected.astype(np.uint8), near)
            assert not (differs & ~edge).any(), (seed, number)
    assert shown


def _on_view(grid: Array, frame: list[float], shape: tuple[int, ...]) -> Array:
    """A bitmap's cells as pixels of the view."""
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    x = np.floor((columns - frame[0]) / (frame[2] - frame[0]) * grid.shape[1]).astype(int)
    y = np.floor((rows - frame[1]) / (frame[3] - frame[1]) * grid.shape[0]).astype(int)
    inside = ((y >= 0) & (y < grid.shape[0]))[:, None] & ((x >= 0) & (x < grid.shape[1]))[None]
    found = grid[y.clip(0, grid.shape[0] - 1)[:, None], x.clip(0, grid.shape[1] - 1)[None]]
    return np.asarray(found & inside)


def test_job__of_instance_segmentation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the channel to a model; half of an image's discs have no masks, and come as rectangles."""
    for name, count in (("train", 5), ("validation", 3)):
        write_scenes(tmp_path / name, count, (192, 160))
    hp = make_hp(
        model_name="maskyolox_nano",
        task="instance_segmentation",
        image_size=96,
        training_batch_size=2,
        number_of_epochs=2,
        evaluation_frequency=2,
        copy_paste=1,
        copy_paste_max_size="auto",
        tile_grid_size="2x1",
        orientation="any",
        rotation=10,
        mosaic=0.5,
        mixup=0.3,
        degradation=0.2,
        plain_epochs=1,
    )
    folders = {name: ChannelFolder(tmp_path / name) for name in ("train", "validation")}
    data = read_data_set(folders, None, validates=True, seed=0, choice=DataChoice(fields=frozenset({MASKS})))
    (tmp_path / "model").mkdir()
    caplog.set_level("INFO")
    trained = train(data, make_job(hp, tmp_path / "model"))
    assert "4 of 5 images hold small objects; 4 of them come once more" in caplog.text
    losses = trained.epochs[-1]["losses"]
    assert any("mask" in name for name in losses) and all(np.isfinite(list(losses.values())))


def test_runs__of_a_pasted_mask_are_those_of_its_pixels() -> None:
    """A mirrored run length stays one: what is learnt has the same area."""
    own = of_shapes(runs(disc(60, 60, 10)))
    plan = CopyPaste().plan(own, WIDTH, HEIGHT, seed=1)
    assert plan is not None
    masks = plan.targets.fields[MASKS]
    assert isinstance(masks, Masks)
    (_, shape) = masks.shapes()
    assert isinstance(shape, RunLengths)
    area = decode_runs(shape.width, shape.height, shape.counts).sum()
    zoom = abs(np.linalg.det(plan.pastes.to_image[0, :, :2]))
    assert area == pytest.approx(zoom * disc(60, 60, 10).sum(), rel=0.1)
