"""YOLOX with masks as YOLACT has them (Bolya et al., ICCV 2019): prototypes, which each object mixes.

Two things differ from the paper. A mask is computed in its box alone, at a few places, so that its cost
follows the objects and not the view. And each object mixes planes of its box's own coordinates, too, as
CondInst (Tian et al., ECCV 2020) gives its masks relative ones: an ellipse in the box is the first guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tilewise.bitmaps import Bitmaps
from tilewise.instances import Instances
from tilewise.models.box_learning import image_sizes
from tilewise.models.csp_darknet import ConvBlock
from tilewise.models.detector import BatchImages, Detector
from tilewise.models.mask_rcnn import objects_masks
from tilewise.models.mask_targets import mask_targets
from tilewise.models.matching import split_ignored
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.priors import Priors
from tilewise.models.simota import Assignment
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.models.yolox import SIZES, STRIDES, YOLOX, Size, YOLOXCriterion, decode
from tilewise.prototypes import MASK_SIDE, PLANES, PROTOTYPES, STRIDE, instances_of, planes
from tilewise.suppression import Limits
from tilewise.targets import Targets

MASK_WEIGHT = 2.0
MOST_MASKS = 256
"""So many masks of a batch are learnt at a time, drawn at random: YOLACT takes 100 of an image."""


class YOLOXMaskOutputs(NamedTuple):
    """What the network says of each of P priors; see :class:`~tilewise.models.yolox.YOLOXOutputs`.

    Attributes:
        features, boxes, classes, objects, priors: as there.
        coefficients: (B, P, prototypes and planes) float32, how each mixes them.
        prototypes: (B, prototypes, H / 4, W / 4) float32.

    """

    features: dict[str, Tensor]
    boxes: Tensor
    classes: Tensor
    objects: Tensor
    priors: Priors
    coefficients: Tensor
    prototypes: Tensor


class YOLOXMasks(YOLOX):
    """YOLOX, with coefficients from its branch of boxes and prototypes from its finest map."""

    def __init__(self, size: Size, num_classes: int):
        super().__init__(size, num_classes)
        hidden, fine = int(256 * size.width), 4 * int(64 * size.width)
        self.head.mask_preds = nn.ModuleList(nn.Conv2d(hidden, PROTOTYPES + PLANES, 1) for _ in STRIDES)
        self.prototypes = nn.Sequential(
            ConvBlock(fine, fine, 3),
            nn.Upsample(scale_factor=2, mode="nearest"),
            ConvBlock(fine, fine, 3),
            nn.Conv2d(fine, PROTOTYPES, 1),
        )

    def forward(self, batch_BCHW: Tensor) -> Any:
        """Of a batch of pixels from 0 to 255."""
        found, where = self.look(batch_BCHW)
        predictions: Any = self.head.mask_preds
        coefficients = [predict(each).flatten(2) for predict, each in zip(predictions, where, strict=True)]
        return YOLOXMaskOutputs(
            *found,
            coefficients=torch.cat(coefficients, dim=2).transpose(1, 2).float(),
            prototypes=self.prototypes(found.features["0"]).float(),
        )


def mask_logits(prototypes_CHW: Tensor, boxes_N4: Tensor, coefficients_NK: Tensor) -> Tensor:
    """The masks of boxes of a view, each at the centres of 28 x 28 cells of its box: (N, 28, 28)."""
    height, width = prototypes_CHW.shape[1:]
    steps = (torch.arange(MASK_SIDE, device=boxes_N4.device) + 0.5) / MASK_SIDE
    low, high = boxes_N4[:, :2], boxes_N4[:, 2:]
    places = low[:, None] + steps[None, :, None] * (high - low)[:, None]  # (N, 28, 2)
    scaled = 2 * places / (STRIDE * places.new_tensor([width, height])) - 1
    x = scaled[:, None, :, 0].expand(-1, MASK_SIDE, -1)
    y = scaled[:, :, None, 1].expand(-1, -1, MASK_SIDE)
    grid = torch.stack([x, y], dim=3).flatten(0, 1)[None]
    sampled = F.grid_sample(prototypes_CHW[None], grid, padding_mode="border", align_corners=False)
    sampled = sampled[0].unflatten(1, (len(boxes_N4), MASK_SIDE))
    mixed = torch.einsum("nc,cnyx->nyx", coefficients_NK[:, :PROTOTYPES], sampled)
    own = torch.from_numpy(planes(steps.cpu().numpy())).to(boxes_N4.device)
    return mixed + torch.einsum("np,pyx->nyx", coefficients_NK[:, PROTOTYPES:], own)


class YOLOXMaskCriterion(YOLOXCriterion):
    """YOLOX's losses, and the mean cross-entropy of masks; objects without one teach boxes only."""

    def __call__(self, outputs: Any, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``bbox_regression``, ``objectness``, ``classification`` and ``loss_mask``."""
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            losses, assignment = self.losses_and_assignment(
                outputs, split_ignored(targets), partial(image_sizes, targets)
            )
            return losses | {"loss_mask": MASK_WEIGHT * _mask_loss(outputs, assignment, targets)}


def _mask_loss(
    outputs: YOLOXMaskOutputs, assignment: Assignment, targets: Sequence[Targets[Tensor]]
) -> Tensor:
    objects = [objects_masks(each) for each in targets]
    grids = Bitmaps.cat(objects)
    boxes = torch.cat([each.boxes[(~each.ignored).to(each.boxes.device)] for each in targets])
    drawn = torch.nonzero(grids.known[assignment.objects]).flatten()
    if len(drawn) > MOST_MASKS:
        drawn = drawn[torch.randperm(len(drawn), device=drawn.device)[:MOST_MASKS]]
    images, priors, which = (
        each[drawn] for each in (assignment.images, assignment.priors, assignment.objects)
    )
    count = mean_over_processes(outputs.boxes.new_full((), len(drawn)), at_least=1)
    height, width = (STRIDE * side for side in outputs.prototypes.shape[2:])
    total = outputs.prototypes.sum() * 0 + outputs.coefficients.sum() * 0
    for image in range(len(targets)):
        rows = torch.nonzero(images == image).flatten()
        if not len(rows):
            continue
        own = boxes[which[rows]]
        logits = mask_logits(outputs.prototypes[image], own, outputs.coefficients[image, priors[rows]])
        sizes = torch.tensor([[height, width]], device=own.device).expand(len(rows), -1)
        wanted = mask_targets(grids.select(which[rows]), own, sizes, side=MASK_SIDE)
        total = (
            total
            + F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2)).sum()
        )
    return total / count


class YOLOXMaskPostprocess:
    """As YOLOX's; each candidate has its coefficients, too."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def __call__(self, outputs: YOLOXMaskOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        return self.with_coefficients(outputs, sizes)[0]

    def with_coefficients(
        self, outputs: YOLOXMaskOutputs, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Candidates, Tensor]:
        """The same, and how each mixes the prototypes: (B, K, prototypes and planes)."""
        scores, classes = outputs.classes.sigmoid().max(dim=2)
        scores = scores * outputs.objects.sigmoid()
        best = best_scores(scores[..., None], self.limits.candidates)
        boxes = best.of(decode(outputs.boxes, outputs.priors))
        return Candidates(clip(boxes, sizes), best.scores, best.of(classes)), best.of(outputs.coefficients)


class YOLOXMaskDetector(Detector):
    """A one-stage detector that gives each instance its mask, a bitmap of 28 x 28 in its box."""

    postprocess: Any
    graph_fields = ("coefficients", "prototypes")

    def results(self, images: Sequence[Tensor]) -> list[Instances]:
        """The instances in each of the views, with the field ``masks``."""
        batch = self.transform(images)
        values = self.graph_values(self.outputs(batch), batch.image_sizes)
        arrays = [each.detach().cpu().numpy() for each in values]
        return [instances_of(view, self.postprocess.limits) for view in zip(*arrays, strict=True)]

    def graph_values(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """See :meth:`Detector.graph_values`; coefficients and prototypes, too."""
        candidates, coefficients = self.postprocess.with_coefficients(outputs, sizes)
        return (*candidates, coefficients, outputs.prototypes)


def build_yolox_masks(spec: DetectorSpec) -> Detector:
    """YOLOX with masks, of the size that the name says."""
    limits = spec.limits(max(1000, 2 * spec.detections_per_view))
    # pixels from 0 to 255, as the published weights want them
    transform = BatchImages((0.0,) * 3, (1 / 255,) * 3, divisor=STRIDES[-1])
    network = YOLOXMasks(SIZES[spec.name.removeprefix("mask")], spec.num_classes)
    return YOLOXMaskDetector(network, transform, YOLOXMaskCriterion(), YOLOXMaskPostprocess(limits))
