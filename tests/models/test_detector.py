from __future__ import annotations

import pytest
import torch
from tilewise.instances import Instances
from tilewise.models.detector import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchImages,
    Detector,
    on_ignored,
)
from tilewise.targets import Targets
from torch import Tensor, nn


def test_batch__is_normalised_and_padded_to_the_divisor() -> None:
    images = [torch.full((3, 40, 30), 255, dtype=torch.uint8), torch.zeros((3, 20, 70), dtype=torch.uint8)]
    batch, _ = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)(images)
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
    alike, _ = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)(images[:2])
    mixed, _ = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)([*images[:2], images[2][:, :40]])
    assert alike.image_sizes == mixed.image_sizes[:2] == [(64, 32)] * 2
    assert torch.equal(alike.tensors, mixed.tensors[:2])
    for batch in (alike, mixed):
        assert batch.tensors.is_contiguous(memory_format=torch.channels_last)


def test_batch__has_no_state() -> None:
    # published weights have no such keys
    assert not BatchImages(IMAGENET_MEAN, IMAGENET_STD).state_dict()


def test_targets__pass_unchanged() -> None:
    targets = [{"boxes": torch.rand(2, 4)}]
    _, passed = BatchImages((0.0,) * 3, (1.0,) * 3)([torch.zeros(3, 8, 8, dtype=torch.uint8)], targets)
    assert passed is targets


class Spy(nn.Module):
    """Notes what it is trained on; finds one object of the first class that a network can name."""

    targets: list[dict[str, Tensor]]

    def __init__(self, first_label: int) -> None:
        super().__init__()
        self.first_label = first_label

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if targets is not None:
            self.targets = targets
            return {"classification": torch.zeros(())}
        label = torch.tensor([self.first_label])
        return [{"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": label} for _ in images]


@pytest.mark.parametrize("background", [True, False])
def test_detector__counts_classes_from_0_whatever_its_network_does(background: bool) -> None:
    spy = Spy(int(background))
    detector = Detector(spy, background)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    boxes = torch.arange(12.0).reshape(3, 4)
    targets = Targets(boxes, torch.tensor([0, 4, 2]), torch.tensor([False, True, False]))
    detector([image], [targets])
    target = spy.targets[0]
    assert target["labels"].tolist() == [background, 2 + background]
    assert target["boxes"].tolist() == boxes[[0, 2]].tolist()
    assert target["ignored"].tolist() == boxes[[1]].tolist()
    found = detector.eval().detect([image, image])
    assert [detections.labels.tolist() for detections in found] == [[0], [0]]
    assert all(isinstance(detections, Instances) for detections in found)


def test_on_ignored__needs_an_iou_of_three_tenths_or_half_of_the_anchor() -> None:
    ignored = torch.tensor([[0, 0, 10, 10.0]])
    anchors = torch.tensor(
        [
            [0, 0, 10, 10],  # the box itself
            [0, 0, 20, 10],  # half in it
            [0, 0, 21, 10],  # IoU 0.48
            [0, 0, 10, 30],  # IoU 1/3
            [0, 0, 10, 34],  # IoU 0.29
            [5, 0, 15, 10],  # half in it
            [6, 0, 16, 10],  # IoU 0.25, 0.4 of it inside
            [2, 2, 4, 4],  # IoU 0.04, all of it inside
            [9, 9, 11, 11],  # a quarter inside
            [50, 50, 60, 60],
            [5, 5, 5, 5],  # no area
        ]
    ).float()
    expected = [True, True, True, True, False, True, False, True, False, False, False]
    assert on_ignored(anchors, ignored).tolist() == expected


def test_on_ignored__any_of_several_boxes_counts() -> None:
    anchors = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90.0]])
    assert on_ignored(anchors, anchors[[2, 0]]).tolist() == [True, False, True]


def test_on_ignored__nothing_ignored() -> None:
    assert on_ignored(torch.rand(5, 4), torch.zeros(0, 4)).tolist() == [False] * 5
