"""The detector of a job, fitted to its data."""

from __future__ import annotations

import logging

from tilewise.data.channel import DataSet
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.build import anchor_sizes_for
from tilewise.models.spec import DetectorSpec
from tilewise.tiling.spec import WHOLE_IMAGE
from tilewise.training.job.choose_tiling import choose_tiling, object_sizes
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)


def fit_spec(hp: Hyperparameters, data: DataSet, initial: DetectorSpec | None = None) -> DetectorSpec:
    """A job's detector: its scaling and views, anchors fitted to the training boxes, a cap that suffices.

    Where it goes on from an ``initial`` one, it keeps its anchors.
    """
    scaling = (
        Scaling(square=hp.image_size)
        if hp.image_size
        else Scaling(min_size=hp.min_size, max_size=hp.max_size)
    )
    tiling = choose_tiling(hp, data.train.sample, scaling)
    training_tiling = tiling if hp.training_views != "whole" else WHOLE_IMAGE
    sizes = object_sizes(data.train.sample, scaling, training_tiling)
    anchors = anchor_sizes_for(hp.model_name, scaling, sizes, stride_4_level=hp.stride_4_level)
    if initial:
        anchors = initial.anchor_sizes
        log.info("the anchors are those of the model in channel model: %s", anchors or "the published ones")
    elif anchors:
        unit = "of the image's side" if scaling.square else "pixels"
        log.info("anchors fitted to the objects: %s %s", ", ".join(f"{size:g}" for size in anchors), unit)
    cap = hp.box_detections_per_image
    most_objects = int(data.train.sample.object_counts.max(initial=0))
    if 2 * most_objects > cap and not {"box_detections_per_image", "nms_topk"} & set(hp.given):
        cap = 2 * most_objects
        log.info("an image has up to %d objects: at most %d detections an image are kept", most_objects, cap)
    return DetectorSpec(
        name=hp.model_name,
        num_classes=len(data.classes),
        scaling=scaling,
        anchor_sizes=anchors,
        score_threshold=hp.box_score_threshold,
        nms_iou_threshold=hp.nms_iou_threshold,
        detections_per_view=cap,
        tiling=tiling,
        stride_4_level=hp.stride_4_level,
    )
