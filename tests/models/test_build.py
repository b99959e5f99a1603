from __future__ import annotations

import numpy as np
import pytest
import torch
from made_detectors import spread_outputs
from tilewise.models.build import anchor_sizes_for, build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of, model_names
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import nn

SQUARE, SIDES = Scaling(square=640), Scaling(min_size=600, max_size=1333)


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)


def make_spec(name: str) -> DetectorSpec:
    scaling = Scaling(square=64) if family_of(name).scaling == "square" else Scaling(min_size=64, max_size=64)
    # with so low a threshold even a fresh network finds something
    return DetectorSpec(name, 3, scaling, None, 1e-4, 0.5, 20)


def make_sample(spec: DetectorSpec, seed: int) -> Sample:
    side, _ = spec.scaling.size_of(100, 100)
    generator = torch.Generator().manual_seed(seed)
    return Sample(
        pixels=torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator),
        targets=Targets(
            torch.tensor([[10, 10, 30, 30], [40, 40, 60, 60.0]]),
            torch.tensor([0, 2]),
            torch.tensor([False, True]),
        ),
    )


DEEPER = {f"fasterrcnn_resnet{depth}_fpn": depth for depth in (34, 101, 152)}
DEEPER |= {f"gfl_resnet{depth}_fpn": depth for depth in (34, 50, 101)}


@pytest.mark.parametrize(("name", "depth"), DEEPER.items())
def test_model__has_the_depth_of_its_name(name: str, depth: int) -> None:
    # it counts the convolutions, but not those of the shortcuts, and a last layer that a backbone has not
    with torch.device("meta"):
        body = build_detector(make_spec(name)).network.get_submodule("backbone.body")
    convolutions = [key for key, module in body.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([key for key in convolutions if "downsample" not in key]) + 1 == depth


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite_mobilenet_v3_large",
        "fasterrcnn_resnet18_fpn",
        "retinanet_resnet50_fpn",
        "fcos_resnet50_fpn",
        "yolox_nano",
        "gfl_resnet18_fpn",
    ],
)
def test_detections__do_not_depend_on_the_others_in_the_batch(name: str) -> None:
    torch.manual_seed(0)
    spec = make_spec(name)
    detector = build_detector(spec).eval()
    # a fresh network's scores are so near each other that rounding would change their order
    spread_outputs(detector, spec)
    detector.double()
    images = [make_sample(spec, seed).pixels for seed in range(3)]
    with torch.inference_mode():
        together = detector.detect(images)
        alone = [detector.detect([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert len(one)
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes, other.boxes)
        assert one.labels.tolist() == other.labels.tolist()


def test_spec__survives_json() -> None:
    for sizes in (None, (0.02, 0.04)):
        spec = DetectorSpec("ssd_vgg16", 3, SQUARE, sizes, 0.3, 0.5, 100, stride_4_level=sizes is None)
        assert DetectorSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", model_names())
def test_anchors__published_do_for_large_objects(name: str) -> None:
    scaling = SQUARE if family_of(name).scaling == "square" else SIDES
    assert anchor_sizes_for(name, scaling, np.full(9, 200.0)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ssd_vgg16", (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)),
        ("ssd_resnet50", (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)),
        ("ssdlite_mobilenet_v3_large", (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)),
        ("fasterrcnn_resnet50_fpn", (8, 16, 32, 64, 128)),
        ("retinanet_resnet50_fpn", (8, 16, 32, 64, 128)),
        ("fcos_resnet50_fpn", None),
        ("yolox_s", None),
        ("gfl_resnet50_fpn", None),
    ],
)
def test_anchors__fitted_to_small_objects(name: str, expected: tuple[float, ...] | None) -> None:
    scaling = SQUARE if family_of(name).scaling == "square" else SIDES
    fitted = anchor_sizes_for(name, scaling, np.full(9, 8.0))
    assert fitted == (None if expected is None else pytest.approx(expected))
