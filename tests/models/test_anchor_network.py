from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from tilewise.models.anchor_generators import Anchors, DefaultBoxes
from tilewise.models.anchor_network import AnchorNetwork
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSDHead


class Halving(nn.Module):
    """A backbone of two feature maps, at strides 2 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, padding=1)
        self.second = nn.Conv2d(32, 32, 3, 2, padding=1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        first = self.first(batch)
        return OrderedDict({"0": first, "1": self.second(first)})


def make_network(kind: str) -> AnchorNetwork:
    torch.manual_seed(0)
    if kind == "ssd":
        boxes = DefaultBoxes([[2], [2, 3]], scales=[0.2, 0.4, 0.8])
        return AnchorNetwork(Halving(), boxes, SSDHead([32, 32], boxes.num_anchors_per_location(), 3))
    anchors = Anchors(((8,), (16,)), ((0.5, 1.0),) * 2)
    return AnchorNetwork(Halving(), anchors, RetinaNetHead(32, 2, 3))


@pytest.mark.parametrize(("kind", "per_cell"), [("ssd", (4, 6)), ("retinanet", (2, 2))])
def test_outputs__by_level_are_those_of_its_cells(kind: str, per_cell: tuple[int, int]) -> None:
    outputs = make_network(kind)(torch.randn(2, 3, 16, 24))
    assert {name: each.shape for name, each in outputs.features.items()} == {
        "0": (2, 32, 8, 12),
        "1": (2, 32, 4, 6),
    }
    counts = [96 * per_cell[0], 24 * per_cell[1]]
    levels = list(outputs.by_level("cls_logits", "bbox_regression"))
    assert [[len(anchors), logits.shape, deltas.shape] for logits, deltas, anchors in levels] == [
        [count, (2, count, 3), (2, count, 4)] for count in counts
    ]
    # the anchors of the last cell are around it, in pixels of the batch
    centres = [(anchors[-1, :2] + anchors[-1, 2:]) / 2 for _, _, anchors in levels]
    offset = {"ssd": 0.5, "retinanet": 0.0}[kind]
    assert [each.tolist() for each in centres] == [
        [(11 + offset) * 2, (7 + offset) * 2],
        [(5 + offset) * 4, (3 + offset) * 4],
    ]


@pytest.mark.parametrize("kind", ["ssd", "retinanet"])
def test_network__is_exported_alone(kind: str) -> None:
    network = make_network(kind).eval()
    given, other = torch.randn(2, 1, 3, 16, 16)
    expected = network(other)
    exported = torch.export.export(network, (given,)).module()
    outputs = exported(other)
    torch.testing.assert_close(outputs.heads, expected.heads)
    torch.testing.assert_close(outputs.anchors, expected.anchors)
