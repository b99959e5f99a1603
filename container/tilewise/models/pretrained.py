"""Starting from published weights, which the registry names; never a download."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tilewise.errors import UserError
from tilewise.models.detector import IMAGENET_STD, VisionModel
from tilewise.models.tensor_names import summary
from tilewise.registry import find_model, load

_SUFFIXES = (".safetensors", ".pth", ".pt")
_PACKED = (".tar.gz", ".tgz", ".tar", ".zip")

IN_FRONT = (0, 1, 2, -1, -2)
"""So many feature maps, at strides 4 and 8, a network may have in front of a file's; below 0 the file has."""

_OF_CHECKPOINTS = ("model", "state_dict")
"""Under which a checkpoint has the tensors: YOLOX's and torchvision's; OpenMMLab's and Lightning's."""

_WRAPPED = "module."
"""What DataParallel and DistributedDataParallel put before the names of a model's tensors."""

_LEVEL = re.compile(r"(\b(?:module_list|inner_blocks|layer_blocks)\.)(\d+)\b")
"""Modules that there is one of for each feature map."""


def load_pretrained(detector: VisionModel, name: str, channel: Path | None = None) -> str:
    """Start from published weights: of the whole detector where there are some, else of its backbone.

    They are looked for in the ``pretrained`` channel, or without one in the folder that ``TILEWISE_WEIGHTS``
    names, under their published names (:func:`published_files`) or the same with ``.safetensors``. The
    channel's only weights file is taken whatever its name. Tensors that the file lacks, or holds in another
    shape (the heads, where there is another number of classes), keep their initial values.

    Returns:
        A sentence for the log that says what was loaded, or that nothing was and why.

    Raises:
        UserError: the channel holds no weights, or the file none that fit.

    """
    found = find_pretrained(name, channel)
    return found if isinstance(found, str) else _load(detector.network, name, found)


def find_pretrained(name: str, channel: Path | None = None) -> Path | str:
    """The file that :func:`load_pretrained` starts from, or a sentence that says why there is none.

    Raises:
        UserError: the channel holds no weights.

    """
    file_names = published_files(name)
    folder = os.environ.get("TILEWISE_WEIGHTS", "")
    if channel is not None:
        return _in_channel(channel, file_names)
    if not file_names:
        return f"use_pretrained_model=1, but no weights of {name} are published: training from scratch"
    there = [Path(folder) / file for file in file_names if folder and (Path(folder) / file).is_file()]
    if there:
        return there[0]
    where = f"in {folder}" if folder else "here (TILEWISE_WEIGHTS names no folder)"
    return f"use_pretrained_model=1, but there is no {_published(file_names)} {where}: training from scratch"


def published_files(name: str) -> list[str]:
    """The names of the files with weights for a model: those of its detector, then those of its backbone."""
    files = [weights.file for weights in find_model(name).published]
    return [spelling for file in files for spelling in (file, f"{Path(file).stem}.safetensors")]


def _published(files: Sequence[str]) -> str:
    return ", ".join(file for file in files if not file.endswith(".safetensors"))


def _in_channel(channel: Path, published_names: Sequence[str]) -> Path:
    files = sorted(path for path in channel.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    by_name = {path.name: path for path in files}
    for name in published_names:
        if name in by_name:
            return by_name[name]
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:5]) or "none"
        named = f", or one named as published ({_published(published_names)})" if published_names else ""
        packed = next((path.name for path in channel.rglob("*") if path.name.endswith(_PACKED)), None)
        cure = f" and {packed}: unpack it, or give a job's model in the channel model" if packed else ""
        raise UserError(
            f"channel pretrained: give it one file of weights ({', '.join(_SUFFIXES)}){named}; "
            f"it has {names}{cure}"
        )
    return files[0]


def _load(network: nn.Module, name: str, path: Path) -> str:
    own = network.state_dict()
    published = _read(path)
    backbone, part = find_model(name).backbone, ""
    if backbone and backbone.from_classifier and not any(key in own for key in published):
        published, part = load(backbone.from_classifier)(published, list(own)), " (a backbone's)"
    published = _at_own_levels(_in_own_layers(published, own), own)
    fitting = {
        key: value for key, value in published.items() if key not in own or own[key].shape == value.shape
    }
    for key, value in fitting.items():
        if key in own and not bool(value.isfinite().all()):
            raise UserError(
                f"{path}: {key} holds NaN or infinity: its training had diverged; take another file"
            )
    try:
        # Not strict, and all at once: torchvision's modules rename what older files call otherwise.
        fresh = set(network.load_state_dict(fitting, strict=False).missing_keys)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not hold the weights of {name}: {str(error).splitlines()[-1]}"
        ) from None
    # Normalisation layers make up the counter of batches where a file, an older one, has none.
    weights = [key for key in own if not key.endswith("num_batches_tracked")]
    loaded = [key for key in own if key in fitting or (key in weights and key not in fresh)]
    if 2 * len(loaded) < len(published) or not loaded:
        how_many = f"only {len(loaded)}" if loaded else "none"
        raise UserError(f"{path} has weights of another model: {how_many} of its tensors fit {name}")
    new = summary([key for key in weights if key in fresh], weights)
    return f"{len(loaded)} tensors loaded from {path.name}{part}; newly initialised: {new}"


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or those of the model where it is a checkpoint, as YOLOX's are."""
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := _other_objects(path):
            raise UserError(
                f"{path} holds other objects than tensors ({', '.join(found)}), which could run any code and "
                "are not loaded: save the weights alone, as torch.save(model.state_dict(), …) does, or of a "
                'checkpoint torch.save(checkpoint["model"], …)'
            ) from None
        raise _no_weights(path, error) from None
    except Exception as error:  # a damaged file: RuntimeError, EOFError, UnpicklingError, SafetensorError, …
        raise _no_weights(path, error) from None
    for part in _OF_CHECKPOINTS:
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is no file of PyTorch weights: it holds other things than tensors")
    prefix = _WRAPPED if all(key.startswith(_WRAPPED) for key in content) else ""
    return {key.removeprefix(prefix): tensor for key, tensor in content.items()}


def _no_weights(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no file of PyTorch weights, or is damaged ({type(error).__name__})")


def _other_objects(path: Path) -> list[str]:
    """What a file holds that is not loaded, by the names of their classes; none where it cannot be read."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))[:5]
    except Exception:  # no archive, or a damaged one
        return []


def _in_own_layers(published: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the names of the network's layers, where it cuts their list into other pieces.

    SSDlite does so for each feature map in front of the published ones.
    """
    theirs, ours = (
        [key for key in keys if key.startswith("backbone.features.") and not key.endswith("_tracked")]
        for keys in (published, own)
    )
    names = dict(zip(theirs, ours, strict=False))
    alike = all(published[key].shape == own[name].shape for key, name in names.items())
    if theirs == ours or len(theirs) != len(ours) or not alike:
        return dict(published)
    features = {name: published[key] for key, name in names.items()}
    return {
        key: each for key, each in published.items() if not key.startswith("backbone.features.")
    } | features


def _at_own_levels(published: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of each feature map with its number in the network, which may have finer maps in front.

    By how many the numbers differ is seen by what fits.
    """
    # as an FPN of torchvision is named since 2022
    named = {
        re.sub(r"(\.(?:inner|layer)_blocks\.\d+)\.(?=weight|bias)", r"\1.0.", key): key for key in published
    }

    def moved(key: str, levels: int) -> str:
        return _LEVEL.sub(lambda level: f"{level[1]}{int(level[2]) + levels}", key)

    def fitting(levels: int) -> int:
        names = ((moved(name, levels), key) for name, key in named.items() if _LEVEL.search(name))
        return sum(name in own and own[name].shape == published[key].shape for name, key in names)

    levels = max(IN_FRONT, key=fitting)
    return {moved(name, levels): published[key] for name, key in named.items()}


def resnet_of(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of torchvision's ResNet, by the names that they have in a detector."""
    if "layer1.0.conv1.weight" not in published:
        return {}
    return {f"backbone.body.{key}": value for key, value in published.items()}


def layers_of(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of torchvision's VGG or MobileNet, by the names that they have in a detector.

    Detectors cut their list of layers into pieces, but keep the order.
    """
    features = {key: value for key, value in published.items() if key.startswith("features.")}
    theirs = [key for key in features if not key.endswith("num_batches_tracked")]
    pieces = ("backbone.features.", "backbone.extra.0.", "backbone.body.")
    ours = [key for key in own if key.startswith(pieces) and not key.endswith("num_batches_tracked")]
    renamed = {}
    for key, name in zip(theirs, ours, strict=False):
        if key.rsplit(".", 1)[1] != name.rsplit(".", 1)[1]:
            break
        renamed[name] = features[key]
    return renamed


def vgg_of(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]:
    """As :func:`layers_of`, for the pixels from -128 to 127 that SSD's VGG gets.

    A whole classifier was trained on pixels of unit variance. The file for SSD has the features alone: the
    layers after them are there, but are not numbers.
    """
    renamed = layers_of(published, own)
    first, last = "backbone.features.0.weight", published.get("classifier.0.weight")
    if first in renamed and last is not None and bool(last.isfinite().all()):
        renamed[first] = renamed[first] / (255 * renamed[first].new_tensor(IMAGENET_STD).view(1, 3, 1, 1))
    return renamed
