from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from tilewise.models.detector import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchImages,
    Detector,
)
from tilewise.models.postprocess import Candidates
from tilewise.suppression import Limits
from tilewise.targets import Targets
from torch import Tensor, nn


def test_batch__is_normalised_and_padded_to_the_divisor() -> None:
    images = [torch.full((3, 40, 30), 255, dtype=torch.uint8), torch.zeros((3, 20, 70), dtype=torch.uint8)]
    batch = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)(images)
    assert batch.image_sizes == [(40, 30), (20, 70)]
    assert batch.tensors.shape == (2, 3, 64, 96)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(batch.tensors[0, :, 39, 29], (1 - mean) / std)
    torch.testing.assert_close(batch.tensors[1, :, 19, 69], -mean / std)
    assert not batch.tensors[0, :, 40:].any()
    assert not batch.tensors[0, :, :, 30:].any()
    assert not batch.tensors[1, :, 20:].any()


def test_batch__of_one_size_is_the_same_as_that_of_several() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 64, 32), dtype=torch.uint8, generator=generator) for _ in range(3)]
    alike = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)(images[:2])
    mixed = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)([*images[:2], images[2][:, :40]])
    assert alike.image_sizes == mixed.image_sizes[:2] == [(64, 32)] * 2
    assert torch.equal(alike.tensors, mixed.tensors[:2])
    for batch in (alike, mixed):
        assert batch.tensors.is_contiguous(memory_format=torch.channels_last)


def test_batch__has_no_state() -> None:
    # published weights have no such keys
    assert not BatchImages(IMAGENET_MEAN, IMAGENET_STD).state_dict()


class Spy(nn.Module):
    """A network whose output is the mean of each image."""

    def forward(self, batch: Tensor) -> SimpleNamespace:
        return SimpleNamespace(features={"0": batch}, means=batch.mean(dim=(1, 2, 3)))


class WholeViews:
    """Candidates as large as their views."""

    limits = Limits(0.0, 0.5, 1, 1)

    def __call__(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> Candidates:
        boxes = torch.tensor([[[0, 0, width, height]] for height, width in sizes]).float()
        return Candidates(boxes, outputs.means[:, None], torch.zeros(len(boxes), 1, dtype=torch.int64))


def make_detector(seen: list[Any]) -> Detector:
    def criterion(outputs: Any, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        seen.append((outputs, targets))
        return {"classification": outputs.means.sum()}

    return Detector(Spy(), BatchImages((0.0,) * 3, (1 / 255,) * 3, divisor=8), criterion, WholeViews())


def ones(height: int, width: int) -> Tensor:
    return torch.ones(3, height, width, dtype=torch.uint8)


def test_detector__gives_its_criterion_what_its_network_makes_of_the_batch() -> None:
    seen: list[Any] = []
    detector = make_detector(seen)
    images, targets = [ones(8, 8), ones(4, 8)], [Targets.none().to("cpu")] * 2
    losses = detector(images, targets)
    assert losses == {"classification": torch.tensor(1.5)}
    outputs, again = detector.outputs_and_losses(images, targets)
    assert outputs is seen[1][0] and outputs.features["0"].shape == (2, 3, 8, 8)
    assert again == losses and all(given is targets for _, given in seen)


def test_detector__gives_its_postprocess_the_sizes_without_padding() -> None:
    seen: list[Any] = []
    found = make_detector(seen).eval().detect([ones(8, 8), ones(4, 8)])
    assert [each.boxes.tolist() for each in found] == [[[0, 0, 8, 8]], [[0, 0, 8, 4]]]
    assert [each.scores.tolist() for each in found] == [[1], [0.5]]
    assert not seen
