from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList


class AsTorchvisions(nn.Module):
    """A transform of ours with what torchvision's has besides: views have been scaled already."""

    def __init__(self, transform: Any):
        super().__init__()
        self.batch = transform

    def forward(self, images: list[Tensor], targets: Any) -> tuple[ImageList, Any]:
        return self.batch(images), targets

    def postprocess(self, found: Any, *_: Any) -> Any:
        return found
