from __future__ import annotations

import pytest
import torch
from tilewise.models.anchor_generators import Anchors, DefaultBoxes
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

GENERATORS = {
    "anchors": (
        Anchors(((32.0,), (64.0,)), ((0.5, 1.0, 2.0),) * 2),
        AnchorGenerator(((32.0,), (64.0,)), ((0.5, 1.0, 2.0),) * 2),
    ),
    "default boxes": (
        DefaultBoxes([[2], [2, 3]], scales=[0.1, 0.3, 0.5]),
        DefaultBoxGenerator([[2], [2, 3]], scales=[0.1, 0.3, 0.5]),
    ),
}


def batch_and_maps(dtype: torch.dtype, width: int = 1344) -> tuple[ImageList, list[Tensor]]:
    maps = [torch.zeros(2, 1, 800 // stride, width // stride, dtype=dtype) for stride in (16, 32)]
    return ImageList(torch.zeros(2, 3, 800, width), [(800, width), (700, width)]), maps


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_anchors__are_torchvisions_in_float32_whatever_the_maps_are_in(name: str, dtype: torch.dtype) -> None:
    ours, theirs = GENERATORS[name]
    found = ours(*batch_and_maps(dtype))
    expected = theirs(*batch_and_maps(torch.float32))
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    # why there is a class for it
    if dtype == torch.bfloat16 and name == "anchors":
        assert (theirs(*batch_and_maps(dtype))[0].float() - expected[0]).abs().max() >= 2


@pytest.mark.parametrize("name", GENERATORS)
def test_anchors__are_made_once_for_each_size(name: str) -> None:
    ours, _ = GENERATORS[name]
    first = ours(*batch_and_maps(torch.float32))[0]
    assert ours(*batch_and_maps(torch.float32))[1] is first
    assert len(ours(*batch_and_maps(torch.float32, width=640))[0]) < len(first)
    torch.testing.assert_close(ours(*batch_and_maps(torch.float32))[0], first)


@pytest.mark.parametrize("name", GENERATORS)
def test_anchors__made_in_validation_can_be_learnt_with(name: str) -> None:
    ours, _ = GENERATORS[name]
    with torch.inference_mode():
        batch, maps = batch_and_maps(torch.float32, width=320)
        anchors = ours(batch, maps)[0]
    assert ours(*batch_and_maps(torch.float32, width=320))[0] is anchors
    weight = nn.Parameter(torch.ones(()))
    (weight * anchors).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, anchors.sum())
