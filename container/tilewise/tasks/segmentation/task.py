from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from tilewise.errors import UserError
from tilewise.masks import MASKS
from tilewise.models.spec import DetectorSpec, SegmenterSpec
from tilewise.tasks.answers import Answers
from tilewise.tasks.detection.task import DetectionTask
from tilewise.tasks.segmentation.answers import SegmentationAnswers
from tilewise.tasks.segmentation.prediction import merge_segmented

# What an endpoint does not need is imported where it is used: it would start later by it.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tilewise.arrays import Float64
    from tilewise.data.channel import DataSet
    from tilewise.data.records import Records
    from tilewise.evaluation.analysis import Analysis, Scored
    from tilewise.hyperparameters import Hyperparameters
    from tilewise.inference.batching import Merge
    from tilewise.targets import Targets


@dataclass(frozen=True)
class SegmentationTask(DetectionTask):
    """Instance segmentation: object detection with a mask for each object, which its figures are of."""

    name: ClassVar[str] = "instance_segmentation"
    target_fields: ClassVar[frozenset[str]] = frozenset({MASKS})
    answers: ClassVar[Answers] = SegmentationAnswers()

    def fit_spec(self, hp: Hyperparameters, data: DataSet, initial: DetectorSpec | None) -> SegmenterSpec:
        """As a detector's, with the job's way to show masks.

        Raises:
            UserError: no object of the training data has a mask.

        """
        from tilewise.evaluation.overlap import on_masks

        if not on_masks(data.train.sample):
            raise UserError(
                "channel train: no object has a mask, and task=instance_segmentation learns from masks: give "
                "COCO's segmentation, Azure's polygon, VOC's instance PNGs or YOLO's polygons, or train with "
                "task=detection"
            )
        spec = super().fit_spec(hp, data, initial)
        own = {name: getattr(spec, name) for name in asdict(spec)}
        return SegmenterSpec(
            **own,
            mask_pixel_score_threshold=hp.mask_pixel_score_threshold,
            max_number_of_polygon_points=hp.max_number_of_polygon_points,
            export_as_image=hp.export_as_image,
            image_type=hp.image_type,
        )

    def spec_from_json(self, content: dict[str, Any]) -> SegmenterSpec:
        """See :class:`~tilewise.models.spec.SegmenterSpec`."""
        return SegmenterSpec.from_json(content)

    def merger(self, spec: DetectorSpec) -> Merge:
        """See :func:`tilewise.tasks.segmentation.prediction.merge_segmented`."""
        assert isinstance(spec, SegmenterSpec)
        return partial(merge_segmented, spec=spec, limit=spec.detections_per_image)

    def loss_figures(self, means: Mapping[str, float], spec: DetectorSpec) -> dict[str, float]:
        """A detector's two, and ``mask_loss``."""
        others = {name: value for name, value in means.items() if name != "loss_mask"}
        return {**super().loss_figures(others, spec), "mask_loss": means.get("loss_mask", 0.0)}

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[Tensor]:
        """As many small boxes as there may be, each with a mask of all of it."""
        from dataclasses import replace

        import torch

        from tilewise.bitmaps import Bitmaps

        targets = super().synthetic_targets(objects, size, generator)
        values = torch.full((len(targets), 28, 28), 255, dtype=torch.uint8)
        known = torch.ones(len(targets), dtype=torch.bool)
        return replace(targets, fields={MASKS: Bitmaps(values, targets.boxes, known)})

    def check_validation(self, records: Records) -> None:
        """Refuse validation data without a mask, and a choice by objects of a size of which there are none.

        Sizes are those of the masks.
        """
        from tilewise.evaluation.overlap import on_masks

        if not on_masks(records):
            raise UserError(
                "channel validation: no object has a mask, so that no figure of masks can be computed: give "
                "masks, or validation_metric_type=none"
            )
        super().check_validation(records)

    def _areas(self, records: Records) -> Float64:
        from tilewise.evaluation.coco import mask_areas
        from tilewise.evaluation.evaluate import records_of_masks

        areas: Float64 = mask_areas(records)[~records_of_masks(records).targets.ignored]
        return areas

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Those of a detector, of masks, and before them ``box_mAP``, that of boxes."""
        return {"box_mAP": _box_map(metrics, self.metric), **super().scores(metrics)}

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        """The mean figures of masks, each class's, and the mean figures of boxes."""
        from tilewise.evaluation.coco import FIGURES

        lines = super().describe(channel, metrics)
        if box := metrics.get("box"):
            figures = ", ".join(
                f"{name} {'none' if box[name] is None else format(box[name], '.4f')}" for name in FIGURES
            )
            lines.append(f"{channel} of boxes: {figures}, VOC mAP {box['VOC_mAP']:.4f}")
        return lines

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Those of a detector, of masks, and those of boxes."""
        box = {f"validation_box/{name}": value for name, value in metrics.get("box", {}).items()}
        return {
            **super().scalars(metrics),
            **{name: value for name, value in box.items() if value is not None},
        }

    def analyse(self, scored: Scored, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Analysis:
        """See :func:`tilewise.evaluation.analysis.analyse`; objects without a mask are ignored."""
        from dataclasses import replace

        from tilewise.evaluation.analysis import analyse
        from tilewise.evaluation.evaluate import records_of_masks
        from tilewise.evaluation.overlap import on_masks

        if on_masks(scored.records):
            scored = replace(scored, records=records_of_masks(scored.records))
        return analyse(scored, classes, metrics)


def _box_map(metrics: Mapping[str, Any], kind: str) -> float:
    """The mAP of boxes, of the kind that the job chose."""
    box = metrics.get("box", {})
    return float(box.get("AP" if kind == "coco" else "VOC_mAP") or 0.0)
