from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps
from tilewise.inference.export import trace, write_onnx
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.torch_backend import TorchBackend
from tilewise.masks import MASKS, Masks, Outline
from tilewise.models.build import build_detector
from tilewise.models.mask_targets import mask_targets
from tilewise.models.spec import DetectorSpec
from tilewise.models.yolox_masks import mask_logits
from tilewise.prototypes import PLANES, PROTOTYPES, mixed_masks
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


def make(name: str = "maskyolox_nano") -> Any:
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


@pytest.fixture(scope="module")
def learnt() -> tuple[Any, float]:
    """A detector that knows one scene by heart, and its last loss of masks."""
    torch.set_flush_denormal(True)
    detector = make()
    pixels, targets = triangle_scene()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.2  # the statistics of these few steps are those that count
    optimizer = torch.optim.AdamW(detector.parameters(), 3e-3)
    detector.train()
    for step in range(160):
        if step == 120:
            optimizer.param_groups[0]["lr"] = 3e-4
        losses: Any = detector([pixels, pixels], [targets, targets])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return detector.eval(), float(losses["loss_mask"].detach())


def test_learns_two_masks_by_heart(learnt: tuple[Any, float]) -> None:
    """What is learnt is the masks' shape in the objects' boxes, by the surest place in each."""
    detector, loss = learnt
    assert loss < 0.35
    pixels, targets = triangle_scene()
    with torch.no_grad():
        outputs = detector.train().network(detector.transform([pixels, pixels]).tensors)
    detector.eval()
    masks = targets.fields[MASKS]
    assert isinstance(masks, Bitmaps)
    wanted = mask_targets(masks, targets.boxes, torch.full((2, 2), SIDE), side=28) > 0.5
    for number, box in enumerate(targets.boxes):
        inside = ((outputs.priors.points > box[:2]) & (outputs.priors.points < box[2:])).all(dim=1)
        surest = int(outputs.objects[0].masked_fill(~inside, -1e9).argmax())
        found = mask_logits(outputs.prototypes[0], box[None], outputs.coefficients[0, surest][None])[0] > 0
        shared, united = (found & wanted[number]).sum(), (found | wanted[number]).sum()
        assert float(shared / united) > 0.7


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


def test_mixed_masks__are_those_that_are_learnt() -> None:
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.randn(PROTOTYPES, 24, 20, generator=generator)
    coefficients = torch.randn(9, PROTOTYPES + PLANES, generator=generator)
    corners = torch.rand(9, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(9, 2, generator=generator) * 19], dim=1)
    learnt = (mask_logits(prototypes, boxes, coefficients).sigmoid() * 255).numpy()
    found = mixed_masks(prototypes.numpy(), boxes.numpy(), coefficients.numpy())
    assert np.abs(found - learnt).max() < 0.6


def test_graphs__give_the_same_masks(learnt: tuple[Any, float], tmp_path: Path) -> None:
    detector, _ = learnt
    # a few steps do not teach every seed to be sure of what it sees
    detector.postprocess.limits = detector.postprocess.limits._replace(score_threshold=1e-4)
    path = tmp_path / "model.onnx"
    write_onnx(detector, Scaling(square=SIDE), path)
    backend = OnnxBackend(path, detector.postprocess.limits, 1)
    pixels, _ = triangle_scene()
    (expected,) = detector.detect([pixels])
    (by_onnx,) = backend.detect([pixels.numpy()])
    frozen = TorchBackend(detector, graph=trace(detector, Scaling(square=SIDE)))
    (by_graph,) = frozen.detect([pixels.numpy()])
    for found in (by_onnx, by_graph):
        assert len(found) == len(expected) > 0
        assert np.abs(found.boxes - expected.boxes).max() < 0.05
        masks, wanted = found.fields[MASKS], expected.fields[MASKS]
        assert isinstance(masks, Bitmaps) and isinstance(wanted, Bitmaps)
        assert np.abs(masks.values.astype(int) - wanted.values).max() <= 2
