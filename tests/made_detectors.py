"""A small network of each family, with random weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.views.view import Scaling
from torch import Tensor, nn

MODELS = (
    "ssd_resnet50",
    "ssdlite_mobilenet_v3_large",
    "yolox_nano",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "gfl_resnet18_fpn",
    "fasterrcnn_resnet18_fpn",
)
"""Of every family and kind of head; each finds something everywhere."""
_SIDES = {"ssd_resnet50": 300, "ssdlite_mobilenet_v3_large": 320}


def make_detector(name: str) -> tuple[Detector, DetectorSpec]:
    """A fresh model whose statistics of batches differ from channel to channel, as trained ones do."""
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=_SIDES.get(name, 96)) if square else Scaling(None, 96, 160)
    spec = DetectorSpec(name, 3, scaling, None, 1e-6, 0.5, 50)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = build_detector(spec).eval()
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.05)  # type: ignore[union-attr]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
        if name.startswith("ssd"):
            see_patches(detector, spec.scaling)
    return detector, spec


def patches(width: int, height: int) -> Tensor:
    """An image, (3, height, width) uint8, of squares of eight pixels."""
    squares = torch.randint(256, (3, height // 8 + 1, width // 8 + 1), dtype=torch.uint8)
    return squares.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]


def see_patches(detector: Detector, scaling: Scaling) -> None:
    """Give its layers of normalisation the statistics of images: else its outputs are all alike, and huge."""
    images = [patches(*scaling.size_of(1, 1)) for _ in range(4)]
    detector.train()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all that it sees
    with torch.no_grad():
        detector.outputs(detector.transform(images))
    detector.eval()


_SCORES = 2.0
_LAST_LAYERS = {
    r"cls_logits|gfl_cls|cls_preds|obj_preds|cls_score": _SCORES,
    r"classification_head\.module_list": 1.0,  # SSD's, whose scores tie at 1 beyond it
    r"bbox_reg|gfl_reg|reg_preds|bbox_pred|regression_head\.module_list": 0.3,
}
"""The names of the layers that say classes and boxes -> by how much what they say is to differ.

Logits of classes that differ by ``_SCORES`` are around 0, too: else all could be beyond any threshold.
"""


def spread_outputs(detector: Detector, spec: DetectorSpec) -> None:
    """Let scores and boxes differ as a trained model's do; those of a fresh one are ranked by rounding."""
    layers: dict[Any, float] = {}
    centred = []
    for name, module in detector.network.named_modules():
        for names, target in _LAST_LAYERS.items():
            depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
            if re.search(names, name) and isinstance(module, nn.Linear | nn.Conv2d) and not depthwise:
                nn.init.normal_(module.weight)
                if spec.name.startswith("fcos") and "bbox_reg" in name and module.bias is not None:
                    nn.init.ones_(module.bias)  # distances, of which those below 0 are no boxes
                if target == _SCORES and module.bias is not None:
                    centred.append(module)
                    nn.init.zeros_(module.bias)
                layers[module] = target

    def scale(layer: Any, _: Any, said: torch.Tensor) -> torch.Tensor:
        if layer not in layers:
            return said
        factor = layers.pop(layer) / float(said.std())
        layer.weight *= factor
        if layer in centred:
            layer.bias -= float(said.mean()) * factor
        return said * factor

    hooks = [layer.register_forward_hook(scale) for layer in layers]
    with torch.no_grad():
        detector.candidates([patches(*spec.scaling.size_of(4, 3))])
    for hook in hooks:
        hook.remove()
