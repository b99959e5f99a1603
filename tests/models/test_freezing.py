from __future__ import annotations

import copy
import re

import pytest
import torch
from tilewise.errors import UserError
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.freezing import builtin_names, freeze, stages_of
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of, model_names
from tilewise.targets import Targets
from tilewise.views.view import Scaling
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_detector(name: str, device: str = "meta") -> Detector:
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=300) if square else Scaling(min_size=64, max_size=64)
    with torch.device(device):
        return build_detector(DetectorSpec(name, 2, scaling, None, 0.1, 0.5, 10))


def frozen(detector: Detector) -> list[str]:
    return [key for key, parameter in detector.network.named_parameters() if not parameter.requires_grad]


BODY = [("backbone.body.conv1", "backbone.body.bn1"), *((f"backbone.body.layer{n}",) for n in range(1, 5))]


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("fasterrcnn_resnet50_fpn", 5, BODY[0], BODY[4]),
        ("retinanet_resnet50_fpn", 5, BODY[0], BODY[4]),
        ("gfl_resnet18_fpn", 5, BODY[0], BODY[4]),
        ("ssd_resnet50", 4, BODY[0], BODY[3]),
        ("yolox_s", 5, ("backbone.backbone.stem",), ("backbone.backbone.dark5",)),
        ("fasterrcnn_mobilenet_v3_large_fpn", 17, ("backbone.body.0",), ("backbone.body.16",)),
        ("ssdlite_mobilenet_v3_large", 18, ("backbone.features.0.0",), ("backbone.features.1.3",)),
        (
            "ssd_vgg16",
            5,
            ("backbone.features.0", "backbone.features.2"),
            ("backbone.extra.0.1", "backbone.extra.0.3", "backbone.extra.0.5"),
        ),
    ],
)
def test_stages__of_each_backbone(name: str, count: int, first: tuple[str], last: tuple[str]) -> None:
    stages = stages_of(make_detector(name).network, name)
    assert (len(stages), stages[0], stages[-1]) == (count, first, last)


@pytest.mark.parametrize("name", ["yolox_nano", "yolox_s"])
def test_stages__of_azures_yolov5_are_the_layers_of_yolov5s_backbone(name: str) -> None:
    network = make_detector(name).network
    stages = stages_of(network, name, azure=True)
    dark = [(f"backbone.backbone.dark{n}.{layer}",) for n in (2, 3, 4) for layer in (0, 1)]
    last = [(f"backbone.backbone.dark5.{layer}",) for layer in (0, 1, 2)]
    assert stages == [("backbone.backbone.stem",), *dark, *last]
    assert len(stages) == 10  # model.0 to model.9
    both = [[m for stage in stages_of(network, name, azure=azure) for m in stage] for azure in (True, False)]
    parameters = [
        sum(p.numel() for module in modules for p in network.get_submodule(module).parameters())
        for modules in both
    ]
    assert parameters[0] == parameters[1]


def test_layers__of_azures_yolov5() -> None:
    detector = make_detector("yolox_nano")
    freeze(detector, "yolox_nano", 2, pattern=None, azure=True)
    frozen = {key for key, parameter in detector.network.named_parameters() if not parameter.requires_grad}
    assert frozen and all(
        key.startswith(("backbone.backbone.stem.", "backbone.backbone.dark2.0.")) for key in frozen
    )
    with pytest.raises(UserError, match="layers_to_freeze=11: the backbone of yolox_nano has 10 stages"):
        freeze(make_detector("yolox_nano"), "yolox_nano", 11, pattern=None, azure=True)


@pytest.mark.parametrize("name", model_names())
def test_stages__exist_and_are_the_backbone_without_its_pyramid(name: str) -> None:
    network = make_detector(name).network
    modules = [module for stage in stages_of(network, name) for module in stage]
    assert len(set(modules)) == len(modules)
    assert all(any(True for _ in network.get_submodule(module).parameters()) for module in modules)
    body = network.get_submodule(re.split(r"\.(conv1|stem|0|0\.0)$", modules[0])[0])
    assert sum(p.numel() for module in modules for p in network.get_submodule(module).parameters()) >= sum(
        p.numel() for p in body.parameters()
    )


def test_layers__the_first_two_stages() -> None:
    detector = make_detector("fasterrcnn_resnet50_fpn")
    sentence = freeze(detector, "fasterrcnn_resnet50_fpn", 2, pattern=None)
    assert {key.split(".")[2] for key in frozen(detector)} == {"conv1", "bn1", "layer1"}
    assert frozen(detector)
    every = len(list(detector.network.named_parameters()))
    assert sentence == (
        f"frozen: 33 of {every} parameters, and the statistics of 11 normalisation layers: "
        "backbone.body.conv1, backbone.body.bn1, backbone.body.layer1"
    )


def test_layers__more_than_there_are() -> None:
    with pytest.raises(UserError) as caught:
        freeze(make_detector("ssd_resnet50"), "ssd_resnet50", 5, pattern=None)
    assert str(caught.value).startswith(
        "layers_to_freeze=5: the backbone of ssd_resnet50 has 4 stages: backbone.body.conv1 + "
    )


def test_pattern__matches_from_the_beginning_of_a_name() -> None:
    detector = make_detector("retinanet_resnet50_fpn")
    freeze(detector, "retinanet_resnet50_fpn", None, pattern=r"backbone\.body\.layer1\.0\.conv1|fpn")
    assert frozen(detector) == ["backbone.body.layer1.0.conv1.weight"]


def test_pattern__in_the_names_of_the_built_in_algorithm() -> None:
    # the example of the built-in's documentation
    detector = make_detector("ssd_vgg16")
    freeze(detector, "ssd_vgg16", None, pattern="^(conv1_|conv2_).*")
    assert frozen(detector) == [
        f"backbone.features.{n}.{p}" for n in (0, 2, 5, 7) for p in ("weight", "bias")
    ]
    detector = make_detector("ssd_resnet50")
    freeze(detector, "ssd_resnet50", None, pattern="conv0|bn0|stage1_unit2_bn")
    unit = of_modules(*(f"backbone.body.layer1.1.bn{number}" for number in (1, 2, 3)))
    assert frozen(detector) == ["backbone.body.conv1.weight", *of_modules("backbone.body.bn1"), *unit]


def of_modules(*modules: str) -> list[str]:
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("ssd_vgg16", "backbone.features.0.weight", "conv1_1_weight"),
        ("ssd_vgg16", "backbone.features.21.bias", "conv4_3_bias"),
        ("ssd_vgg16", "backbone.extra.0.5.weight", "conv5_3_weight"),
        ("ssd_resnet50", "backbone.body.conv1.weight", "conv0_weight"),
        ("ssd_resnet50", "backbone.body.bn1.bias", "bn0_beta"),
        ("ssd_resnet50", "backbone.body.layer1.0.conv1.weight", "stage1_unit1_conv1_weight"),
        ("ssd_resnet50", "backbone.body.layer3.5.bn3.weight", "stage3_unit6_bn3_gamma"),
        ("ssd_resnet50", "backbone.body.layer2.0.downsample.0.weight", "stage2_unit1_sc_weight"),
    ],
)
def test_builtin_names__are_those_of_the_symbol_files(name: str, ours: str, theirs: str) -> None:
    assert builtin_names(make_detector(name).network, name)[ours] == theirs


def test_pattern__matches_nothing() -> None:
    with pytest.raises(UserError) as caught:
        freeze(make_detector("ssd_vgg16"), "ssd_vgg16", None, pattern="layer1")
    message = str(caught.value)
    assert message.startswith("freeze_layer_pattern='layer1' matches no parameter; their names are backbone.")
    assert "conv1_1_weight" in message


def test_everything_frozen__is_refused() -> None:
    with pytest.raises(UserError, match=r"freeze_layer_pattern=\.\* freezes all of yolox_nano"):
        freeze(make_detector("yolox_nano"), "yolox_nano", None, pattern=".*")


def norms(module: nn.Module) -> list[_BatchNorm]:
    return [each for each in module.modules() if isinstance(each, _BatchNorm)]


def test_frozen_norms__keep_their_statistics_in_training() -> None:
    detector = make_detector("yolox_nano", "cpu")
    freeze(detector, "yolox_nano", 2, pattern=None)
    detector.eval()
    detector.train()
    before = {key: value.clone() for key, value in detector.network.state_dict().items()}
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    none = torch.zeros(0, dtype=torch.int64)
    detector([image], [Targets(torch.zeros(0, 4), none, none.bool())])
    changed = {
        key for key, value in detector.network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert not [
        key for key in changed if key.startswith(("backbone.backbone.stem", "backbone.backbone.dark2"))
    ]
    assert any(key.startswith("backbone.backbone.dark3") for key in changed)


def test_frozen_norms__in_a_copy_too() -> None:
    detector = make_detector("yolox_nano", "cpu")
    freeze(detector, "yolox_nano", 1, pattern=None)
    twin = copy.deepcopy(detector).eval().train()
    assert not any(norm.training for norm in norms(twin.network.get_submodule("backbone.backbone.stem")))
    assert all(norm.training for norm in norms(twin.network.get_submodule("head")))


def test_norm__with_a_parameter_left_goes_on() -> None:
    detector = make_detector("yolox_nano")
    freeze(detector, "yolox_nano", None, pattern=r".*stem\.conv\.bn\.weight")
    assert len(frozen(detector)) == 1
    assert detector.frozen_norms == []
