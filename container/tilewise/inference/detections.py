"""What a detector says of an image: the instances of its views, as one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilewise.instances import Instances
from tilewise.tiling.merge import cut_sides, merge_with_masks
from tilewise.tiling.merge_masks import Pieces, place_masks
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View


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

    So many as ``limit`` are kept at most. Masks become those of the image, of the pixels that a model is
    surer of than ``mask_threshold``.
    """
    parts, views, cuts, scales = [], [], [], []
    for number, (view, instances) in enumerate(shown):
        cut = cut_sides(instances.boxes, view, width=width, height=height)
        detections = view.to_image(instances, width, height)
        answered = view.answers_for(detections.boxes)
        parts.append(detections.select(answered))
        cuts.append(cut[answered])
        views.append(np.full(len(parts[-1]), number))
        scales.append(np.full(len(parts[-1]), math.sqrt(view.scale[0] * view.scale[1])))
    detections = Instances.cat(parts)
    if len(parts) > 1:
        detections, pieces = merge_with_masks(
            detections,
            np.concatenate(views),
            np.concatenate(cuts),
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
