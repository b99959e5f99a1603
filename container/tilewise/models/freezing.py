"""Leaving layers as they are: ``layers_to_freeze`` and ``freeze_layer_pattern``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tilewise.errors import UserError
from tilewise.models.detector import VisionModel
from tilewise.models.tensor_names import summary
from tilewise.registry import find_model

SHOWN = 5


def freeze(
    detector: VisionModel, name: str, layers: int | None, *, pattern: str | None, azure: bool = False
) -> str:
    """Freeze the first stages of the backbone, and the parameters whose names match a pattern.

    Batch normalisation all of whose parameters are frozen keeps its statistics, too: it stays in evaluation
    mode when the detector is trained.

    Args:
        detector: changed in place.
        name: the model's, for messages.
        layers: how many stages; see :func:`stages_of`.
        pattern: a regular expression that matches from the beginning of a parameter's name; either the name
            that it has here, or the one that the built-in algorithm has for it (:func:`builtin_names`).
        azure: whether the job calls the model by Azure's name, ``yolov5``.

    Returns:
        A sentence for the log that says what is frozen.

    Raises:
        UserError: there are fewer stages, nothing matches the pattern, or nothing is left to train.

    """
    network = detector.network
    every = [key for key, _ in network.named_parameters()]
    frozen = {*_in_stages(network, name, layers or 0, azure=azure), *_matching(network, name, pattern)}
    if frozen == set(every):
        raise UserError(f"{_given(layers, pattern)} freezes all of {name}: nothing is left to train")
    for key, parameter in network.named_parameters():
        if key in frozen:
            parameter.requires_grad = False
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


def stages_of(network: nn.Module, name: str, *, azure: bool = False) -> list[tuple[str, ...]]:
    """The stages of a model's backbone, from the image on, each as the names of its modules.

    The registry says what they are (:class:`tilewise.registry.Backbone`): a ResNet has five, its first
    convolution and ``layer1`` to ``layer4`` (in ``ssd_resnet50`` to ``layer3``). A VGG has its five blocks of
    convolutions, a MobileNet its blocks, YOLOX ``stem`` and ``dark2`` to ``dark5``. Azure's ``yolov5`` has
    ten, which are the layers of these.
    """
    backbone = find_model(name).backbone
    stages: list[tuple[str, ...]] = []
    kept = (azure and backbone.azure_stages) or backbone.stages if backbone else ()
    for stage in kept:
        if any("*" in module for module in stage):
            patterns = "|".join(re.escape(module).replace(r"\*", r"[^.]*") for module in stage)
            stages += [(key,) for key, _ in network.named_modules() if re.fullmatch(patterns, key)]
        else:
            stages.append(stage)
    return stages


def builtin_names(network: nn.Module, name: str) -> dict[str, str]:
    """The built-in algorithm's name of each parameter of a base network that it has, by the name here."""
    backbone = find_model(name).backbone
    if backbone is None or backbone.builtin_name is None:
        return {}
    names = {key: backbone.builtin_name(key) for key, _ in network.named_parameters()}
    return {key: theirs for key, theirs in names.items() if theirs is not None}


def _in_stages(network: nn.Module, name: str, layers: int, *, azure: bool) -> list[str]:
    stages = stages_of(network, name, azure=azure) if layers else []
    if layers > len(stages):
        stage_names = ", ".join(" + ".join(stage) for stage in stages)
        raise UserError(
            f"layers_to_freeze={layers}: the backbone of {name} has {len(stages)} stages: {stage_names}"
        )
    prefixes = tuple(f"{module}." for stage in stages[:layers] for module in stage)
    return [key for key, _ in network.named_parameters() if prefixes and key.startswith(prefixes)]


def _matching(network: nn.Module, name: str, pattern: str | None) -> list[str]:
    if not pattern:
        return []
    keys = [key for key, _ in network.named_parameters()]
    theirs = builtin_names(network, name)
    matches = re.compile(pattern).match
    matching_keys = [key for key in keys if matches(key) or matches(theirs.get(key, key))]
    if not matching_keys:
        named = f"; in the built-in algorithm's names {_some(theirs.values())}" if theirs else ""
        raise UserError(
            f"freeze_layer_pattern={pattern!r} matches no parameter; their names are {_some(keys)}{named}"
        )
    return matching_keys


def _some(names: Iterable[str]) -> str:
    """A few of many names, spread over them."""
    every: Sequence[str] = list(names)
    return ", ".join(every[:: max(1, len(every) // SHOWN)][:SHOWN]) + ", …"


def _given(layers: int | None, pattern: str | None) -> str:
    options = {"layers_to_freeze": layers, "freeze_layer_pattern": pattern}
    return " and ".join(f"{name}={value}" for name, value in options.items() if value)
