from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from parts import parts
from tilewise.targets import Targets
from tilewise.training.dataloading.batch import Batch
from tilewise.views.sample import Sample
from torch import Tensor

CPU = torch.device("cpu")


class TensorCounter(pickle.Pickler):
    """Counts the tensors that go with an object, wherever they lie in it."""

    count = 0

    def reducer_override(self, part: object) -> Any:
        self.count += isinstance(part, Tensor)
        return NotImplemented


def make_sample(width: int, height: int, boxes: int) -> Sample:
    generator = torch.Generator().manual_seed(width)
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(9, (boxes,), generator=generator)
    # as Pillow's decoder has them: the colours last
    return Sample(
        pixels.permute(2, 0, 1), Targets(torch.rand(boxes, 4, generator=generator), labels, labels > 4)
    )


@pytest.mark.parametrize("boxes", [(3, 0, 2), (0, 0, 0)])
def test_batch__gives_back_its_samples(boxes: tuple[int, int, int]) -> None:
    samples = [make_sample(*size, count) for size, count in zip([(5, 4), (7, 2), (4, 4)], boxes, strict=True)]
    batch: Batch = pickle.loads(pickle.dumps(Batch.of(samples, [("a.png", "damaged")])))
    assert len(batch) == 3 and batch.area == 5 * 4 + 7 * 2 + 4 * 4 and batch.damaged == [("a.png", "damaged")]
    for back, sample in zip(batch.samples(CPU), samples, strict=True):
        for name, value in parts(sample).items():
            assert parts(back)[name].dtype == value.dtype and torch.equal(parts(back)[name], value), name


def test_batch__may_be_without_samples() -> None:
    batch = Batch.of([], [("a.png", "damaged"), ("b.png", "gone")])
    assert not batch and batch.area == 0 and batch.samples(CPU) == []
    assert batch.damaged == [("a.png", "damaged"), ("b.png", "gone")]


def test_batch__has_as_many_tensors_however_many_samples() -> None:
    for count in (1, 16):
        counter = TensorCounter(io.BytesIO())
        counter.dump(Batch.of([make_sample(4, 4, 2)] * count))
        assert counter.count == 4
