"""What a detector says of an image: the instances of its views, as one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilewise.boxes import object_size
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.instances import Instances
from tilewise.tiling.merge import cut_sides, merge_with_masks
from tilewise.tiling.merge_masks import Pieces, place_masks
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View, Window


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        width, height: pixels of the upright image.
        detections: boxes in these pixels, best score first.

    """

    width: int
    height: int
    detections: Instances

    def rescored(self, calibration: ScoreCalibration) -> Prediction:
        """With what a validation has shown the scores to mean; the order stays."""
        scores = calibration(self.detections.scores)
        return replace(self, detections=replace(self.detections, scores=scores))


def merge_instances(
    shown: Sequence[tuple[View, Instances]],
    width: int,
    height: int,
    tiling: Tiling,
    *,
    limit: int | None = None,
    mask_threshold: float = 0.5,
) -> Prediction:
    """What was found in all views of an image, as one answer: a :data:`tilewise.inference.batching.Merge`.

    A box without area is no object. So many as ``limit`` are kept at most. Masks become those of the image,
    of the pixels that a model is surer of than ``mask_threshold``.
    """
    parts, views, windows, cuts, scales = [], [], [], [], []
    seen: list[Window] = []
    for number, (view, of_view) in enumerate(shown):
        instances = view.upright(of_view)
        if view.window not in seen[-1:]:  # a mirrored view follows the one that it mirrors
            seen.append(view.window)
        cut = cut_sides(instances.boxes, view, width=width, height=height)
        detections = view.to_image(instances, width, height)
        answered = view.answers_for(detections.boxes) & (object_size(detections.boxes) > 0)
        parts.append(detections.select(answered))
        cuts.append(cut[answered])
        views.append(np.full(len(parts[-1]), number))
        windows.append(np.full(len(parts[-1]), len(seen)))
        scales.append(np.full(len(parts[-1]), math.sqrt(view.scale[0] * view.scale[1])))
    detections = Instances.cat(parts)
    if len(parts) > 1:
        detections, pieces = merge_with_masks(
            detections,
            np.concatenate(views),
            np.concatenate(cuts),
            window_N=np.concatenate(windows),
            scale_N=np.concatenate(scales),
            rule=tiling.merge,
            threshold=tiling.merge_threshold,
        )
    else:
        detections = detections.select(np.argsort(-detections.scores, kind="stable"))
        pieces = Pieces.alone(detections)
    detections = detections.select(slice(limit))
    if pieces is not None:
        pieces = pieces.select(np.arange(len(detections)))
        detections = place_masks(detections, pieces, (width, height), threshold=mask_threshold)
    return Prediction(width, height, detections)
