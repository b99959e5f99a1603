from __future__ import annotations

from typing import Any

import pytest
import torch
from ground_truth import make_targets
from tilewise.errors import UserError
from tilewise.models import ssd
from tilewise.models.anchor_generators import DefaultBoxes
from tilewise.models.anchor_network import AnchorOutputs
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.matching import split_ignored
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import box_iou

VGG, RESNET, LITE = "ssd_vgg16", "ssd_resnet50", "ssdlite_mobilenet_v3_large"


def make_spec(name: str, side: int, anchor_sizes: tuple[float, ...] | None = None) -> DetectorSpec:
    return DetectorSpec(name, 2, Scaling(square=side), anchor_sizes, 0.01, 0.45, 100)


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)  # of which fresh networks make many, and which are slow


def grid(step: int, size: int, side: int = 100) -> Tensor:
    """Square anchors of one size, a row and a column each ``step`` pixels."""
    y, x = torch.meshgrid(torch.arange(0, side, step), torch.arange(0, side, step), indexing="ij")
    corner = torch.stack([x, y], dim=2).reshape(-1, 2).float()
    return torch.cat([corner, corner + size], dim=1)


def make_outputs(images: int, anchors: Tensor) -> AnchorOutputs:
    generator = torch.Generator().manual_seed(0)
    heads = {
        "cls_logits": torch.randn(images, len(anchors), 3, generator=generator).requires_grad_(),
        "bbox_regression": torch.randn(images, len(anchors), 4, generator=generator).requires_grad_(),
    }
    return AnchorOutputs({}, heads, anchors.split([len(anchors) - 10, 10]))


def torchvisions() -> TorchvisionSSD:
    """Its loss and its matcher: neither has weights."""
    nothing = nn.Identity()
    network: TorchvisionSSD = TorchvisionSSD(nothing, DefaultBoxes([[2]]), (96, 96), 3, head=nothing)
    return network


def test_loss__equals_torchvisions_where_every_image_has_objects() -> None:
    anchors, network = grid(5, 10), torchvisions()
    targets = [
        make_targets([[11, 12, 21, 22], [50, 50, 64, 60]], [0, 1], []),
        make_targets([[80, 4, 90, 14]], [1], []),
    ]
    outputs = make_outputs(2, anchors)
    ours = ssd.SSDCriterion(min_negatives=1)(outputs, targets)
    given = split_ignored(targets, first_label=1)
    matched = [network.proposal_matcher(box_iou(target["boxes"], anchors)) for target in given]
    theirs = network.compute_loss(given, outputs.heads, [anchors] * 2, matched)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_loss__of_an_image_without_boxes_is_of_its_hardest_anchors() -> None:
    anchors = grid(5, 10)
    outputs = make_outputs(1, anchors)
    losses = ssd.SSDCriterion()(outputs, [make_targets([], [], [])])
    background = F.cross_entropy(
        outputs.heads["cls_logits"][0], torch.zeros(len(anchors), dtype=torch.int64), reduction="none"
    )
    hardest = background.topk(ssd.MIN_NEGATIVES).values
    torch.testing.assert_close(losses["classification"], hardest.sum() / (ssd.MIN_NEGATIVES / 3))
    assert losses["bbox_regression"] == 0


def test_loss__teaches_anchors_on_ignored_boxes_nothing() -> None:
    outputs = make_outputs(1, grid(10, 10))
    targets = make_targets([[0, 0, 10, 10]], [0], [[40, 40, 60, 60]])
    ssd.SSDCriterion(min_negatives=10_000)(outputs, [targets])["classification"].backward()
    taught = outputs.heads["cls_logits"].grad
    assert taught is not None
    silent = (taught[0] == 0).all(dim=1)
    assert silent.nonzero().flatten().tolist() == [44, 45, 54, 55]


def test_loss__leaves_an_object_that_lies_in_an_ignored_box_an_object() -> None:
    outputs = make_outputs(1, grid(10, 10))
    losses = ssd.SSDCriterion()(outputs, [make_targets([[40, 40, 50, 50]], [0], [[30, 30, 70, 70]])])
    (losses["classification"] + losses["bbox_regression"]).backward()
    for output in outputs.heads.values():
        assert output.grad is not None
        assert (output.grad[0, 44] != 0).any()


def test_loss__is_not_finite_where_the_network_has_diverged() -> None:
    outputs = make_outputs(1, grid(10, 10))
    diverged = {name: tensor * torch.nan for name, tensor in outputs.heads.items()}
    losses = ssd.SSDCriterion()(outputs._replace(heads=diverged), [make_targets([], [], [])])
    assert losses["classification"].isnan()


def test_training__on_one_image_without_objects_gives_gradients() -> None:
    # of 96 px the last feature maps are one pixel: one value a channel
    detector = build_detector(make_spec(LITE, 96))
    sample = Sample(
        pixels=torch.randint(256, (3, 96, 96), dtype=torch.uint8),
        targets=Targets(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        ),
    )
    losses = detector([sample.pixels], [sample.targets])
    assert losses["classification"] > 0
    losses["classification"].backward()
    gradients = [p.grad for p in detector.network.get_submodule("backbone").parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def normalised_alike(theirs: torch.nn.Module, ours: Detector, side: int) -> None:
    """Both take the same image to the same numbers, and so find the same.

    In double precision: two fresh scores are so near each other that rounding, which differs from
    processor to processor, would change their order.
    """
    image = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.double().eval()([image.double() / 255])[0]
        (found,) = ours.double().eval().detect([image])
    assert len(found) > 10
    assert (found.labels + 1).tolist() == expected["labels"].tolist()
    for name in ("boxes", "scores"):
        torch.testing.assert_close(
            torch.from_numpy(getattr(found, name)), expected[name], rtol=1e-3, atol=1e-2, check_dtype=False
        )


def test_ssd300__is_torchvisions() -> None:
    theirs = ssd300_vgg16(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        score_thresh=0.01,
        nms_thresh=0.45,
        detections_per_img=100,
    )
    for convolution in theirs.head.classification_head.module_list:
        convolution.weight.data /= 100  # fresh, many scores are exactly 1: equal, in any order
    ours = build_detector(make_spec(VGG, 300))
    ours.network.load_state_dict(theirs.state_dict())
    normalised_alike(theirs, ours, 300)


def test_ssdlite320__is_torchvisions() -> None:
    theirs = ssdlite320_mobilenet_v3_large(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        score_thresh=0.01,
        nms_thresh=0.45,
        detections_per_img=100,
        topk_candidates=400,
    )
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # with the statistics of noise: fresh, many scores are equal, in any order
    with torch.no_grad():
        theirs.head(list(theirs.backbone(torch.randn(2, 3, 320, 320)).values()))
    ours = build_detector(make_spec(LITE, 320))
    ours.network.load_state_dict(theirs.state_dict())
    normalised_alike(theirs, ours, 320)


@pytest.mark.parametrize(
    ("name", "side", "maps"),
    [
        (VGG, 300, 6),
        (VGG, 301, 6),
        (VGG, 400, 6),
        (VGG, 511, 6),
        (VGG, 512, 7),
        (VGG, 640, 7),
        (VGG, 1000, 7),
        (RESNET, 300, 6),
        (RESNET, 301, 6),
        (RESNET, 511, 6),
        (RESNET, 512, 7),
        (RESNET, 1000, 7),
        (LITE, 32, 6),
        (LITE, 400, 6),
        (LITE, 640, 6),
    ],
)
@pytest.mark.parametrize("fitted", [False, True])
def test_side__gives_as_many_anchors_as_outputs(name: str, side: int, maps: int, fitted: bool) -> None:
    sizes = tuple(0.01 * 2**level for level in range(maps)) if fitted else None
    with torch.device("meta"):
        network: Any = build_detector(make_spec(name, side, sizes)).network.eval()
        batch = torch.zeros(1, 3, side, side)
        features = list(network.backbone(batch).values())
        outputs = network.head(features)
    anchors = anchors_of(network, side, features)
    assert len(features) == maps
    assert outputs["cls_logits"].shape == (1, len(anchors), 3)
    assert outputs["bbox_regression"].shape == (1, len(anchors), 4)


@pytest.mark.parametrize("name", [VGG, RESNET])
def test_side__too_small_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"image_size=299: {name} needs at least 300"):
        build_detector(make_spec(name, 299))


@pytest.mark.parametrize(("side", "maps"), [(300, [38, 19, 10, 5, 3, 1]), (512, [64, 32, 16, 8, 4, 2, 1])])
def test_resnet50__begins_with_stride_8(side: int, maps: list[int]) -> None:
    with torch.device("meta"):
        network: Any = build_detector(make_spec(RESNET, side)).network.eval()
        features = network.backbone(torch.zeros(1, 3, side, side))
    assert [feature.shape[2] for feature in features.values()] == maps


def test_resnet50__of_300_px_has_the_anchors_of_vgg() -> None:
    with torch.device("meta"):
        networks: list[Any] = [build_detector(make_spec(name, 300)).network.eval() for name in (RESNET, VGG)]
        features = [list(network.backbone(torch.zeros(1, 3, 300, 300)).values()) for network in networks]
    ours, published = (
        anchors_of(network, 300, each) for network, each in zip(networks, features, strict=True)
    )
    torch.testing.assert_close(ours, published)


def test_resnet50__its_stages_have_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        published = resnet50(weights=None).state_dict()
        ours = build_detector(make_spec(RESNET, 300)).network.get_submodule("backbone.body").state_dict()
    assert ours.keys() == {key for key in published if not key.startswith(("layer4", "fc"))}
    assert all(published[key].shape == value.shape for key, value in ours.items())


def anchors_of(network: Any, side: int, features: list[Tensor]) -> Tensor:
    shapes = [torch.zeros(1).expand(feature.shape) for feature in features]
    anchors: Tensor = network.anchor_generator(
        ImageList(torch.zeros(1, 3, side, side), [(side, side)]), shapes
    )[0]
    return anchors


def test_anchors__fitted_have_the_sizes_asked_for() -> None:
    sizes = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    with torch.device("meta"):
        network: Any = build_detector(make_spec(LITE, 96, sizes)).network.eval()
        features = list(network.backbone(torch.zeros(1, 3, 96, 96)).values())
    anchors = anchors_of(network, 96, features)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).sqrt()
    start = 0
    for size, feature in zip(sizes, features, strict=True):
        assert area[start] == pytest.approx(96 * size, rel=1e-3)
        start += 6 * feature.shape[2] * feature.shape[3]
    assert start == len(anchors)


def test_ssdlite__fitted_anchors_get_a_map_at_stride_8() -> None:
    spec = make_spec("ssdlite_mobilenet_v3_large", 320, anchor_sizes=(0.05, 0.1, 0.2, 0.4, 0.8, 0.95))
    network: Any = build_detector(spec).eval().network
    with torch.inference_mode():
        maps = network.backbone(torch.zeros((1, 3, 320, 320)))
    assert [tuple(one.shape[1:]) for one in maps.values()] == [
        (240, 40, 40),
        (672, 20, 20),
        (480, 10, 10),
        (512, 5, 5),
        (256, 3, 3),
        (256, 2, 2),
    ]


def test_head__on_vgg_begins_undecided() -> None:
    torch.manual_seed(0)
    detector = build_detector(make_spec(VGG, 300))
    noise = torch.randint(256, (3, 300, 300), dtype=torch.uint8)
    with torch.no_grad():
        heads = detector.network(detector.transform([noise, noise.flip(1)]).tensors).heads
    likely = heads["cls_logits"].softmax(dim=2)
    assert (likely - 1 / 3).abs().mean() < 0.05
    assert heads["bbox_regression"].abs().mean() < 0.2
