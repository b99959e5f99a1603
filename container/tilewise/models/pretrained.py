"""Starting from published weights: torchvision's detectors and backbones, YOLOX's; never a download."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection, get_model_weights

from tilewise.errors import UserError
from tilewise.models.detector import IMAGENET_STD, Detector
from tilewise.models.names import summary

_DETECTORS = {
    "ssd_vgg16": "ssd300_vgg16",
    "ssdlite_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn",
}
_SUFFIXES = (".safetensors", ".pth", ".pt")


def load_pretrained(detector: Detector, name: str, channel: Path | None = None) -> str:
    """Start from published weights: of the whole detector where there are some, else of its backbone.

    They are looked for in the ``pretrained`` channel, or without one in the folder that ``TILEWISE_WEIGHTS``
    names, under their published names (:func:`published_files`) or the same with ``.safetensors``. The
    channel's only weights file is taken whatever its name. Tensors that the file has not, or in another shape
    (the heads, where there is another number of classes), keep their initial values.

    Returns:
        A sentence for the log that says what was loaded, or that nothing was and why.

    Raises:
        UserError: the channel holds no weights, or the file none that fit.

    """
    wanted = published_files(name)
    folder = os.environ.get("TILEWISE_WEIGHTS", "")
    if channel is not None:
        path = _in_channel(channel, wanted)
    else:
        there = [Path(folder) / file for file in wanted if folder and (Path(folder) / file).is_file()]
        if not there:
            where = f"in {folder}" if folder else "here (TILEWISE_WEIGHTS names no folder)"
            return (
                f"use_pretrained_model=1, but there is no {_published(wanted)} {where}: training from scratch"
            )
        path = there[0]
    return _load(detector.network, name, path)


def published_files(name: str) -> list[str]:
    """The names of the files with weights for a model: those of its detector, then those of its backbone."""
    if name.startswith("yolox_"):
        files = [f"{name}.pth"]
    else:
        files = _files_of(_DETECTORS[name]) if name in _DETECTORS else []
        backbone = re.search(r"resnet\d+|mobilenet_v3_large|vgg16", name)
        assert backbone is not None
        # VGG's "features" are the ones that SSD was published with
        files += sorted(_files_of(backbone[0]), key=lambda file: "features" not in file)
    return [spelling for file in files for spelling in (file, f"{Path(file).stem}.safetensors")]


def _files_of(model: str) -> list[str]:
    weights = get_model_weights(getattr(detection, model, model))
    return [each.url.rsplit("/", 1)[-1] for each in weights]


def _published(files: Sequence[str]) -> str:
    return ", ".join(file for file in files if not file.endswith(".safetensors"))


def _in_channel(channel: Path, wanted: Sequence[str]) -> Path:
    files = sorted(path for path in channel.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    by_name = {path.name: path for path in files}
    for name in wanted:
        if name in by_name:
            return by_name[name]
    if len(files) != 1:
        found = ", ".join(path.name for path in files[:5]) or "none"
        raise UserError(
            f"channel pretrained: give it one file of weights ({', '.join(_SUFFIXES)}), "
            f"or one named as published ({_published(wanted)}); it has {found}"
        )
    return files[0]


def _load(network: nn.Module, name: str, path: Path) -> str:
    own = network.state_dict()
    published = _read(path)
    part = ""
    if not any(key.startswith(("backbone.", "head.")) for key in published):
        published, part = _of_backbone(published, list(own)), " (a backbone's)"
    fitting = {
        key: value for key, value in published.items() if key not in own or own[key].shape == value.shape
    }
    try:
        # Not strict, and all at once: torchvision's modules rename what older files call otherwise.
        fresh = set(network.load_state_dict(fitting, strict=False).missing_keys)
    except RuntimeError as error:
        raise UserError(f"{path} has not the weights of {name}: {str(error).splitlines()[-1]}") from None
    # Normalisation layers make up the counter of batches where a file, an older one, has none.
    weights = [key for key in own if not key.endswith("num_batches_tracked")]
    loaded = [key for key in own if key in fitting or (key in weights and key not in fresh)]
    if 2 * len(loaded) < len(published) or not loaded:
        how_many = f"only {len(loaded)}" if loaded else "none"
        raise UserError(f"{path} has weights of another model: {how_many} of its tensors fit {name}")
    anew = summary([key for key in weights if key in fresh], weights)
    return f"{len(loaded)} tensors loaded from {path.name}{part}; initialised anew: {anew}"


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, those under ``model`` where it is a checkpoint, as YOLOX's are."""
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file: RuntimeError, EOFError, UnpicklingError, SafetensorError, …
        raise UserError(
            f"{path} is no file of PyTorch weights, or is damaged ({type(error).__name__})"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is no file of PyTorch weights: it holds other things than tensors")
    return dict(content)


def _of_backbone(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of torchvision's classifier, by the names that they have in a detector."""
    if "layer1.0.conv1.weight" in published:
        return {f"backbone.body.{key}": value for key, value in published.items()}
    # Detectors cut a VGG's or a MobileNet's list of layers into pieces, but keep their order.
    features = {key: value for key, value in published.items() if key.startswith("features.")}
    theirs = [key for key in features if not key.endswith("num_batches_tracked")]
    pieces = ("backbone.features.", "backbone.extra.0.", "backbone.body.")
    ours = [key for key in own if key.startswith(pieces) and not key.endswith("num_batches_tracked")]
    renamed = {}
    for key, name in zip(theirs, ours, strict=False):
        if key.rsplit(".", 1)[1] != name.rsplit(".", 1)[1]:
            break
        renamed[name] = features[key]
    first = "backbone.features.0.weight"
    if first in renamed and _is_classifier(published):
        # It was trained on pixels of unit variance; SSD's VGG gets them from -128 to 127.
        renamed[first] = renamed[first] / (255 * renamed[first].new_tensor(IMAGENET_STD).view(1, 3, 1, 1))
    return renamed


def _is_classifier(published: Mapping[str, Tensor]) -> bool:
    """Whether a VGG's file has the layers after the features; in the one for SSD they are not numbers."""
    last = published.get("classifier.0.weight")
    return last is not None and bool(last.isfinite().all())
