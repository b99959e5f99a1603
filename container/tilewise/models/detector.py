from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from tilewise.data.channel_table import SIZE_LIMITS, SIZE_NAMES
from tilewise.instances import Instances
from tilewise.models.box_learning import BoxLearning, PositiveCounts
from tilewise.models.postprocess import Candidates, Postprocess, detections_of
from tilewise.targets import Targets

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Outputs(Protocol):
    """What a network makes of a batch; each family adds its raw heads, in float32, and their priors."""

    @property
    def features(self) -> dict[str, Tensor]:
        """(B, C, h, w) feature maps that the heads look at, by name, finest first."""

    def class_maps(self) -> list[Tensor]:
        """(B, classes, h, w) logits of each feature map; of several anchors of a cell the highest.

        None where the network says of no cell what it shows.
        """


Criterion = Callable[[Any, Sequence[Targets[Tensor]]], dict[str, Tensor]]
"""Turns a network's outputs and the targets into named losses in float32, whose sum is learnt from."""


class BatchImages(nn.Module):
    """uint8 views -> one normalised, padded batch, on the device.

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

    def forward(self, images: Sequence[Tensor]) -> ImageList:
        """Batch ``images``, each (3, h, w) uint8: the batch (B, 3, H, W), and the (h, w) of each."""
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (-(-max(sides) // self.divisor) * self.divisor for sides in zip(*sizes, strict=True))
        if set(sizes) == {(height, width)}:  # all at once, in a few kernels of a GPU
            batch = torch.stack(list(images)).sub(self.mean).div_(self.std)
        else:
            batch = self.mean.new_zeros((len(images), 3, height, width))
            for row, image in zip(batch, images, strict=True):
                row[:, : image.shape[1], : image.shape[2]] = (image - self.mean) / self.std
        return ImageList(batch.contiguous(memory_format=torch.channels_last), sizes)


class VisionModel(nn.Module):
    """A network between the views that it looks at and what is made of its outputs, whatever its task.

    In training ``model(images, targets) -> dict of losses``; in evaluation ``model(images)`` is a list of
    what the network says of each view, on the CPU.

    Args:
        network: normalised batch (B, 3, H, W) -> :class:`Outputs`. Its parameters are all that is learnt.
        transform: uint8 views -> batch.
        criterion: outputs and targets -> losses.
        postprocess: outputs and the views' sizes -> what is said of each view, or what may be.

    Attributes:
        frozen_norms: normalisation layers that stay in evaluation mode when the model is trained.
        figures: what the criterion says beside the losses, by name: it is logged, and not learnt from.

    """

    postprocess: Any
    figures: ClassVar[frozenset[str]] = frozenset()
    slow_as_graph: ClassVar[bool] = False
    """Whether ONNX Runtime takes several times as long as PyTorch on a CPU."""

    def __init__(
        self,
        network: nn.Module,
        transform: Callable[[Sequence[Tensor]], ImageList],
        criterion: Criterion,
        postprocess: Callable[[Any, Sequence[tuple[int, int]]], Any],
    ):
        super().__init__()
        self.network = network
        self.transform, self.criterion, self.postprocess = transform, criterion, postprocess
        self.frozen_norms: list[nn.Module] = []

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  # as nn.Module has it
        """As PyTorch's, but what is frozen stays frozen."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Any]:
        """See the class; ``images`` are (3, h, w) uint8 on the model's device."""
        if self.training:
            assert targets is not None
            return self.outputs_and_losses(images, targets)[1]
        return self.results(images)

    def results(self, images: Sequence[Tensor]) -> list[Any]:
        """What the network says of each of the views."""
        batch = self.transform(images)
        results: list[Any] = self.postprocess(self.outputs(batch), batch.image_sizes)
        return results

    def outputs_and_losses(
        self, images: Sequence[Tensor], targets: Sequence[Targets[Tensor]]
    ) -> tuple[Outputs, dict[str, Tensor]]:
        """One forward pass, with the outputs for whoever adds losses to the criterion's.

        With several processes that is a module whose ``forward`` calls this, inside of
        DistributedDataParallel.
        """
        outputs = self.outputs(self.transform(images), targets)
        return outputs, self.criterion(outputs, targets)

    def outputs(self, batch: ImageList, targets: Sequence[Targets[Tensor]] | None = None) -> Outputs:
        """What the network makes of a batch; a one-stage network needs no targets for it."""
        outputs: Outputs = self.network(batch.tensors)
        return outputs

    def feature_maps(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """The feature maps of views that its heads look at, without what the heads make of them."""
        network: Any = self.network
        batch = self.transform(images)
        if not hasattr(network, "features"):
            return self.outputs(batch).features
        maps: dict[str, Tensor] = network.features(batch.tensors)
        return maps

    def watch(self, *, on: bool) -> None:
        """Note what of an epoch's steps is worth a line in the log, from now on."""

    def say_what_was_seen(self, gather: Callable[[Any], Sequence[Any]]) -> list[str]:
        """The lines of what has been noted; all processes ask, and ``gather`` has what each of them knows."""
        return []

    def detect(self, images: Sequence[Tensor]) -> list[Any]:
        """What the model, in evaluation mode, says of each of the views."""
        results = self(images)
        assert isinstance(results, list)
        return results


class Detector(VisionModel):
    """A model that finds objects: it says of each view its instances, in its pixels, labels 0-based."""

    postprocess: Postprocess
    graph_fields: ClassVar[tuple[str, ...]] = ()
    """What its graph says beside boxes, scores and labels, by name: see :meth:`graph_values`."""

    def learn_boxes(self, learning: BoxLearning) -> None:
        """Set what a job chooses of how boxes are learnt."""
        criterion: Any = self.criterion
        if hasattr(criterion, "learning"):
            criterion.learning = learning

    def watch(self, *, on: bool) -> None:
        """Count objects without a positive prior, from now on."""
        learning: BoxLearning | None = getattr(self.criterion, "learning", None)
        if learning and bool(learning.counts) != on:
            self.learn_boxes(replace(learning, counts=PositiveCounts(SIZE_LIMITS) if on else None))

    def say_what_was_seen(self, gather: Callable[[Any], Sequence[Any]]) -> list[str]:
        """Objects without a positive prior, by their size in the image."""
        learning: BoxLearning | None = getattr(self.criterion, "learning", None)
        counts = learning.counts if learning else None
        if counts is None:
            return []
        rows = [[0, 0]] * len(SIZE_NAMES) if counts.counts is None else counts.counts.tolist()
        everywhere = np.sum(gather(rows), axis=0)
        by_size = [
            f"{name} px: {without:.0f} of {total:.0f} ({100 * without / total:.1f} %)"
            for name, (total, without) in zip(SIZE_NAMES, everywhere.tolist(), strict=True)
            if total
        ]
        start = "objects of views without a positive prior in the first epoch:"
        return [f"{start} {'; '.join(by_size)}"] if by_size else []

    def results(self, images: Sequence[Tensor]) -> list[Instances]:
        """The instances in each of the views."""
        return detections_of(self.candidates(images), self.postprocess.limits)

    def graph_values(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """What a graph says of each view, from which :func:`tilewise.prototypes.instances_of` goes on."""
        return tuple(self.postprocess(outputs, sizes))

    def candidates(self, images: Sequence[Tensor]) -> Candidates:
        """What each of the views may show, before suppression, on the detector's device."""
        batch = self.transform(images)
        return self.postprocess(self.outputs(batch), batch.image_sizes)
