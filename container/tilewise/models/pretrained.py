from __future__ import annotations

import os
from pathlib import Path

import torch
from torchvision.models import detection, get_model_weights

from tilewise.errors import UserError
from tilewise.models.detector import Detector

_PUBLISHED = {
    "ssd_vgg16": "ssd300_vgg16",
    "ssdlite_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn",
}


def load_pretrained(detector: Detector, name: str) -> str:
    """Start from torchvision's COCO weights, where the folder that ``TILEWISE_WEIGHTS`` names holds them.

    Tensors whose shapes differ (the heads, where there is another number of classes) keep their initial
    values.

    Returns:
        A sentence for the log that says what was loaded, or that nothing was and why.

    Raises:
        UserError: the file is there but is not a state dict.

    """
    folder = os.environ.get("TILEWISE_WEIGHTS", "")
    if name not in _PUBLISHED:
        return f"no pretrained weights are published for {name}: training from scratch"
    file_name = get_model_weights(getattr(detection, _PUBLISHED[name])).COCO_V1.url.rsplit("/", 1)[-1]
    path = Path(folder) / file_name
    if not folder or not path.is_file():
        where = folder or "(TILEWISE_WEIGHTS is not set)"
        return f"use_pretrained_model=1, but {file_name} is not in {where}: training from scratch"
    own = detector.network.state_dict()
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        for key in [key for key, value in published.items() if key in own and own[key].shape != value.shape]:
            del published[key]
        # Not strict, and all at once: torchvision's modules rename what older files call otherwise.
        fresh = detector.network.load_state_dict(published, strict=False).missing_keys
    except Exception as error:  # a damaged file: RuntimeError, EOFError, UnpicklingError, AttributeError, …
        raise UserError(
            f"{path} is no file of PyTorch weights, or is damaged ({type(error).__name__})"
        ) from None
    loaded = len(own) - len(fresh)
    if not loaded:
        raise UserError(f"{path} holds none of the tensors of {name}")
    return f"{loaded} tensors loaded from {file_name}; initialised anew: {', '.join(fresh) or 'none'}"
