"""What every detector must do, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tilewise.data.records import Record, Records
from tilewise.evaluation.coco import coco_metrics
from tilewise.instances import Instances
from tilewise.models.anchor_generators import Anchors, DefaultBoxes
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.postprocess import detections_of
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of, model_names
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor

# Of each family the smallest: the others differ from it in depth and width only.
SAME_BUT_LARGER = {
    *(f"fasterrcnn_resnet{depth}_fpn" for depth in (34, 50, 101, 152)),
    *(f"gfl_resnet{depth}_fpn" for depth in (34, 50, 101)),
    *(f"yolox_{size}" for size in ("tiny", "m", "l", "x")),
}
MODELS = sorted(set(model_names()) - SAME_BUT_LARGER)
CLASSES = 2
BOX_LOSSES = {"bbox_regression", "distribution", "loss_box_reg", "loss_rpn_box_reg"}


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)


def make_detector(name: str, side: int, score_threshold: float = 0.0) -> Detector:
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=side) if square else Scaling(min_size=side, max_size=side)
    torch.manual_seed(0)
    return build_detector(DetectorSpec(name, CLASSES, scaling, None, score_threshold, 0.5, 50))


def side_of(name: str) -> int:
    return 300 if name in ("ssd_vgg16", "ssd_resnet50") else 64


def make_sample(side: int, boxes: Tensor, ignored: bool) -> Sample:
    generator = torch.Generator().manual_seed(len(boxes))
    return Sample(
        pixels=torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator),
        targets=Targets(boxes, torch.arange(len(boxes)) % CLASSES, torch.full((len(boxes),), ignored)),
    )


def empty(side: int) -> Sample:
    return make_sample(side, torch.zeros(0, 4), False)


def only_ignored(side: int) -> Sample:
    return make_sample(side, torch.tensor([[0, 0, side, side], [5, 5, 9, 9]]).float(), True)


def crowded(side: int, count: int = 300) -> Sample:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * (side - 12)
    sides = 2 + 10 * torch.rand(count, 2, generator=generator)
    return make_sample(side, torch.cat([corner, corner + sides], dim=1), False)


def check_step(detector: Detector, samples: list[Sample]) -> None:
    """Losses are finite, and every trainable tensor gets a gradient: else training on several GPUs hangs."""
    losses = detector([sample.pixels for sample in samples], [sample.targets for sample in samples])
    assert isinstance(losses, dict)
    assert all(loss.ndim == 0 and loss.isfinite() and loss >= 0 for loss in losses.values())
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    for key, parameter in detector.network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", MODELS)
def test_step__on_empty_ignored_and_crowded_images(name: str) -> None:
    side = side_of(name)
    detector = make_detector(name, side)
    check_step(detector, [only_ignored(side), crowded(side)])
    assert all(
        any(float(p.grad.abs().sum()) > 0 for p in part.parameters() if p.grad is not None)
        for part in detector.network.children()
        if any(True for _ in part.parameters())
    )
    check_step(detector, [empty(side)])
    if side < 100:  # else it takes long
        check_step(detector, [only_ignored(side)])
        check_step(detector, [empty(side), only_ignored(side), crowded(side)])


@pytest.mark.parametrize("name", MODELS)
def test_step__in_mixed_precision_has_losses_and_boxes_in_single(name: str) -> None:
    side = side_of(name)
    detector = make_detector(name, side)
    samples = [crowded(side, 20), only_ignored(side)][: 1 + (side < 100)]
    images, targets = [sample.pixels for sample in samples], [sample.targets for sample in samples]
    torch.manual_seed(1)  # Faster R-CNN draws the regions that it learns from
    exact = detector(images, targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
        with torch.inference_mode():
            found = detector.eval().detect(images)
    assert isinstance(losses, dict) and isinstance(exact, dict)
    assert losses.keys() - BOX_LOSSES == family_of(name).classification_losses
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    total, close = (torch.stack(list(each.values())).sum().item() for each in (exact, losses))
    assert close == pytest.approx(total, rel=0.05)
    assert all(each.boxes.dtype == each.scores.dtype == np.float32 for each in found)


@pytest.mark.parametrize("name", MODELS)
def test_detections__have_one_form(name: str) -> None:
    side = side_of(name)
    detector = make_detector(name, side).eval()
    with torch.inference_mode():
        found = detector.detect([empty(side).pixels, crowded(side).pixels])
    assert len(found) == 2
    for each in found:
        assert isinstance(each, Instances)
        assert 0 < len(each) <= 50
        assert each.boxes.shape == (len(each), 4)
        assert each.boxes.dtype == each.scores.dtype == np.float32
        assert each.labels.dtype == np.int64
        assert ((each.boxes >= 0) & (each.boxes <= side)).all()
        assert (each.boxes[:, 2:] >= each.boxes[:, :2]).all()
        assert ((each.scores >= 0) & (each.scores <= 1)).all()
        assert (np.diff(each.scores) <= 0).all()
        assert ((each.labels >= 0) & (each.labels < CLASSES)).all()


@pytest.mark.parametrize("name", MODELS)
def test_parts__are_apart(name: str) -> None:
    """Losses and detections follow from a network's outputs alone, without its feature maps."""
    side = side_of(name)
    detector = make_detector(name, side)
    samples = [crowded(side, 20)]
    images, targets = [sample.pixels for sample in samples], [sample.targets for sample in samples]
    outputs: Any
    outputs, losses = detector.outputs_and_losses(images, targets)
    assert all(each.ndim == 4 and len(each) == 1 for each in outputs.features.values())
    again = detector.criterion(outputs._replace(features={}), targets)
    assert list(again) == list(losses)
    assert all(torch.equal(again[key], loss) for key, loss in losses.items())
    with torch.inference_mode():
        expected = detector.eval().detect(images)[0]
        outputs = detector.network(detector.transform(images).tensors)
        candidates = detector.postprocess(outputs._replace(features={}), [(side, side)])
        (found,) = detections_of(candidates, detector.postprocess.limits)
    assert len(found) and np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.scores, expected.scores) and np.array_equal(found.labels, expected.labels)


BLUE, RED = (40, 60, 220), (230, 40, 40)
PLACES = (
    ((8, 12, 28, 28), (60, 30, 74, 44), (20, 64, 32, 84)),
    ((40, 40, 70, 70), (70, 8, 86, 24), (10, 70, 30, 84)),
)


def painted(side: int, places: tuple[tuple[int, int, int, int], ...]) -> Sample:
    """Blue and red rectangles on grey noise; places are those on 96 pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(90, 110, (3, side, side), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor(places) * side // 96
    for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        colour = torch.tensor((BLUE, RED)[number % 2], dtype=torch.uint8)
        pixels[:, y0:y1, x0:x1] = colour.view(3, 1, 1)
    count = len(places)
    return Sample(
        pixels, Targets(boxes.float(), torch.arange(count) % 2, torch.zeros(count, dtype=torch.bool))
    )


@pytest.mark.parametrize(
    ("name", "side", "steps", "rate", "copies"),
    [("yolox_nano", 96, 100, 1e-2, 4), ("gfl_resnet18_fpn", 96, 40, 1e-3, 1)],
)
def test_training__learns_two_images_by_heart(
    name: str, side: int, steps: int, rate: float, copies: int
) -> None:
    """Copies of the images in a batch: running variances are unbiased, and those of a batch are not.

    At stride 32 two images are 18 values, whose variances differ by 6% in each layer: what YOLOX had learnt
    by heart in training was not found in evaluation.
    """
    detector = make_detector(name, side, score_threshold=0.05)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # a few steps only
    samples = [painted(side, places) for places in PLACES]
    images, targets = [sample.pixels for sample in samples], [sample.targets for sample in samples]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=rate, fused=True)
    # The rate ends at zero: else a step more or less, or another rounding, decides what is found.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        losses = detector(images * copies, targets * copies)
        assert isinstance(losses, dict)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)  # as a job does
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        found = detector.eval().detect(images)
    assert coco_metrics(as_records(samples), found, ("blue", "red"))["AP50"] > 0.9


def as_records(samples: list[Sample]) -> Records:
    return Records(
        Record(
            key=str(number),
            path=Path(str(number)),
            width=sample.pixels.shape[2],
            height=sample.pixels.shape[1],
            targets=Targets(its.boxes.numpy(), its.labels.numpy(), its.ignored.numpy()),
        )
        for number, sample in enumerate(samples)
        for its in [sample.targets]
    )


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision__boxes_are_regressed_from_anchors_in_float32(name: str) -> None:
    """In bfloat16 neighbouring numbers are up to 8 px apart: more than a small object measures."""
    side = side_of(name)
    detector = make_detector(name, side).train()
    batch = [crowded(side, 5)]
    generators = [each for each in detector.modules() if isinstance(each, (Anchors, DefaultBoxes))]
    assert bool(generators) != name.startswith(("yolox", "gfl"))
    for generator in generators:
        generator.register_forward_hook(lambda module, given, anchors: seen.extend(anchors))
    seen: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector([sample.pixels for sample in batch], [sample.targets for sample in batch])
    assert all(each.dtype == torch.float32 for each in seen) and len(seen) == len(generators)
    assert isinstance(losses, dict)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
