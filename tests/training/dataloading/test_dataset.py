from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.training.dataloading.dataset import TrainingDataset, random_view
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling, View


@pytest.fixture
def record() -> Record:
    """An image of 30 x 40 pixels with two objects."""
    boxes = np.array([[2, 2, 12, 12], [15, 15, 25, 30]], np.float32)
    return Record("a.png", Path("a.png"), 30, 40, Targets(boxes, np.array([0, 1]), np.array([False, True])))


def test_samples__chips_are_looked_at_as_they_are(tmp_path: Path) -> None:
    """Their windows are not varied: each shows the very pixels of its window, or their mirror image."""
    path = tmp_path / "a.png"
    ramp = np.arange(64, dtype=np.uint8)[None, :, None].repeat(64, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(path)
    record = Record(
        "a",
        path,
        64,
        64,
        Targets(np.array([[8, 8, 16, 16]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool)),
    )
    samples = TrainingDataset(Records([record]), Scaling(square=16), random_windows=False)
    for seed in range(20):
        sample = samples[0, View((4, 4, 20, 20), (16, 16)), seed]
        assert isinstance(sample, Sample)
        assert sample.targets.boxes.tolist() == [[4, 4, 12, 12]]
    varied = TrainingDataset(Records([record]), Scaling(square=16))
    boxes = set()
    for seed in range(20):
        sample = varied[0, View((4, 4, 20, 20), (16, 16)), seed]
        assert isinstance(sample, Sample) and sample.pixels.shape == (3, 16, 16)
        boxes.add(str(sample.targets.boxes.tolist()))
    assert len(boxes) > 5


def test_samples__without_random_windows_show_whole_images(record: Record, tmp_path: Path) -> None:
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    record = replace(record, path=tmp_path / "a.png")
    scaling = Scaling(min_size=20, max_size=60)
    samples = TrainingDataset(Records([record]), scaling, random_windows=False)
    width, height = scaling.size_of(record.width, record.height)
    for seed in range(20):
        sample = samples[0, None, seed]
        assert isinstance(sample, Sample) and sample.pixels.shape == (3, height, width)
        assert len(sample.targets.boxes) == len(record.targets.boxes)


def test_random_view__is_no_larger_than_the_view(record: Record) -> None:
    scaling = Scaling(min_size=600, max_size=1333)
    view = View((5, 5, 25, 35), (400, 600))
    for seed in range(50):
        drawn = random_view(record, view, scaling, np.random.default_rng(seed))
        assert min(drawn.size) <= 400 and max(drawn.size) <= 600
        assert drawn.scale[0] == pytest.approx(drawn.scale[1], rel=0.2)


def test_random_view__a_tile_shows_objects_at_nearly_its_own_scale(record: Record) -> None:
    scaling = Scaling(square=300)
    record = replace(record, width=400, height=400)
    factors = {}
    for window in ((0, 0, 400, 400), (0, 0, 200, 200)):
        view = View(window, (300, 300))
        drawn = [random_view(record, view, scaling, np.random.default_rng(seed)) for seed in range(300)]
        factors[window[2]] = [each.scale[0] / view.scale[0] for each in drawn]
    assert min(factors[400]) < 0.6 and max(factors[400]) > 2  # of the whole image as SSD does it
    assert 0.79 < min(factors[200]) < 0.85 and 1.2 < max(factors[200]) < 1.44


def test_samples__a_large_jpeg_is_reduced_and_its_boxes_stay_on_the_objects(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    pixels = np.zeros((800, 1000, 3), np.uint8)
    pixels[203:407, 305:709] = 255
    Image.fromarray(pixels).save(path, quality=95)
    box = np.array([[305, 203, 709, 407]], np.float32)
    record = Record(path.name, path, 1000, 800, Targets(box, np.zeros(1, np.int64), np.zeros(1, np.bool_)))
    samples = TrainingDataset(Records([record]), Scaling(square=100), random_windows=False)
    view = View((0, 0, 1000, 800), (100, 100))
    assert view.reduction == 8
    sample = samples[0, view, 0]
    assert isinstance(sample, Sample)
    x0, y0, x1, y1 = sample.targets.boxes[0].round().int().tolist()
    inside = sample.pixels[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].float()
    assert inside.min() > 3 * sample.pixels[:, : y0 - 1].float().max()
    assert inside.min() > 3 * sample.pixels[:, :, : x0 - 1].float().max()
