"""A made-up family of models in one file: network, criterion, postprocess, builder and its entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tilewise.models.detector import BatchImages, Detector
from tilewise.models.matching import split_ignored
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.spec import DetectorSpec
from tilewise.registry import Backbone, Model, ModelFamily
from tilewise.targets import Targets
from torch import Tensor, nn

STRIDE = 8
WIDTHS = {"dots_s": 8, "dots_m": 16}


class Outputs(NamedTuple):
    features: dict[str, Tensor]
    cells: Tensor


class Dots(nn.Module):
    """Each cell of a map at stride 8 may hold one object: of what class, and how far its sides are."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for stage, (channels, out) in enumerate([(3, width), (width, width), (width, 2 * width)]):
            convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
            norm = nn.BatchNorm2d(out, momentum=0.1)
            self.body.add_module(f"stage{stage}", nn.Sequential(convolution, norm, nn.ReLU()))
        self.predict = nn.Conv2d(2 * width, 4 + num_classes, 3, padding=1)
        nn.init.constant_(self.predict.bias[4:], -2)  # type: ignore[index]

    def forward(self, batch_BCHW: Tensor) -> Outputs:
        features = self.body(batch_BCHW)
        return Outputs({"0": features}, self.predict(features).float())


def criterion(outputs: Outputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
    """Cross-entropy of all cells' classes; L1, in cells, of the sides of those in an object's middle."""
    sides, classes = outputs.cells[:, :4], outputs.cells[:, 4:]
    wanted = torch.zeros_like(classes)
    distances = [sides.sum() * 0]
    objects = split_ignored(targets)
    for image, target in enumerate(objects):
        boxes = target["boxes"] / STRIDE
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).long().unbind(1)
        wanted[image, target["labels"], y, x] = 1
        centre = torch.stack([x, y], dim=1) + 0.5
        true = torch.cat([centre - boxes[:, :2], boxes[:, 2:] - centre], dim=1)
        distances.append((sides[image, :, y, x].T - true).abs().sum())
    count = sum(len(target["boxes"]) for target in objects) or 1
    return {
        "presence": F.binary_cross_entropy_with_logits(classes, wanted, reduction="sum") / count,
        "sides": torch.stack(distances).sum() / count,
    }


class Postprocess:
    def __init__(self, spec: DetectorSpec) -> None:
        self.limits = spec.limits(candidates=200)

    def __call__(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        height, width = outputs.cells.shape[2:]
        cells = outputs.cells.flatten(2).transpose(1, 2)
        best = best_scores(cells[..., 4:].sigmoid(), self.limits.candidates)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = torch.stack([x.flatten(), y.flatten()], dim=1).to(cells.device) + 0.5
        sides, centre = best.of(cells[..., :4]), centre[best.priors]
        boxes = torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], dim=2) * STRIDE
        return Candidates(clip(boxes, sizes), best.scores, best.classes)


def build_dots(spec: DetectorSpec) -> Detector:
    network = Dots(WIDTHS[spec.name], spec.num_classes)
    transform = BatchImages((0.5,) * 3, (0.5,) * 3, divisor=STRIDE)
    return Detector(network, transform, criterion, Postprocess(spec))


_BACKBONE = Backbone(stages=(("body.stage*",),))
DOTS = ModelFamily(
    name="dots",
    pattern="dots_*",
    builder="dots:build_dots",
    scaling="square",
    classification_losses=frozenset({"presence"}),
    defaults={"image_size": 64, "number_of_epochs": 3, "training_batch_size": 4, "learning_rate": 0.02},
    models=(Model("dots_s", backbone=_BACKBONE), Model("dots_m", backbone=_BACKBONE)),
)
