"""What varies training samples: one list of transforms, each over the samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tilewise.arrays import Array
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import View


@dataclass(frozen=True)
class Draft:
    """A sample to be: a view of an image that is not decoded yet.

    Attributes:
        width, height: pixels of the image.
        targets: of the whole image, in its pixels.
        view: what will be seen of it; None for all of it.

    """

    width: int
    height: int
    targets: Targets[Array]
    view: View | None


class Transform:
    """A random change of the samples of a batch; a transform overrides the method of its stage.

    It gets all of a batch, so that one sample may take something from another. Each sample has a generator of
    its own, from the seed of its item: what is drawn for it depends neither on its batch nor on the number of
    loader processes.

    Attributes:
        mixes: whether it makes a sample of several; such ones are left out in a training's last epochs.

    """

    mixes: ClassVar[bool] = False

    def change_drafts(self, drafts: Sequence[Draft], rngs: Sequence[np.random.Generator]) -> Sequence[Draft]:
        """Choose other views, before anything is decoded: so a window costs nothing."""
        return drafts

    def change_samples(
        self, samples: Sequence[Sample], rngs: Sequence[np.random.Generator]
    ) -> Sequence[Sample]:
        """Change pixels and targets; images that could not be decoded are not among the samples."""
        return [self.change_sample(sample, rng) for sample, rng in zip(samples, rngs, strict=True)]

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The same of one sample, for a transform that needs no other."""
        return sample
