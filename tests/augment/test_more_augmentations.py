from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from stand_ins import make_hp
from tilewise.augment.augmentations import Augmentations, make_augmentations
from tilewise.augment.geometry import RandomAffine, RandomOrientation, warp
from tilewise.augment.mixing import MixUp, Mosaic
from tilewise.augment.quality import RandomQuality
from tilewise.augment.transform import Transform
from tilewise.bitmaps import Bitmaps
from tilewise.errors import UserError
from tilewise.masks import MASKS
from tilewise.targets import Targets
from tilewise.training.dataloading.samplers import PlainLater
from tilewise.training.job.view_plans import augmentations_of, plain_epochs
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor


def sample(width: int = 48, height: int = 32, colour: int = 255) -> Sample:
    """A bright object of 10 x 6 pixels on black."""
    pixels = torch.zeros((3, height, width), dtype=torch.uint8)
    pixels[:, 4:10, 20:30] = colour
    boxes = torch.tensor([[20.0, 4, 30, 10]])
    return Sample(pixels, Targets(boxes, torch.tensor([1]), torch.zeros(1, dtype=torch.bool)))


def apply(transform: Transform, samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
    return transform.change_samples(samples, [np.random.default_rng((seed, n)) for n in range(len(samples))])


def bright(pixels: Tensor, box: Tensor) -> float:
    """The mean brightness inside a box."""
    x0, y0, x1, y1 = box.round().int().tolist()
    return float(pixels[:, y0:y1, x0:x1].float().mean())


def test_orientation__boxes_stay_on_their_objects_exactly() -> None:
    shapes, boxes = set(), set()
    for seed in range(40):
        (turned,) = apply(RandomOrientation(vertical=True, quarter_turns=True), [sample()], seed)
        (box,) = turned.targets.boxes
        assert bright(turned.pixels, box) == 255 and turned.pixels.float().sum() == 3 * 60 * 255
        shapes.add(tuple(turned.pixels.shape))
        boxes.add(str(box.tolist()))
    assert shapes == {(3, 32, 48), (3, 48, 32)} and len(boxes) == 8


def test_affine__boxes_are_made_anew() -> None:
    angles = set()
    for seed in range(20):
        (turned,) = apply(RandomAffine(rotation=15, shear=5), [sample(96, 96)], seed)
        assert turned.pixels.shape == (3, 96, 96)
        if not len(turned.targets):
            continue
        (box,) = turned.targets.boxes
        middle = ((box[:2] + box[2:]) / 2).int().tolist()
        assert turned.targets.ignored.any() or turned.pixels[0, middle[1], middle[0]] > 200
        angles.add(tuple(box.tolist()))
    assert len(angles) > 15
    (same,) = apply(RandomAffine(rotation=0, shear=0), [sample()], 0)
    assert torch.equal(same.pixels, sample().pixels) and torch.equal(
        same.targets.boxes, sample().targets.boxes
    )


def test_warp__of_a_turn_is_the_box_around_the_ellipse() -> None:
    angle = np.radians(30)
    cosine, sine = np.cos(angle), np.sin(angle)
    targets = Targets(torch.tensor([[-5.0, -2, 5, 2]]), torch.tensor([0]), torch.zeros(1, dtype=torch.bool))
    matrix = np.array([[cosine, -sine, 50], [sine, cosine, 50]])
    (box,) = warp(targets, matrix, (100, 100)).boxes
    half = np.sqrt([25 * cosine**2 + 4 * sine**2, 25 * sine**2 + 4 * cosine**2])
    assert box.tolist() == pytest.approx([50 - half[0], 50 - half[1], 50 + half[0], 50 + half[1]])


def test_mosaic__masks_end_where_their_part_does() -> None:
    """Each view is one object with a mask of its whole; whatever a mask covers has its object's colour."""

    def full(colour: int) -> Sample:
        pixels = torch.full((3, 32, 48), colour, dtype=torch.uint8)
        boxes = torch.tensor([[0.0, 0, 48, 32]])
        masks = Bitmaps(torch.full((1, 16, 24), 255, dtype=torch.uint8), boxes, torch.ones(1).bool())
        return Sample(
            pixels,
            Targets(boxes, torch.tensor([colour]), torch.zeros(1, dtype=torch.bool), {MASKS: masks}),
        )

    for seed in range(5):
        for mixed in apply(Mosaic(1.0), [full(colour) for colour in (50, 100, 150, 200)], seed):
            masks = mixed.targets.fields[MASKS]
            assert isinstance(masks, Bitmaps) and len(masks) == 4
            for label, grid, frame in zip(mixed.targets.labels, masks.values, masks.frames, strict=True):
                rows, columns = torch.nonzero(grid, as_tuple=True)
                x = (frame[0] + (columns + 0.5) * (frame[2] - frame[0]) / 24).floor().long()
                y = (frame[1] + (rows + 0.5) * (frame[3] - frame[1]) / 16).floor().long()
                assert len(x) and (mixed.pixels[0, y, x] == label).all()


def test_quality__changes_pixels_by_its_own_seed_alone() -> None:
    grey = sample(colour=120)
    state = torch.get_rng_state()
    ones = [apply(RandomQuality(1.0), [grey], seed)[0].pixels for seed in range(3)]
    others = [apply(RandomQuality(1.0), [grey], seed)[0].pixels for seed in range(3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))
    assert not torch.equal(ones[0], ones[1]) and ones[0].dtype == torch.uint8
    assert torch.equal(apply(RandomQuality(0.0), [grey], 0)[0].pixels, grey.pixels)


def test_mosaic__shows_parts_of_several_with_their_boxes() -> None:
    samples = [sample(64, 64, colour) for colour in (80, 120, 160, 200)]
    seen = set()
    for seed in range(20):
        for made in apply(Mosaic(1.0), samples, seed):
            assert made.pixels.shape == (3, 64, 64)
            boxes, kept = made.targets.boxes, ~made.targets.ignored
            assert (boxes >= 0).all() and (boxes <= 64).all()
            for box in boxes[kept]:
                assert bright(made.pixels, box) in (80, 120, 160, 200)
            seen.add(len(boxes))
    assert max(seen) >= 3
    assert apply(Mosaic(0.0), samples, 0)[0] is samples[0]


def test_mixup__shows_two() -> None:
    samples = [sample(64, 64, 255), sample(64, 64, 0)]
    mixed = apply(MixUp(1.0), samples, 0)
    assert [len(each.targets) for each in mixed] == [2, 2]
    assert 90 < mixed[0].pixels.max() < 165 and 90 < mixed[1].pixels.max() < 165
    assert apply(MixUp(1.0), samples[:1], 0)[0] is samples[0]


def test_make_augmentations__as_a_job_says() -> None:
    scaling = Scaling(square=64)
    assert [type(each).__name__ for each in make_augmentations(scaling)] == [
        "RandomWindow",
        "RandomHorizontalFlip",
        "RandomPhotometricDistort",
    ]
    hp = make_hp(orientation="any", rotation=5, degradation=0.1, mosaic=0.5, mixup=0.1, number_of_epochs=10)
    more = augmentations_of(hp)
    assert more == Augmentations(True, True, 5, 0, 0.1, 0.5, 0.1) and plain_epochs(hp) == 2
    assert len(make_augmentations(scaling, more=more)) == 8
    assert plain_epochs(make_hp(plain_epochs=0)) == 0
    with pytest.raises(UserError, match=r"mosaic=0.5: it is for models of one stage"):
        make_hp(model_name="fasterrcnn_resnet18_fpn", mosaic=0.5)


class Counted:
    """A sampler of one batch."""

    epoch = start = 0

    def __len__(self) -> int:
        return 1

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield [(0, None, 5)]


def test_plain_later__no_mixing_in_the_last_epochs() -> None:
    batches = PlainLater(Counted(), plain_from=2)
    seeds = []
    for epoch in range(4):
        batches.epoch = epoch
        seeds += [seed for batch in batches for _, _, seed in batch]
    assert seeds == [5, 5, ~5, ~5] and max(~5, ~~5) == 5


@pytest.mark.parametrize(("height", "width"), [(1, 40), (2, 9), (3, 3), (1, 1)])
@pytest.mark.parametrize("transform", [Mosaic(1.0), MixUp(1.0), RandomQuality(1.0)])
def test_views_of_hardly_a_pixel__are_changed_as_far_as_they_can_be(
    transform: Transform, height: int, width: int
) -> None:
    for seed in range(8):
        changed = apply(transform, [sample(width, height)] * 3, seed)
        assert all(each.pixels.shape == (3, height, width) for each in changed)
