from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from stand_ins import make_hp
from tilewise.errors import UserError
from tilewise.fields import Rows
from tilewise.models.box_learning import BoxLearning, PositiveCounts, image_sizes, nwd
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.fpn import receptive_fields, resnet_pyramid
from tilewise.models.rfla import field_distance, rfla
from tilewise.models.rpn import strides_of
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tasks.registry import make_task
from tilewise.views.sample import IMAGE_SIZE
from tilewise.views.view import Scaling
from torch import Tensor


def gradient(learning: BoxLearning, overlap: float, size: float) -> tuple[float, float]:
    """The loss of a box, and its gradient by the overlap."""
    value = torch.tensor([overlap], requires_grad=True)
    loss = learning.from_overlap(value, lambda: torch.tensor([size])).sum()
    loss.backward()
    assert value.grad is not None
    return loss.item(), value.grad.item()


def test_small_factor__of_the_thesis_raises_the_value_and_lowers_the_gradient() -> None:
    plain, thesis, more = BoxLearning(), BoxLearning(0.95), BoxLearning(1.5)
    assert gradient(thesis, 0.6, 20)[0] > gradient(plain, 0.6, 20)[0]
    assert gradient(thesis, 0.6, 20)[1] == pytest.approx(0.95 * gradient(plain, 0.6, 20)[1])
    assert gradient(thesis, -0.2, 20)[0] < gradient(plain, -0.2, 20)[0]  # a GIoU may be negative
    assert gradient(more, 0.6, 20)[1] == pytest.approx(1.5 * gradient(plain, 0.6, 20)[1])
    for learning in (thesis, more):
        assert gradient(learning, 0.6, 32) == gradient(plain, 0.6, 32)
    distance = torch.tensor([2.0, 2.0])
    found = BoxLearning(1.5).from_distance(distance, lambda: torch.tensor([31.0, 33.0]))
    assert found.tolist() == [3, 2]


@pytest.mark.parametrize("exponent", [0.5, -0.5])
def test_exponent__weights_by_area_with_mean_one(exponent: float) -> None:
    sizes = torch.tensor([10.0, 20.0, 40.0, 1000.0])
    counted = torch.tensor([True, True, True, False])
    learning = BoxLearning(size_exponent=exponent)
    weights = learning.from_distance(torch.ones(4), lambda: sizes, counted)[:3]
    mean = (100 + 400 + 1600) / 3
    raw = [min(3, max(1 / 3, (mean / area) ** exponent)) for area in (100, 400, 1600)]
    assert weights.tolist() == pytest.approx([each / (sum(raw) / 3) for each in raw])
    assert weights.mean().item() == pytest.approx(1)


def test_nwd__by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    anchors = torch.tensor([[0.0, 0, 8, 8], [3, 4, 11, 12], [0, 0, 8, 16]])
    # centres 5 apart; centres 4 and half heights 4 apart
    by_hand = [1, math.exp(-5 / 10), math.exp(-math.sqrt(16 + 16) / 10)]
    assert nwd(boxes, anchors, 10).flatten().tolist() == pytest.approx(by_hand)


def test_field_distance__by_hand() -> None:
    points, radii = torch.tensor([[10.0, 10.0], [13.0, 10.0]]), torch.tensor([4.0, 8.0])
    box = torch.tensor([[6.0, 6, 14, 14]])  # of half sides 4
    # KL(N(p, r²) ‖ N(c, 4²)) of two axes: ½(r²/16 + d²/16 - 1 + ln(16/r²)) each
    second = 0.5 * (4 + 9 / 16 - 1 + math.log(1 / 4)) + 0.5 * (4 - 1 + math.log(1 / 4))
    assert field_distance(points, radii, box).flatten().tolist() == pytest.approx([1, 1 / (1 + second)])


def test_rfla__gives_each_object_points_however_small() -> None:
    grid = torch.arange(16) * 8.0 + 4
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=2).reshape(-1, 2)
    strides = torch.full((256,), 8.0)
    boxes = torch.tensor([[30.0, 30, 32, 32], [31, 31, 33, 33], [60, 60, 100, 100]])
    matches = rfla(points, strides, boxes, fields={8: 91})
    counts = torch.bincount(matches[matches >= 0], minlength=3).tolist()
    assert counts[2] == 3 and 3 <= counts[0] + counts[1] <= 8 and min(counts) >= 1
    places = points[matches == 2]
    assert (places - torch.tensor([80.0, 80.0])).abs().max() <= 8
    assert (rfla(points, strides, boxes[:0], fields={8: 91}) == -1).all()


def test_rfla_anchors__teach_the_one_most_alike_at_each_point() -> None:
    model = detector("fasterrcnn_resnet18_fpn", assignment="rfla")
    network: Any = model.network
    transform: Any = model.transform
    batch = transform([torch.zeros((3, 96, 96), dtype=torch.uint8)])
    maps = list(network.features(batch.tensors).values())
    (anchors,) = network.rpn.anchor_generator(batch, maps)
    assert anchors.shape == (3 * (24**2 + 12**2 + 6**2 + 3**2 + 2**2), 4)
    boxes = torch.tensor([[40.0, 40, 43, 43], [8, 30, 92, 58]])
    targets = {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64), "ignored": boxes[:0]}
    counts = [3 * each.shape[2] * each.shape[3] for each in maps]
    strides = strides_of(96, [each.shape[2] for each in maps], counts)
    assert strides.unique().tolist() == [4, 8, 16, 32, 64]
    (matches,) = network.rpn.match_anchors(anchors, [targets], strides)
    for number, box in enumerate(boxes):
        mine = anchors[matches == number]
        assert 3 <= len(mine) <= 4
        assert ((mine[:, :2] + mine[:, 2:]) / 2 - (box[:2] + box[2:]) / 2).abs().max() <= 32
    wide = anchors[matches == 1]
    assert (wide[:, 2] - wide[:, 0] > wide[:, 3] - wide[:, 1]).all()  # of three shapes the wide one
    by_point = matches.view(-1, 3)
    found = (by_point >= 0).any(dim=1)
    assert (by_point[found].sort(dim=1).values[:, :2] == -2).all()
    assert (by_point[~found] == -1).all()


@pytest.mark.parametrize(
    ("resnet", "fields"),
    [
        ("resnet50", [35, 91, 267, 427, 491, 619]),  # RFLA's own, of the maps at strides 4 to 128
        # by hand: 11 after the pool; two units of two 3x3 convolutions each; their steps are 4, 8, 16 and 32
        ("resnet18", [11 + 32, 43 + 8 + 48, 99 + 16 + 96, 211 + 32 + 192, 435 + 64, 499 + 128]),
        ("resnet101", [35, 91, 91 + 16 + 22 * 32, 811 + 32 + 128, 971 + 64, 1035 + 128]),
    ],
)
def test_receptive_fields__of_each_backbone(resnet: str, fields: list[int]) -> None:
    found = receptive_fields(resnet_pyramid(resnet, stride_4_level=True))
    assert [found[stride] for stride in (4, 8, 16, 32, 64, 128)] == fields


FAMILIES = {
    "ssdlite_mobilenet_v3_large": "nwd",
    "yolox_nano": "default",
    "gfl_resnet18_fpn": "rfla",
    "retinanet_resnet50_fpn": "nwd",
    "fcos_resnet50_fpn": "rfla",
    "fasterrcnn_resnet18_fpn": "nwd",
    "fasterrcnn_mobilenet_v3_large_fpn": "rfla",
}


def detector(name: str, **more: object) -> Detector:
    square = name.startswith(("ssd", "yolox"))
    scaling = Scaling(square=96) if square else Scaling(min_size=96, max_size=96)
    hp = make_hp(model_name=name, learning_rate=0.001, **more)
    torch.manual_seed(0)
    built = make_task(hp).build(DetectorSpec(name, 2, scaling, None, 0.01, 0.5, 10, object_size=12.0))
    assert isinstance(built, Detector)
    if name.startswith("fcos"):
        for key, module in built.network.named_modules():
            if key.endswith("bbox_reg"):
                torch.nn.init.ones_(module.bias)  # a fresh one may say distances of 0 everywhere
    return built


def losses(model: Detector, sizes: tuple[float, ...] = (10.0, 50.0)) -> dict[str, float]:
    boxes = torch.tensor([[10.0, 10, 20, 20], [40, 40, 90, 90]])
    fields = {IMAGE_SIZE: Rows(torch.tensor(sizes))}
    targets = Targets(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), fields)
    torch.manual_seed(0)
    image = torch.randint(256, (3, 96, 96), dtype=torch.uint8)
    found: dict[str, Tensor] = model([image, image], [targets, targets])
    return {name: float(loss.detach()) for name, loss in found.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_families__weigh_boxes_by_size_in_the_image_alone(name: str) -> None:
    plain = losses(detector(name))
    factor = losses(detector(name, small_object_loss_factor=3))
    exponent = losses(detector(name, size_loss_exponent=0.5))
    without = losses(detector(name, small_object_loss_factor=3), sizes=(64.0, 64.0))
    box_losses = {"bbox_regression", "loss_rpn_box_reg", "loss_box_reg"}
    changed = {each for each in plain if plain[each] != factor[each]}
    assert changed and changed <= box_losses
    assert {each for each in plain if plain[each] != exponent[each]} <= box_losses
    assert without == pytest.approx(plain)
    assert all(math.isfinite(loss) for loss in (*factor.values(), *exponent.values()))


@pytest.mark.parametrize(("name", "assignment"), FAMILIES.items())
def test_families__assignments_and_objects_without_a_positive_prior(name: str, assignment: str) -> None:
    model = detector(name, assignment=assignment)
    model.watch(on=True)
    assert all(math.isfinite(loss) for loss in losses(model).values())
    (line,) = model.say_what_was_seen(lambda rows: [rows, rows])
    assert "tiny, 8 to 16 px: 0 of 4 (0.0 %); medium, 32 to 96 px: 0 of 4 (0.0 %)" in line
    model.watch(on=False)
    assert model.say_what_was_seen(lambda rows: [rows]) == []


def test_counts__an_object_that_no_prior_finds() -> None:
    counts = PositiveCounts((8, 16))
    counts.add(torch.tensor([4.0, 8.0, 15.9, 16.0]), torch.tensor([False, True, False, True]))
    counts.add(torch.tensor([4.0]), torch.tensor([True]))
    assert counts.counts is not None and counts.counts.tolist() == [[2, 1], [2, 1], [1, 0]]


def test_image_sizes__of_objects_that_are_not_ignored() -> None:
    boxes, ignored = torch.tensor([[0.0, 0, 4, 9], [0, 0, 2, 2]]), torch.tensor([False, True])
    targets = Targets(boxes, torch.zeros(2), ignored)
    assert [each.tolist() for each in image_sizes([targets])] == [[6]]
    sized = Targets(boxes, torch.zeros(2), ignored, {IMAGE_SIZE: Rows(torch.tensor([60.0, 20.0]))})
    assert [each.tolist() for each in image_sizes([sized])] == [[60]]


@pytest.mark.parametrize("anchors", [None, (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)])
@pytest.mark.parametrize("name", ["yolox_nano", "ssdlite_mobilenet_v3_large", "ssd_resnet50", "ssd_vgg16"])
def test_stride_4__one_more_map_in_front(name: str, anchors: tuple[float, ...] | None) -> None:
    side = 300 if name.startswith("ssd_") else 128
    fitted = None if name == "yolox_nano" else anchors
    spec = DetectorSpec(name, 2, Scaling(square=side), fitted, 0.01, 0.5, 10, stride_4_level=True)
    model = build_detector(spec).eval()
    maps = [each.shape[-1] for each in model.feature_maps([torch.zeros(3, side, side).byte()]).values()]
    assert maps[:2] == [side // 4, -(-side // 8)] and maps == sorted(maps, reverse=True)
    model.train()
    boxes = torch.tensor([[8.0, 8, 12, 12]])
    targets = [Targets(boxes, torch.tensor([1]), torch.zeros(1, dtype=torch.bool))] * 2
    found = model([torch.zeros(3, side, side).byte()] * 2, targets)
    assert isinstance(found, dict) and all(loss.isfinite() for loss in found.values())


def test_hyperparameters__an_assignment_that_the_family_has_not() -> None:
    with pytest.raises(
        UserError, match="assignment='rfla': it is not defined for yolox_nano, only for fasterrcnn"
    ):
        make_hp(model_name="yolox_nano", assignment="rfla")
    assert make_hp(model_name="fcos_resnet50_fpn", assignment="rfla").assignment == "rfla"


def test_nwd__is_exact_with_many_anchors_far_from_the_origin() -> None:
    """A matrix product of squares would be off by 0.06 here, and by up to 1 in TF32."""
    corners = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 1000
    boxes = torch.cat([corners, corners + 8], dim=1)
    centres, halves = boxes[:, :2].double() + 4, torch.full((200, 2), 4.0, dtype=torch.float64)
    places = torch.cat([centres, halves], dim=1)
    exact = torch.exp(-(places[:, None] - places).norm(dim=2) / 10)
    assert (nwd(boxes, boxes, 10).double() - exact).abs().max() < 1e-4
