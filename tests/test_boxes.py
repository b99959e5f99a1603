from __future__ import annotations

import numpy as np
import pytest
import torch
from tilewise.arrays import Array
from tilewise.boxes import (
    area,
    clip_boxes,
    crop_boxes,
    flip_boxes,
    intersection,
    object_size,
    paired_iou,
    sides,
)
from torchvision.ops import box_area, box_iou, clip_boxes_to_image


def random_boxes(count: int, seed: int, dtype: type = np.float32) -> Array:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 50, (count, 2))
    return np.concatenate([corner, corner + generator.uniform(0, 50, (count, 2))], axis=1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_areas__are_torchvisions(dtype: type) -> None:
    one, other = random_boxes(30, 0, dtype), random_boxes(20, 1, dtype)
    tensors = torch.from_numpy(one), torch.from_numpy(other)
    torch.testing.assert_close(area(tensors[0]), box_area(tensors[0]))
    torch.testing.assert_close(paired_iou(tensors[0][:, None], tensors[1]), box_iou(*tensors))
    torch.testing.assert_close(paired_iou(tensors[0][:20], tensors[1]), box_iou(*tensors).diagonal())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_and_tensors__agree_to_the_bit(dtype: type) -> None:
    one, other = random_boxes(30, 0, dtype), random_boxes(20, 1, dtype)
    tensors = torch.from_numpy(one), torch.from_numpy(other)
    assert area(one).dtype == dtype
    assert np.array_equal(area(one), area(tensors[0]).numpy())
    shared = intersection(one[:, None], other)
    assert shared.shape == (30, 20) and 0 < (shared > 0).mean() < 1
    assert np.array_equal(shared, intersection(tensors[0][:, None], tensors[1]).numpy())
    iou = paired_iou(one[:, None], other)
    assert np.array_equal(iou, paired_iou(tensors[0][:, None], tensors[1]).numpy())


def test_areas__nothing_is_negative() -> None:
    inverted = np.array([[5, 5, 2, 2], [0, 0, 0, 4]], np.float32)
    assert sides(inverted).tolist() == [[0, 0], [0, 4]]
    assert area(inverted).tolist() == object_size(inverted).tolist() == [0, 0]
    apart = np.array([[0, 0, 2, 2], [5, 5, 9, 9]], np.float32)
    assert intersection(apart[0], apart[1]) == 0  # two negative sides are no area
    assert paired_iou(inverted, inverted).tolist() == [0, 0]


def test_object_size__is_the_side_of_the_square_of_that_area() -> None:
    assert object_size(np.array([[10, 10, 12, 18], [0, 0, 7, 7]], np.float32)).tolist() == [4, 7]


def test_crop_flip_and_clip() -> None:
    boxes = np.array([[10, 20, 30, 40], [-5, 0, 5, 200]], np.float32)
    assert crop_boxes(boxes, (10, 0, 60, 100), (100, 100)).tolist() == [
        [0, 20, 40, 40],
        [-30, 0, -10, 200],
    ]
    assert flip_boxes(boxes, 100).tolist() == [[70, 20, 90, 40], [95, 0, 105, 200]]
    assert boxes[0].tolist() == [10, 20, 30, 40]  # a copy
    assert clip_boxes(boxes, (25, 100)).tolist() == [[10, 20, 25, 40], [0, 0, 5, 100]]
    tensor = torch.from_numpy(boxes)
    assert torch.equal(clip_boxes(tensor, (25, 100)), clip_boxes_to_image(tensor, (100, 25)))
