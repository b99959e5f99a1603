from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.augment.augmentations import make_augmentations
from tilewise.augment.transform import Transform
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.training.dataloading.dataset import TrainingDataset
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
    scaling = Scaling(square=16)
    samples = TrainingDataset(Records([record]), scaling, make_augmentations(scaling, random_windows=False))
    for seed in range(20):
        sample = samples[0, View((4, 4, 20, 20), (16, 16)), seed]
        assert isinstance(sample, Sample)
        assert sample.targets.boxes.tolist() == [[4, 4, 12, 12]]
    varied = TrainingDataset(Records([record]), scaling, make_augmentations(scaling))
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
    samples = TrainingDataset(Records([record]), scaling, make_augmentations(scaling, random_windows=False))
    width, height = scaling.size_of(record.width, record.height)
    for seed in range(20):
        sample = samples[0, None, seed]
        assert isinstance(sample, Sample) and sample.pixels.shape == (3, height, width)
        assert len(sample.targets.boxes) == len(record.targets.boxes)


def test_samples__a_large_jpeg_is_reduced_and_its_boxes_stay_on_the_objects(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    pixels = np.zeros((800, 1000, 3), np.uint8)
    pixels[203:407, 305:709] = 255
    Image.fromarray(pixels).save(path, quality=95)
    box = np.array([[305, 203, 709, 407]], np.float32)
    record = Record(path.name, path, 1000, 800, Targets(box, np.zeros(1, np.int64), np.zeros(1, np.bool_)))
    samples = TrainingDataset(Records([record]), Scaling(square=100))
    view = View((0, 0, 1000, 800), (100, 100))
    assert view.reduction == 8
    sample = samples[0, view, 0]
    assert isinstance(sample, Sample)
    x0, y0, x1, y1 = sample.targets.boxes[0].round().int().tolist()
    inside = sample.pixels[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].float()
    assert inside.min() > 3 * sample.pixels[:, : y0 - 1].float().max()
    assert inside.min() > 3 * sample.pixels[:, :, : x0 - 1].float().max()


class Swap(Transform):
    """Each sample gets the pixels of the one before it, as one that pastes objects from others would."""

    def change_samples(
        self, samples: Sequence[Sample], rngs: Sequence[np.random.Generator]
    ) -> Sequence[Sample]:
        assert len(samples) == len(rngs)
        return [replace(sample, pixels=samples[number - 1].pixels) for number, sample in enumerate(samples)]


def test_augmentations__see_all_samples_of_a_batch_but_no_damaged_image(tmp_path: Path) -> None:
    records = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        records.append(Record(str(number), path, 8, 8, Targets.none()))
    records[2].path.write_bytes(b"damaged")
    samples = TrainingDataset(Records(records), Scaling(square=8), [Swap()])
    zeroth, first, damaged, third = samples.__getitems__([(number, None, number) for number in range(4)])
    assert isinstance(damaged, tuple) and damaged[0] == "2"
    reds = [each.pixels[0].unique().tolist() for each in (zeroth, first, third) if isinstance(each, Sample)]
    assert reds == [[3], [0], [1]]
