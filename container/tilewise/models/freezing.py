"""Leaving layers as they are: ``layers_to_freeze`` and ``freeze_layer_pattern``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tilewise.errors import UserError
from tilewise.models.detector import Detector
from tilewise.models.names import summary

SHOWN = 5


def freeze(detector: Detector, name: str, layers: int | None, pattern: str | None) -> str:
    """Freeze the first stages of the backbone, and the parameters whose names match a pattern.

    Batch normalisation all of whose parameters are frozen keeps its statistics, too: it stays in evaluation
    mode when the detector is trained.

    Args:
        detector: changed in place.
        name: the model's, for messages.
        layers: how many stages; see :func:`stages_of`.
        pattern: a regular expression that matches from the beginning of a parameter's name; either the name
            that it has here, or the one that the built-in algorithm has for it (:func:`builtin_names`).

    Returns:
        A sentence for the log that says what is frozen.

    Raises:
        UserError: there are fewer stages, nothing matches the pattern, or nothing is left to train.

    """
    network = detector.network
    every = [key for key, _ in network.named_parameters()]
    frozen = {*_in_stages(network, name, layers or 0), *_matching(network, pattern)}
    if frozen == set(every):
        raise UserError(f"{_given(layers, pattern)} freezes all of {name}: nothing is left to train")
    for key, parameter in network.named_parameters():
        if key in frozen:
            parameter.requires_grad_(False)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    detector.frozen_norms = [
        norm for norm in norms if norm.affine and not any(p.requires_grad for p in norm.parameters())
    ]
    detector.train(detector.training)
    what = summary([key for key in every if key in frozen], every)
    return (
        f"frozen: {len(frozen)} of {len(every)} parameters, and the statistics of "
        f"{len(detector.frozen_norms)} normalisation layers: {what}"
    )


def stages_of(network: nn.Module) -> list[tuple[str, ...]]:
    """The stages of a backbone, from the image on, each as the names of its modules.

    A ResNet has five: its first convolution and ``layer1`` to ``layer4`` (in ``ssd_resnet50`` to ``layer3``).
    A VGG has its five blocks of convolutions, a MobileNet its blocks, YOLOX ``stem`` and ``dark2`` to
    ``dark5``.
    """
    modules = dict(network.named_modules())
    if "backbone.body.layer1" in modules:
        layers = [f"backbone.body.layer{number}" for number in range(1, 5)]
        first = ("backbone.body.conv1", "backbone.body.bn1")
        return [first, *((layer,) for layer in layers if layer in modules)]
    if "backbone.backbone.stem" in modules:
        return [(f"backbone.backbone.{part}",) for part in ("stem", "dark2", "dark3", "dark4", "dark5")]
    if "backbone.body" in modules:
        return [(f"backbone.body.{child}",) for child, _ in modules["backbone.body"].named_children()]
    if "backbone.scale_weight" in dict(network.named_parameters()):
        return _vgg_blocks(network)
    return [
        (f"backbone.features.{half}.{child}",)
        for half, part in modules["backbone.features"].named_children()
        for child, _ in part.named_children()
    ]


def builtin_names(network: nn.Module) -> dict[str, str]:
    """The built-in algorithm's name of each parameter of an SSD's base network, by the name here.

    VGG-16: ``conv1_1_weight``, ``conv1_1_bias`` and so on; ResNet-50: ``conv0_weight``, ``bn0_gamma``,
    ``stage1_unit1_conv1_weight``, ``stage1_unit1_sc_weight`` and so on, as in MXNet's symbol files.
    """
    keys = [key for key, _ in network.named_parameters()]
    if "backbone.scale_weight" in keys:
        return {
            f"{module}.{kind}": f"conv{block}_{number}_{kind}"
            for block, modules in enumerate(_vgg_blocks(network), start=1)
            for number, module in enumerate(modules, start=1)
            for kind in ("weight", "bias")
        }
    return {key: _as_mxnet(key) for key in keys if key.startswith("backbone.body.")}


def _vgg_blocks(network: nn.Module) -> list[tuple[str, ...]]:
    """The convolutions of VGG-16, one tuple a block; its fully connected layers are not among them."""
    modules = dict(network.named_modules())
    blocks: list[list[str]] = [[]]
    for parent in ("backbone.features", "backbone.extra.0"):
        for child, module in modules[parent].named_children():
            if isinstance(module, nn.MaxPool2d):
                blocks.append([])
            elif isinstance(module, nn.Conv2d):
                blocks[-1].append(f"{parent}.{child}")
    return [tuple(block) for block in blocks]


def _as_mxnet(key: str) -> str:
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


def _in_stages(network: nn.Module, name: str, layers: int) -> list[str]:
    stages = stages_of(network) if layers else []
    if layers > len(stages):
        listed = ", ".join(" + ".join(stage) for stage in stages)
        raise UserError(
            f"layers_to_freeze={layers}: the backbone of {name} has {len(stages)} stages: {listed}"
        )
    prefixes = tuple(f"{module}." for stage in stages[:layers] for module in stage)
    return [key for key, _ in network.named_parameters() if prefixes and key.startswith(prefixes)]


def _matching(network: nn.Module, pattern: str | None) -> list[str]:
    if not pattern:
        return []
    keys = [key for key, _ in network.named_parameters()]
    theirs = builtin_names(network)
    matches = re.compile(pattern).match
    found = [key for key in keys if matches(key) or matches(theirs.get(key, key))]
    if not found:
        named = f"; in the built-in algorithm's names {_some(theirs.values())}" if theirs else ""
        raise UserError(
            f"freeze_layer_pattern={pattern!r} matches no parameter; their names are {_some(keys)}{named}"
        )
    return found


def _some(names: Iterable[str]) -> str:
    """A few of many names, spread over them."""
    every: Sequence[str] = list(names)
    return ", ".join(every[:: max(1, len(every) // SHOWN)][:SHOWN]) + ", …"


def _given(layers: int | None, pattern: str | None) -> str:
    given = {"layers_to_freeze": layers, "freeze_layer_pattern": pattern}
    return " and ".join(f"{name}={value}" for name, value in given.items() if value)
