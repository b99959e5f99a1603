from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.coco import FIGURES, coco_metrics
from tilewise.evaluation.overlap import on_masks
from tilewise.evaluation.predicting import predict_records
from tilewise.evaluation.slow import say_if_slow
from tilewise.evaluation.voc import VocMetric, voc_metrics
from tilewise.inference.predictor import Predictor
from tilewise.instances import Instances
from tilewise.masks import masks_in
from tilewise.stop import NEVER, StopToken


def evaluate(
    predictor: Predictor,
    records: Iterable[Record],
    issues: ChannelIssues,
    *,
    voc: VocMetric = VocMetric(),  # noqa: B008  # it is frozen
    stop: StopToken = NEVER,
    keep: Callable[[Scored], object] = lambda scored: None,
    gather: Callable[[Scored | None], Scored | None] = lambda scored: scored,
) -> dict[str, Any] | None:
    """Predict every record and compare with its ground truth.

    Args:
        predictor: takes the path that the endpoint takes.
        records: the ground truth; each is asked for once, and its image is not kept.
        issues: damaged images are noted there and left out.
        voc: how VOC's figures are computed.
        stop: looked at after each image.
        keep: gets the detections that the figures are of, with their ground truth.
        gather: puts together what several processes have found in their parts of the records; None for what
            was stopped, and where another process has the whole.

    Returns:
        See :func:`metrics`; None when it was stopped, or ``gather`` returned None.

    Raises:
        UserError: too many images are damaged.

    """
    with say_if_slow("looking at the images"):
        found = _find(predictor, records, issues, stop)
    with say_if_slow("gathering what the processes found"):
        scored = gather(found)
    if scored is None:
        return None
    keep(scored)
    return metrics(scored.records, scored.detections, predictor.classes, voc=voc)


def _find(
    predictor: Predictor, records: Iterable[Record], issues: ChannelIssues, stop: StopToken
) -> Scored | None:
    predicted = predict_records(predictor, records, issues, stop=stop)
    return Scored(predicted[0], [each.detections for each in predicted[1]]) if predicted else None


def metrics(
    records: Records,
    detections: list[Instances],
    classes: tuple[str, ...],
    *,
    voc: VocMetric = VocMetric(),  # noqa: B008  # it is frozen
) -> dict[str, Any]:
    """The figures of :func:`coco_metrics`, and ``VOC`` with those of :func:`voc_metrics` and their kind.

    Where objects have masks, all of these are of masks, and ``box`` has the :data:`FIGURES` of boxes, and as
    ``VOC_mAP`` VOC's. Objects without a mask are then ignored.
    """
    if on_masks(records):
        boxes = metrics(
            records.with_targets(replace(records.targets, fields={})),
            [replace(each, fields={}) for each in detections],
            classes,
            voc=voc,
        )
        box = {name: boxes[name] for name in FIGURES} | {"VOC_mAP": boxes["VOC"]["mAP"]}
        masks = _figures(records_of_masks(records), detections, classes, voc)
        return {**masks, "box": box}
    return _figures(records, detections, classes, voc)


def records_of_masks(records: Records) -> Records:
    """Records whose objects without a mask are ignored."""
    masks = masks_in(records.targets.fields)
    assert masks is not None
    return records.with_targets(replace(records.targets, ignored=records.targets.ignored | ~masks.known))


def _figures(
    records: Records, detections: list[Instances], classes: tuple[str, ...], voc: VocMetric
) -> dict[str, Any]:
    with say_if_slow("COCO's figures"):
        coco = coco_metrics(records, detections, classes)
    with say_if_slow("VOC's figures"):
        return {**coco, "VOC": {**voc_metrics(records, detections, classes, metric=voc), **asdict(voc)}}
