from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import parts
from tilewise.augment.augmentations import make_augmentations
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling


class Draws:
    """A generator that says yes or no to flip, brightness, contrast, saturation and hue as it is told."""

    def __init__(self, *answers: bool) -> None:
        self.answers = iter(answers)
        self.generator = np.random.default_rng(0)

    def random(self) -> float:
        return 0.0 if next(self.answers) else 0.9

    def uniform(self, low: float, high: float) -> float:
        return self.generator.uniform(low, high)


def change(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirrored and coloured, as a job does."""
    samples: Sequence[Sample] = [sample]
    for augmentation in make_augmentations(Scaling(square=16), random_windows=False):
        samples = augmentation.change_samples(samples, [rng])
    (changed,) = samples
    return changed


def augment(sample: Sample, *answers: bool) -> Sample:
    return change(sample, Draws(*answers))  # type: ignore[arg-type]


def make(width: int = 24, height: int = 16, objects: int = 3, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(objects, 2, 2, generator=generator) * torch.tensor([width, height])
    return Sample(
        pixels=torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        targets=Targets(
            torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1),
            torch.arange(objects),
            torch.arange(objects) % 2 == 1,
        ),
    )


def same(one: Sample, other: Sample) -> bool:
    return all(map(torch.equal, parts(one).values(), parts(other).values()))


def test_augmentations__nothing_drawn() -> None:
    assert same(augment(make(), False, False, False, False, False), make())


def test_flip__pixels_and_boxes() -> None:
    sample = Sample(
        torch.zeros(3, 10, 20, dtype=torch.uint8),
        Targets(torch.tensor([[2.0, 3, 7, 5]]), torch.tensor([4]), torch.tensor([True])),
    )
    sample.pixels[:, 3:5, 2:7] = 200
    flipped = augment(sample, True, False, False, False, False)
    assert flipped.targets.boxes.tolist() == [[13, 3, 18, 5]]
    assert (flipped.pixels[:, 3:5, 13:18] == 200).all() and int((flipped.pixels == 200).sum()) == 3 * 2 * 5
    assert flipped.targets.labels.tolist() == [4] and flipped.targets.ignored.tolist() == [True]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_flip__twice_is_nothing(width: int, height: int, objects: int) -> None:
    sample = make(width, height, objects)
    twice = augment(augment(sample, True, *[False] * 4), True, *[False] * 4)
    assert torch.equal(twice.pixels, sample.pixels)
    assert torch.allclose(twice.targets.boxes, sample.targets.boxes, atol=1e-5)


@pytest.mark.parametrize("which", range(1, 5))
def test_colours__change_pixels_only(which: int) -> None:
    sample = make()
    changed = augment(sample, *[number == which for number in range(5)])
    assert not torch.equal(changed.pixels, sample.pixels)
    assert torch.equal(changed.targets.boxes, sample.targets.boxes)
    assert same(sample, make())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32))
def test_augmentations__shapes_and_limits(width: int, height: int, objects: int, seed: int) -> None:
    sample = make(width, height, objects, seed % 1000)
    changed = change(sample, np.random.default_rng(seed))
    for before, after in zip(parts(sample).values(), parts(changed).values(), strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
    boxes = changed.targets.boxes
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and (boxes >= -1e-4).all()
    assert (boxes[:, 2] <= width + 1e-4).all()
    assert torch.equal(boxes[:, 1::2], sample.targets.boxes[:, 1::2])
    before = sample.targets.boxes
    assert torch.allclose(boxes[:, 2] - boxes[:, 0], before[:, 2] - before[:, 0], atol=1e-4)
    assert same(sample, make(width, height, objects, seed % 1000))


def test_augmentations__same_for_same_seed() -> None:
    def many(seed: int) -> list[Sample]:
        rng = np.random.default_rng(seed)
        return [change(make(), rng) for _ in range(10)]

    assert all(map(same, many(3), many(3)))
    assert not all(map(same, many(3), many(4)))


def test_augmentations__what_a_sample_draws_does_not_depend_on_its_batch() -> None:
    samples, seeds = [make(seed=number) for number in range(4)], [7, 8, 9, 10]
    rngs = [np.random.default_rng(seed) for seed in seeds]
    together: Sequence[Sample] = samples
    for augmentation in make_augmentations(Scaling(square=16), random_windows=False):
        together = augmentation.change_samples(together, rngs)
    alone = [change(sample, np.random.default_rng(seed)) for sample, seed in zip(samples, seeds, strict=True)]
    assert all(map(same, together, alone))
