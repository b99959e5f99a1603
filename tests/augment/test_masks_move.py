"""Whatever shows or varies a sample moves its masks with its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tilewise.arrays import Array
from tilewise.augment.augmentations import make_augmentations
from tilewise.augment.transform import Transform
from tilewise.bitmaps import Bitmaps
from tilewise.data.records import Record, Records
from tilewise.masks import MASKS, Masks, Outline, RunLengths
from tilewise.rasters import rasterise, runs_of
from tilewise.targets import Targets
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling, View

WIDTH, HEIGHT = 240, 180
SCALING = Scaling(square=128)
VIEWS = {
    "whole": None,
    "a tile": View((60, 40, 180, 160), (128, 128)),
    "a tile beyond the border": View((-20, 100, 100, 220), (128, 128)),
    "a zoomed window": View((90, 60, 150, 120), (128, 128)),
    "a chip of a reduced scale": View((0, 0, 240, 240), (60, 60)),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Bright rods and discs on a dark image; half of the masks are polygons, half run lengths."""
    path = tmp_path_factory.mktemp("images") / "a.png"
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    shapes: list[Outline | RunLengths] = []
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for x, y, radius in ((50, 50, 22), (120, 110, 30), (200, 60, 12), (40, 140, 18)):
        disc = (((columns - x) ** 2 + (rows - y) ** 2) < radius**2).astype(np.uint8)
        pixels[disc > 0] = 220
        shapes.append(RunLengths(WIDTH, HEIGHT, runs_of(disc)))
    rod = np.array([[150, 20], [158, 14], [190, 130], [182, 136]], float)
    pixels[rasterise([rod], WIDTH, HEIGHT) > 0] = 220
    shapes.append(Outline([rod]))
    Image.fromarray(pixels).save(path)
    masks = Masks.of(shapes).crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))
    count = len(shapes)
    targets: Targets[Array] = Targets(
        masks.boxes, np.arange(count), np.zeros(count, np.bool_), {MASKS: masks}
    )
    return Records([Record("a.png", path, WIDTH, HEIGHT, targets)])


def check(sample: Sample) -> int:
    """Cells of masks lie on bright pixels, and boxes around them; how many objects were seen."""
    grey = sample.pixels.float().mean(dim=0).numpy()
    bright = grey > (float(grey.max()) + float(grey.min())) / 2
    masks = sample.targets.fields[MASKS]
    assert isinstance(masks, Bitmaps) and len(masks) == len(sample.targets)
    height, width = grey.shape
    for values, frame, box in zip(
        masks.values.numpy(), masks.frames.numpy(), sample.targets.boxes.numpy(), strict=True
    ):
        rows, columns = np.nonzero(values)
        cell = (frame[2:] - frame[:2]) / values.shape[::-1]
        x, y = frame[0] + (columns + 0.5) * cell[0], frame[1] + (rows + 0.5) * cell[1]
        inside = (x > 0) & (x < width) & (y > 0) & (y < height)
        x, y = x[inside], y[inside]
        assert len(x)
        # of a few pixels most lie on a border that resizing blurs
        assert bright[y.astype(int), x.astype(int)].mean() > (0.85 if len(x) > 20 else 0.5)
        around = [x.min() - cell[0] / 2, y.min() - cell[1] / 2, x.max() + cell[0] / 2, y.max() + cell[1] / 2]
        assert np.abs(np.array(around) - box).max() < 2.5
    return len(masks)


@pytest.mark.parametrize("name", VIEWS)
def test_every_way_of_looking(records: Records, name: str) -> None:
    dataset = TrainingDataset(records, SCALING)
    sample = dataset[0, VIEWS[name], 0]
    assert isinstance(sample, Sample) and check(sample) >= 1


@pytest.mark.parametrize("number", range(len(make_augmentations(SCALING))))
def test_every_transform(records: Records, number: int) -> None:
    transform: Transform = make_augmentations(SCALING)[number]
    dataset = TrainingDataset(records, SCALING, [transform])
    seen = 0
    for seed in range(12):
        for view in VIEWS.values():
            sample = dataset[0, view, seed]
            assert isinstance(sample, Sample)
            seen += check(sample)
    assert seen > 60
