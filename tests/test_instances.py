from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from made_instances import make_instances
from tilewise.arrays import Float32
from tilewise.fields import Corners, Field, Index, Rows
from tilewise.instances import Instances


@dataclass(frozen=True)
class Points:
    """A field that has a place: one point for each object, (N, 2) in pixels of the frame."""

    xy: Float32

    def __len__(self) -> int:
        return len(self.xy)

    def select(self, index: Index) -> Points:
        return Points(self.xy[index])

    def flip(self, width: float) -> Points:
        return Points(np.stack([width - self.xy[:, 0], self.xy[:, 1]], axis=1))

    def crop(self, window: Corners, size: tuple[int, int]) -> Points:
        x0, y0, x1, y1 = window
        scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)], np.float32)
        return Points((self.xy - np.array([x0, y0], np.float32)) * scale)

    def warp(self, matrix: Any, size: tuple[int, int]) -> Points:
        return Points(np.asarray(self.xy @ matrix[:, :2].T + matrix[:, 2], np.float32))

    def to(self, device: torch.device | str) -> Points:
        return self

    @classmethod
    def cat(cls, parts: Any) -> Points:
        return cls(np.concatenate([part.xy for part in parts]))


def instances(count: int = 3) -> Instances:
    """Each with its centre and, as a row, ten times its label."""
    corners = 10 * np.arange(count, dtype=np.float32)
    boxes = np.stack([corners, corners, corners + 4, corners + 8], axis=1)
    labels = np.arange(count)
    fields: dict[str, Field] = {
        "centre": Points(np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)),
        "ten": Rows(10 * labels),
    }
    return make_instances(boxes, np.linspace(0.9, 0.5, count), labels, fields)


def assert_consistent(found: Instances) -> None:
    """The fields are still those of these very objects, in their frame."""
    centre, ten = found.fields["centre"], found.fields["ten"]
    assert isinstance(centre, Points) and isinstance(ten, Rows)
    np.testing.assert_allclose(centre.xy, (found.boxes[:, :2] + found.boxes[:, 2:]) / 2)
    assert ten.values.tolist() == [10 * label for label in found.labels.tolist()]


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (slice(1, 3), [1, 2]),
        (np.array([2, 0]), [2, 0]),
        (np.array([False, True, True]), [1, 2]),
        (np.array([2, 1]), [2, 1]),
        (np.zeros(0, np.int64), []),
    ],
)
def test_select(index: Index, labels: list[int]) -> None:
    found = instances().select(index)
    assert found.labels.tolist() == labels and len(found) == len(labels)
    assert found.boxes[:, 0].tolist() == [10.0 * label for label in labels]
    assert_consistent(found)


def test_iter() -> None:
    assert [(row.box, row.label) for row in instances(2)] == [([0, 0, 4, 8], 0), ([10, 10, 14, 18], 1)]
    assert [row.score for row in instances(2)] == pytest.approx([0.9, 0.5])


def test_flip() -> None:
    found = instances().flip(50)
    assert found.boxes.tolist() == [[46, 0, 50, 8], [36, 10, 40, 18], [26, 20, 30, 28]]
    assert_consistent(found)
    assert np.array_equal(found.flip(50).boxes, instances().boxes)


def test_crop__moves_scales_and_cuts() -> None:
    found = instances().crop((8, 8, 28, 24), (40, 64))
    # twice as wide and four times as high; the first lies outside, the last is cut at the bottom
    assert found.boxes.tolist() == [[0, 0, 0, 0], [4, 8, 12, 40], [24, 48, 32, 64]]
    assert_consistent(found.select(slice(1, 2)))
    assert len(found.fields["centre"]) == 3


def test_cat() -> None:
    both = Instances.cat([instances(2), instances(3)])
    assert both.labels.tolist() == [0, 1, 0, 1, 2]
    assert_consistent(both)


def test_cat__what_holds_nothing_needs_no_fields() -> None:
    nothing = Instances.none()
    both = Instances.cat([nothing, instances(), nothing])
    assert both.labels.tolist() == [0, 1, 2]
    assert_consistent(both)
    assert len(Instances.cat([nothing, nothing])) == 0


def test_cat__other_fields() -> None:
    plain = make_instances(instances().boxes, instances().scores, instances().labels)
    with pytest.raises(ValueError, match=r"fields differ: \['centre', 'ten'\] and \[\]"):
        Instances.cat([instances(), plain])
