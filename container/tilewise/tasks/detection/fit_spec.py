"""The detector of a job, fitted to its data."""

from __future__ import annotations

import logging
from dataclasses import replace

from tilewise.data.channel import DataSet
from tilewise.data.sizes_in_views import sizes_in_views
from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.table import ROWS
from tilewise.models.build import anchor_sizes_for, published_anchor_sizes
from tilewise.models.spec import DetectorSpec
from tilewise.tasks.detection.choose_tiling import choose_tiling
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)

YOLOV5_DETECTIONS = 300
"""So many of a view YOLOv5 keeps, whatever its job says."""

SIDE_BY_SIDE = 16
"""Pixels of a view from one object to the next, where they stand as close as a model can tell them apart."""

_OF_AN_IMAGE = {"box_detections_per_image", "box_detections_per_img", "nms_topk"}


def fit_spec(hp: Hyperparameters, data: DataSet, initial: DetectorSpec | None = None) -> DetectorSpec:
    """A job's detector: its scaling and views, anchors fitted to the training boxes, a cap that suffices.

    Where it goes on from an ``initial`` one, it keeps its anchors, if it has as many feature maps.
    """
    scaling = (
        Scaling(square=hp.image_size)
        if hp.image_size
        else Scaling(min_size=hp.min_size, max_size=hp.max_size)
    )
    tiling = choose_tiling(hp, data.train.sample, scaling)
    training_tiling = tiling if hp.training_views != "whole" else WHOLE_IMAGE
    sizes = sizes_in_views(data.train.sample, scaling, training_tiling)
    anchors = anchor_sizes_for(hp.model_name, scaling, sizes, stride_4_level=hp.stride_4_level)
    if initial and _feature_maps(initial) == _feature_maps(replace(initial, scaling=scaling)):
        anchors = initial.anchor_sizes
        log.info("the anchors are those of the model in channel model: %s", anchors or "the published ones")
    elif anchors:
        unit = "of the image's side" if scaling.square else "pixels"
        log.info("anchors fitted to the objects: %s %s", ", ".join(f"{size:g}" for size in anchors), unit)
    per_view, per_image = _caps(hp, int(data.train.sample.object_counts.max(initial=0)), scaling, tiling)
    return DetectorSpec(
        name=hp.model_name,
        num_classes=len(data.classes),
        scaling=scaling,
        anchor_sizes=anchors,
        score_threshold=hp.box_score_threshold,
        nms_iou_threshold=hp.nms_iou_threshold,
        detections_per_view=per_view,
        tiling=tiling,
        stride_4_level=hp.stride_4_level,
        detections_per_image=per_image,
        rendering=hp.rendering,
        object_size=round(float(sizes.mean()), 4) if hp.assignment == "nwd" and len(sizes) else None,
    )


def _feature_maps(spec: DetectorSpec) -> int | None:
    """How many there are, where the size of the image may decide."""
    sizes = published_anchor_sizes(spec.name, spec.scaling, stride_4_level=spec.stride_4_level)
    return len(sizes) if sizes else None


def _caps(hp: Hyperparameters, most_objects: int, scaling: Scaling, tiling: Tiling) -> tuple[int, int | None]:
    """How many detections of a view and of an image are kept at most.

    A view of several keeps some that its neighbours will remove: as many as if the job gave no limit. Of a
    scene with more objects than a view can show none keeps more than twice what it can, unless the job does.
    """
    width, height = scaling.largest
    shown = 2 * width * height // SIDE_BY_SIDE**2
    default = ROWS["box_detections_per_image"].default(hp.dialect)
    if hp.azure_yolov5:
        if hp.box_detections_per_image != default:
            log.warning(
                "box_detections_per_image=%d has no effect on model_name=yolov5, as in Azure AutoML: for a "
                "limit, name the model %s",
                hp.box_detections_per_image,
                hp.model_name,
            )
        return max(YOLOV5_DETECTIONS, min(2 * most_objects, shown)), None
    cap = hp.box_detections_per_image
    if 2 * most_objects > cap and not _OF_AN_IMAGE & set(hp.given):
        cap = 2 * most_objects
        log.info("an image has up to %d objects: at most %d detections an image are kept", most_objects, cap)
    per_view = cap if tiling == WHOLE_IMAGE else max(cap, default)
    return min(per_view, max(shown, default, hp.box_detections_per_image)), cap
