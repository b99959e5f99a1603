from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps
from tilewise.masks import MASKS, Masks, Outline
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.models.yolox_masks import PLANES, PROTOTYPES, mask_logits
from tilewise.targets import Targets
from tilewise.views.view import Scaling
from torch import Tensor

SIDE = 96


def triangle_scene() -> tuple[Tensor, Targets[Tensor]]:
    """Two objects whose masks are half of their boxes."""
    rings = [[[10, 10], [50, 10], [10, 50]], [[90, 50], [90, 90], [50, 90]]]
    outlines = [Outline([np.array(ring, float)]) for ring in rings]
    masks = Masks.of(outlines).crop((0, 0, SIDE, SIDE), (SIDE, SIDE))
    pixels = torch.full((3, SIDE, SIDE), 90, dtype=torch.uint8)
    grids = masks.bitmaps()
    for values, frame in zip(grids.values, grids.frames.astype(int), strict=True):
        rows, columns = np.nonzero(values)
        pixels[:, rows + frame[1], columns + frame[0]] = 220
    targets: Targets[Array] = Targets(masks.boxes, np.array([0, 1]), np.zeros(2, np.bool_), {MASKS: masks})
    return pixels, targets.to("cpu")


def make(name: str = "yolox_nano_seg") -> Any:
    torch.manual_seed(0)
    return build_detector(DetectorSpec(name, 2, Scaling(square=SIDE), None, 0.05, 0.5, 20))


def test_mask_logits__mix_what_lies_in_the_box() -> None:
    prototypes = torch.zeros(PROTOTYPES, 24, 24)
    prototypes[3, :, 12:] = 1  # the right half of a view of 96 pixels
    coefficients = torch.zeros(2, PROTOTYPES + PLANES)
    coefficients[:, 3] = 10
    coefficients[:, PROTOTYPES] = -5
    boxes = torch.tensor([[24.0, 24.0, 72.0, 72.0], [60.0, 0.0, 90.0, 40.0]])
    masks = mask_logits(prototypes, boxes, coefficients) > 0
    assert masks[0, :, :13].sum() == 0 and masks[0, :, 15:].all()
    assert masks[1].all()


def test_planes__are_an_ellipse_in_the_box() -> None:
    coefficients = torch.zeros(1, PROTOTYPES + PLANES)
    coefficients[0, -2:] = 8  # 1 - u² - v²
    mask = mask_logits(torch.zeros(PROTOTYPES, 8, 8), torch.tensor([[0.0, 0, 32, 32]]), coefficients) > 0
    assert float(mask.float().mean()) == pytest.approx(np.pi / 4, abs=0.03)


def test_learns_two_masks_by_heart() -> None:
    torch.set_flush_denormal(True)
    detector = make()
    pixels, targets = triangle_scene()
    optimizer = torch.optim.AdamW(detector.parameters(), 3e-3)
    detector.train()
    for _ in range(140):
        losses: Any = detector([pixels, pixels], [targets, targets])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert float(losses["loss_mask"].detach()) < 0.35
    (found,) = detector.eval().detect([pixels])
    masks = found.fields[MASKS]
    assert isinstance(masks, Bitmaps) and masks.values.shape[1:] == (28, 28)
    for label in (0, 1):
        best = int(np.flatnonzero(found.labels == label)[0])
        share = float((masks.values[best] > 127).mean())
        assert 0.35 < share < 0.65  # half of the box, not all of it


def test_objects_without_masks__teach_boxes_only() -> None:
    detector = make().train()
    pixels, targets = triangle_scene()
    none = Targets(targets.boxes, targets.labels, targets.ignored, {MASKS: Masks.none(2).to("cpu")})
    with torch.no_grad():
        losses: Any = detector([pixels], [none])
        empty: Any = detector([pixels], [Targets.none().to("cpu")])
    assert float(losses["loss_mask"]) == 0 and float(losses["bbox_regression"]) > 0
    assert float(empty["loss_mask"]) == 0


def test_boxes__are_yolox_own() -> None:
    """The same weights find the same boxes as the detector without masks."""
    ours, theirs = make(), make("yolox_nano")
    ours.network.load_state_dict(theirs.network.state_dict(), strict=False)
    pixels, _ = triangle_scene()
    (one,), (other,) = ours.eval().detect([pixels]), theirs.eval().detect([pixels])
    assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)
