"""The backbones that several families share: their published files, their stages, the built-in's names."""

from __future__ import annotations

import re

from tilewise.registry.family import Backbone, Weights

_VGG_16 = (
    ("backbone.features.0", "backbone.features.2"),
    ("backbone.features.5", "backbone.features.7"),
    ("backbone.features.10", "backbone.features.12", "backbone.features.14"),
    ("backbone.features.17", "backbone.features.19", "backbone.features.21"),
    ("backbone.extra.0.1", "backbone.extra.0.3", "backbone.extra.0.5"),
)
"""Its five blocks of convolutions, as torchvision's SSD cuts them."""


def _vgg_in_mxnet(key: str) -> str | None:
    """As in MXNet's symbol files: ``conv1_1_weight``, ``conv1_1_bias`` and so on."""
    module, _, kind = key.rpartition(".")
    for block, modules in enumerate(_VGG_16, start=1):
        if module in modules:
            return f"conv{block}_{modules.index(module) + 1}_{kind}"
    return None


def _resnet_in_mxnet(key: str) -> str | None:
    """As there: ``conv0_weight``, ``bn0_gamma``, ``stage1_unit1_conv1_weight`` and so on."""
    if not key.startswith("backbone.body."):
        return None
    normalised = re.search(r"\bbn\d|downsample\.1", key) is not None
    name = re.sub(
        r"layer(\d)\.(\d+)\.", lambda unit: f"stage{unit[1]}_unit{int(unit[2]) + 1}_", key.split(".body.")[1]
    )
    for ours, theirs in (("downsample.0", "sc"), ("downsample.1", "sc_bn")):
        name = name.replace(ours, theirs)
    name = re.sub(r"^(conv|bn)1\b", r"\g<1>0", name)
    if normalised:
        name = name.replace("weight", "gamma").replace("bias", "beta")
    return name.replace(".", "_")


def _resnet(*weights: Weights) -> Backbone:
    """The first convolution and ``layer1`` to ``layer4``, of which SSD leaves out the last."""
    return Backbone(
        stages=(("backbone.body.conv1", "backbone.body.bn1"), ("backbone.body.layer*",)),
        weights=weights,
        from_classifier="tilewise.models.pretrained:resnet_of",
        builtin_name=_resnet_in_mxnet,
    )


def mobilenet_v3_large(stages: str) -> Backbone:
    """MobileNetV3-Large, whose blocks are the modules that match ``stages``."""
    return Backbone(
        stages=((stages,),),
        weights=(Weights("mobilenet_v3_large-8738ca79.pth"), Weights("mobilenet_v3_large-5c1a4163.pth")),
        from_classifier="tilewise.models.pretrained:layers_of",
    )


RESNET_18 = _resnet(
    Weights(
        "resnet18-f37072fd.pth",
        sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    )
)
RESNET_34 = _resnet(Weights("resnet34-b627a593.pth"))
RESNET_50 = _resnet(
    Weights(
        "resnet50-0676ba61.pth",
        sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    Weights("resnet50-11ad3fa6.pth"),
)
RESNET_101 = _resnet(Weights("resnet101-63fe2227.pth"), Weights("resnet101-cd907fc2.pth"))
RESNET_152 = _resnet(Weights("resnet152-394f9c45.pth"), Weights("resnet152-f82ba261.pth"))
VGG_16 = Backbone(
    stages=_VGG_16,
    # the first holds the features alone, which SSD was published with
    weights=(Weights("vgg16_features-amdegroot-88682ab5.pth"), Weights("vgg16-397923af.pth")),
    from_classifier="tilewise.models.pretrained:vgg_of",
    builtin_name=_vgg_in_mxnet,
)
CSP_DARKNET = Backbone(
    stages=(("backbone.backbone.stem",), ("backbone.backbone.dark*",)),
    # the layers of YOLOv5's backbone, model.0 to model.9
    azure_stages=(("backbone.backbone.stem",), ("backbone.backbone.dark*.*",)),
)
