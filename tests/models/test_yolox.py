from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ground_truth import make_targets
from tilewise.models.build import build_detector
from tilewise.models.postprocess import detections_of
from tilewise.models.priors import Priors, make_priors
from tilewise.models.spec import DetectorSpec
from tilewise.models.yolox import YOLOX, YOLOXCriterion, YOLOXOutputs, YOLOXPostprocess, decode
from tilewise.suppression import Limits
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# side of the test images, parameters in millions and GFLOPs as the paper and the repository print them
PUBLISHED = {
    "yolox_nano": (416, "0.91", "1.08"),
    "yolox_tiny": (416, "5.06", "6.45"),
    "yolox_s": (640, "9.0", "26.8"),
    "yolox_m": (640, "25.3", "73.8"),
    "yolox_l": (640, "54.2", "155.6"),
    "yolox_x": (640, "99.1", "281.9"),
}


def make_network(name: str, classes: int, device: str = "meta") -> YOLOX:
    with torch.device(device):
        spec = DetectorSpec(name, classes, Scaling(square=64), None, 0.1, 0.5, 100)
        network = build_detector(spec).network
    assert isinstance(network, YOLOX)
    return network


def like(value: float, printed: str) -> str:
    return f"{value:.{len(printed.split('.')[1])}f}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_size__has_the_published_parameters_and_flops(name: str) -> None:
    side, parameters, gflops = PUBLISHED[name]
    network = make_network(name, 80).eval()
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert like(millions, parameters) == parameters
    # published figures count four operations for each value that is normalised
    normalised = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal normalised
        normalised += output.numel()

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        network.head(network.backbone(torch.zeros(1, 3, side, side, device="meta")))
    assert like((counter.get_total_flops() + 4 * normalised) / 1e9, gflops) == gflops


def test_s__has_8_97_million_parameters() -> None:
    assert like(sum(p.numel() for p in make_network("yolox_s", 80).parameters()) / 1e6, "8.97") == "8.97"


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("yolox_s", "backbone.backbone.stem.conv.conv.weight", (32, 12, 3, 3)),
        ("yolox_s", "backbone.backbone.dark2.0.conv.weight", (64, 32, 3, 3)),
        ("yolox_s", "backbone.backbone.dark3.1.m.2.conv2.bn.running_mean", (64,)),
        ("yolox_s", "backbone.backbone.dark5.1.conv2.conv.weight", (512, 1024, 1, 1)),
        ("yolox_s", "backbone.backbone.dark5.2.m.0.conv1.conv.weight", (256, 256, 1, 1)),
        ("yolox_s", "backbone.lateral_conv0.conv.weight", (256, 512, 1, 1)),
        ("yolox_s", "backbone.C3_p4.conv1.conv.weight", (128, 512, 1, 1)),
        ("yolox_s", "backbone.reduce_conv1.conv.weight", (128, 256, 1, 1)),
        ("yolox_s", "backbone.bu_conv2.conv.weight", (128, 128, 3, 3)),
        ("yolox_s", "backbone.C3_n4.conv3.conv.weight", (512, 512, 1, 1)),
        ("yolox_s", "head.stems.2.conv.weight", (128, 512, 1, 1)),
        ("yolox_s", "head.cls_convs.0.1.conv.weight", (128, 128, 3, 3)),
        ("yolox_s", "head.reg_convs.2.0.bn.weight", (128,)),
        ("yolox_s", "head.cls_preds.0.weight", (80, 128, 1, 1)),
        ("yolox_s", "head.reg_preds.1.bias", (4,)),
        ("yolox_s", "head.obj_preds.2.weight", (1, 128, 1, 1)),
        ("yolox_nano", "backbone.backbone.dark2.0.dconv.conv.weight", (16, 1, 3, 3)),
        ("yolox_nano", "backbone.bu_conv1.pconv.conv.weight", (128, 128, 1, 1)),
        ("yolox_nano", "head.cls_convs.1.0.dconv.bn.weight", (64,)),
    ],
)
def test_weights__have_the_published_names_and_shapes(name: str, key: str, shape: tuple[int, ...]) -> None:
    assert make_network(name, 80).state_dict()[key].shape == shape


def test_norms__are_yoloxs() -> None:
    norms = [
        module for module in make_network("yolox_nano", 2).modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert norms
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_focus__takes_the_corners_in_the_published_order() -> None:
    network = make_network("yolox_nano", 2, "cpu").eval()
    seen: list[Tensor] = []
    stem = network.backbone.backbone.stem
    stem.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    corners = torch.tensor([[0, 1], [2, 3]])
    stem(torch.stack([10 + corners, 20 + corners, 30 + corners])[None].float())  # red, green, blue
    # top before bottom, left before right; blue first
    assert seen[0].flatten().tolist() == [
        colour + corner for corner in (0, 2, 1, 3) for colour in (30, 20, 10)
    ]


def test_pixels__reach_the_network_unscaled() -> None:
    image = torch.randint(256, (3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    spec = DetectorSpec("yolox_nano", 2, Scaling(square=64), None, 0.1, 0.5, 100)
    batch = build_detector(spec).transform([image])
    assert batch.tensors.shape == (1, 3, 32, 64)
    torch.testing.assert_close(batch.tensors[0, :, :, :40], image.float())


def priors_64() -> Priors:
    return make_priors([(8, 8), (4, 4), (2, 2)], (8, 16, 32), 0.5, device=torch.device("cpu"))


def test_decode__offsets_and_log_sides_in_strides() -> None:
    raw = torch.zeros(1, 84, 4)
    raw[0, 9] = torch.tensor([0.5, 0.25, 0.0, 0.0])
    raw[0, 83] = torch.tensor([0.0, 0.0, torch.log(torch.tensor(2.0)), 1e9])
    boxes = decode(raw, priors_64())[0]
    assert boxes[9].tolist() == [8, 6, 16, 14]  # the cell at (8, 8): its centre at (12, 10)
    assert boxes[83, [0, 2]].tolist() == [0, 64]
    assert boxes.isfinite().all()


def random_outputs(images: int, classes: int) -> YOLOXOutputs:
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, 84, 4), (images, 84, classes), (images, 84))
    boxes, logits, objects = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return YOLOXOutputs({}, boxes, logits, objects, priors_64())


def test_loss__of_a_perfect_prediction_is_zero() -> None:
    targets = make_targets([[8, 8, 16, 16]], [1], [])
    raw, classes, objects = torch.zeros(1, 84, 4), torch.full((1, 84, 2), -20.0), torch.full((1, 84), -20.0)
    raw[0, :, :2] = 0.5
    classes[0, 9, 1] = objects[0, 9] = 20.0
    losses = YOLOXCriterion()(YOLOXOutputs({}, raw, classes, objects, priors_64()), [targets])
    assert all(float(loss) < 1e-5 for loss in losses.values())


def test_loss__is_by_hand_for_one_object_without_overlap() -> None:
    # one positive prior at IoU 0: box loss 5, class target 0 everywhere, objectness over all priors
    raw = torch.full((1, 84, 4), -9.0)
    zeros = torch.zeros(1, 84)
    targets = make_targets([[8, 8, 16, 16]], [1], [])
    losses = YOLOXCriterion()(YOLOXOutputs({}, raw, torch.zeros(1, 84, 2), zeros, priors_64()), [targets])
    log2 = float(torch.log(torch.tensor(2.0)))
    assert float(losses["bbox_regression"]) == pytest.approx(5)
    assert float(losses["classification"]) == pytest.approx(2 * log2)
    assert float(losses["objectness"]) == pytest.approx(84 * log2)


def test_loss__teaches_priors_on_ignored_boxes_nothing() -> None:
    outputs = random_outputs(1, 3)
    targets = make_targets([[2, 2, 12, 12]], [0], [[33, 33, 63, 63]])
    YOLOXCriterion()(outputs, [targets])["objectness"].backward()
    assert outputs.objects.grad is not None
    silent = (outputs.objects.grad[0] == 0).nonzero().flatten()
    priors = outputs.priors
    low, high = priors.points - priors.strides[:, None] / 2, priors.points + priors.strides[:, None] / 2
    assert silent.tolist() == ((high > 33) & (low < 63)).all(dim=1).nonzero().flatten().tolist()
    assert 0 < len(silent) < 84


def test_loss__an_object_in_an_ignored_box_is_an_object() -> None:
    crowd, alone = (
        YOLOXCriterion()(random_outputs(1, 3), [make_targets([[40, 40, 52, 50]], [2], ignored)])
        for ignored in ([[30.0, 30, 64, 64]], [])
    )
    assert crowd["bbox_regression"] == alone["bbox_regression"] != 0
    assert crowd["classification"] == alone["classification"] != 0
    assert crowd["objectness"] < alone["objectness"]


def test_loss__of_images_without_objects_counts_each_as_one_prior() -> None:
    outputs = random_outputs(2, 3)
    losses = YOLOXCriterion()(outputs, [make_targets([], [], [])] * 2)
    expected = F.softplus(outputs.objects).sum() / 2
    torch.testing.assert_close(losses["objectness"], expected)
    assert losses["bbox_regression"] == losses["classification"] == 0


def test_loss__is_not_finite_where_the_network_has_diverged() -> None:
    _, boxes, classes, objects, priors = random_outputs(1, 3)
    outputs = YOLOXOutputs({}, boxes * torch.nan, classes * torch.nan, objects * torch.nan, priors)
    losses = YOLOXCriterion()(outputs, [make_targets([[2, 2, 12, 12]], [0], [])])
    assert losses["classification"].isnan() or losses["objectness"].isnan()


def test_postprocess__scores_are_the_best_class_times_objectness() -> None:
    raw, classes, objects = torch.zeros(1, 84, 4), torch.full((1, 84, 3), -9.0), torch.full((1, 84), -9.0)
    outputs = YOLOXOutputs({}, raw, classes, objects, priors_64())
    outputs.objects[0, 9] = 1.0
    outputs.classes[0, 9] = torch.tensor([0.2, 2.0, 1.0])
    postprocess = YOLOXPostprocess(Limits(0.1, 0.5, 1000, 100))
    (found,) = detections_of(postprocess(outputs, [(64, 64)]), postprocess.limits)
    assert found.labels.tolist() == [1]
    assert float(found.scores[0]) == pytest.approx(float(torch.tensor([1.0, 2.0]).sigmoid().prod()))
    assert found.boxes.tolist() == [[4, 4, 12, 12]]
