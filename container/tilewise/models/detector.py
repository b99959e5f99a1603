from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from tilewise.boxes import area, intersection
from tilewise.instances import Instances
from tilewise.targets import Targets

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Target = dict[str, Tensor]


class BatchImages(nn.Module):
    """uint8 views -> one normalised, padded batch, on the device; stands in for torchvision's own transform.

    Views have been scaled already. They are padded at the right and the bottom to a multiple of ``divisor``
    pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], divisor: int = 1):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)
        self.divisor = divisor

    def forward(
        self, images: Sequence[Tensor], targets: list[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Batch ``images``, each (3, h, w) uint8; targets pass unchanged."""
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (-(-max(sides) // self.divisor) * self.divisor for sides in zip(*sizes, strict=True))
        if set(sizes) == {(height, width)}:  # all at once, in a few kernels of a GPU
            batch = torch.stack(list(images)).sub(self.mean).div_(self.std)
        else:
            batch = self.mean.new_zeros((len(images), 3, height, width))
            for row, image in zip(batch, images, strict=True):
                row[:, : image.shape[1], : image.shape[2]] = (image - self.mean) / self.std
        return ImageList(batch.contiguous(memory_format=torch.channels_last), sizes), targets

    def postprocess(
        self,
        result: list[Target],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[Target]:
        """Detections stay in the view's frame: the view itself takes them to the image."""
        return result


class Detector(nn.Module):
    """A torchvision detection network behind Tilewise's convention.

    In training ``detector(images, targets) -> dict of losses``; in evaluation
    ``detector(images) -> list[Instances]``, each in its view's pixels, labels 0-based.

    Args:
        network: torchvision's ``(images, targets)`` module, whose ``transform`` is a :class:`BatchImages`.
        background: whether the network counts background as class 0 and so objects from 1.

    Attributes:
        frozen_norms: normalisation layers that stay in evaluation mode when the detector is trained.

    """

    def __init__(self, network: nn.Module, background: bool):
        super().__init__()
        self.network = network
        self.first_label = int(background)
        self.frozen_norms: list[nn.Module] = []

    def train(self, mode: bool = True) -> Detector:
        """As PyTorch's, but what is frozen stays frozen."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """See the class; ``images`` are (3, h, w) uint8 on the detector's device."""
        if self.training:
            assert targets is not None
            losses: dict[str, Tensor] = self.network(list(images), [self._target(each) for each in targets])
            return losses
        return [
            Instances(found["boxes"], found["scores"], found["labels"] - self.first_label)
            for found in self.network(list(images))
        ]

    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        """Detections in each of the views, the detector being in evaluation mode."""
        found = self(images)
        assert isinstance(found, list)
        return found

    def _target(self, targets: Targets[Tensor]) -> Target:
        labels = targets.labels + self.first_label
        if not targets.ignored.any():
            return {"boxes": targets.boxes, "labels": labels, "ignored": targets.boxes[:0]}
        kept, ignored = (
            torch.nonzero(each).flatten().to(labels.device, non_blocking=True)
            for each in (~targets.ignored, targets.ignored)
        )
        return {"boxes": targets.boxes[kept], "labels": labels[kept], "ignored": targets.boxes[ignored]}


def on_ignored(anchors_N4: Tensor, ignored_M4: Tensor) -> Tensor:
    """Which anchors stand on an ignored box, so that they must not be taught to be background.

    An anchor does when its IoU with the box is at least 0.3 (SNIPER's rule), or when at least half of the
    anchor lies in it (a crowd is larger than its members).

    Returns:
        (N,) bool.

    """
    if not len(ignored_M4):
        return torch.zeros(len(anchors_N4), dtype=torch.bool, device=anchors_N4.device)
    iou = box_iou(anchors_N4, ignored_M4)
    inside = intersection(anchors_N4[:, None], ignored_M4) / area(anchors_N4)[:, None].clamp(min=1e-6)
    on: Tensor = ((iou >= 0.3) | (inside >= 0.5)).any(dim=1)
    return on
