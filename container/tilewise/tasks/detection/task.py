from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from tilewise.errors import UserError
from tilewise.inference.detections import Prediction, merge_instances
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.tasks.answers import Answers
from tilewise.tasks.detection.answers import DetectionAnswers
from tilewise.tasks.task import Evaluation

# What an endpoint does not need is imported where it is used: it would start later by it.
if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from tilewise.arrays import Float32, Float64
    from tilewise.data.channel import DataSet
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.records import Record, Records
    from tilewise.evaluation.analysis import Analysis, Scored
    from tilewise.evaluation.report_content import ReportContent
    from tilewise.evaluation.voc import VocMetric
    from tilewise.hyperparameters import Hyperparameters
    from tilewise.inference.batching import Merge
    from tilewise.inference.predictor import Predictor
    from tilewise.models.box_learning import BoxLearning
    from tilewise.models.detector import Detector
    from tilewise.stop import StopToken
    from tilewise.targets import Targets
    from tilewise.tasks.task import Gather
    from tilewise.views.rendering import Rendering


@dataclass(frozen=True)
class DetectionTask:
    """Object detection: a box, a class and a score for each object.

    Attributes:
        metric: whose mAP is the job's: COCO's, else VOC's.
        voc: how VOC's is computed; None for the default.
        primary: the figure that chooses the best epoch, one of
            :data:`~tilewise.evaluation.coco.FIGURES`; None for the mAP.
        learning: what the job chooses of how boxes are learnt; None outside of a job.

    """

    metric: Literal["none", "coco", "voc", "coco_voc"] = "voc"
    voc: VocMetric | None = None
    primary: str | None = None
    learning: BoxLearning | None = None

    name: ClassVar[str] = "detection"
    target_fields: ClassVar[frozenset[str]] = frozenset()
    answers: ClassVar[Answers] = DetectionAnswers()

    @classmethod
    def of_job(cls, hp: Hyperparameters) -> Self:
        """With the job's choices of metrics, and of how boxes are learnt."""
        from tilewise.evaluation.voc import VocMetric

        voc = VocMetric(hp.validation_iou_threshold, "11" if hp.dialect == "builtin" else "all")
        primary = None if hp.primary_metric == "mean_average_precision" else hp.primary_metric
        from tilewise.models.box_learning import BoxLearning

        learning = BoxLearning(hp.small_object_loss_factor, hp.size_loss_exponent, hp.assignment)
        return cls(hp.validation_metric_type, voc, primary, learning)

    def fit_spec(self, hp: Hyperparameters, data: DataSet, initial: DetectorSpec | None) -> DetectorSpec:
        """See :func:`tilewise.tasks.detection.fit_spec.fit_spec`."""
        from tilewise.tasks.detection.fit_spec import fit_spec

        return fit_spec(hp, data, initial)

    def spec_from_json(self, content: dict[str, Any]) -> DetectorSpec:
        """See :class:`~tilewise.models.spec.DetectorSpec`."""
        return DetectorSpec.from_json(content)

    def differences(self, spec: DetectorSpec, initial: DetectorSpec) -> list[str]:
        """Another architecture."""
        differs = []
        if spec.name != initial.name:
            differs.append(f"model_name {spec.name}, but that model {initial.name}")
        if spec.stride_4_level != initial.stride_4_level:
            differs.append(
                f"stride_4_level {spec.stride_4_level:d}, but that model {initial.stride_4_level:d}"
            )
        return differs

    def build(self, spec: DetectorSpec) -> Detector:
        """See :func:`tilewise.models.build.build_detector`."""
        from tilewise.models.box_learning import SMALL
        from tilewise.models.build import build_detector

        detector = build_detector(spec)
        if self.learning:
            detector.learn_boxes(replace(self.learning, object_size=spec.object_size or SMALL))
        return detector

    def merger(self, spec: DetectorSpec) -> Merge:
        """See :func:`tilewise.inference.detections.merge_instances`."""
        return partial(merge_instances, limit=spec.detections_per_image)

    def loss_figures(self, means: Mapping[str, float], spec: DetectorSpec) -> dict[str, float]:
        """The built-in algorithm's two, ``cross_entropy`` of what there is and ``smooth_l1`` of where it is.

        ``distillation`` stands apart, where there is a teacher.
        """
        asked = family_of(spec.name).classification_losses
        apart = {name: value for name, value in means.items() if name == "distillation"}
        classification_loss = sum(value for name, value in means.items() if name in asked)
        box_loss = sum(means.values()) - classification_loss - sum(apart.values())
        return {"cross_entropy": classification_loss, "smooth_l1": box_loss, **apart}

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[Tensor]:
        """As many small boxes as there may be."""
        import torch

        from tilewise.targets import Targets

        limits = 0.8 * torch.tensor(size)
        corner = torch.rand(max(1, objects), 2, generator=generator) * limits
        boxes = torch.cat([corner, corner + 0.1 * limits], dim=1)
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        return Targets(boxes, labels, torch.zeros(len(boxes), dtype=torch.bool))

    def false_positives(self, prediction: Prediction, record: Record) -> Float32:
        """See :func:`tilewise.tasks.detection.false_positives.false_positives`."""
        from tilewise.tasks.detection.false_positives import false_positives

        return false_positives(prediction.detections, record)

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        *,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        """The figures of COCO and VOC; see :func:`tilewise.evaluation.evaluate.evaluate`."""
        from tilewise.evaluation.evaluate import evaluate
        from tilewise.evaluation.voc import VocMetric

        scored: list[Scored] = []
        metrics = evaluate(
            predictor,
            records,
            issues,
            voc=self.voc or VocMetric(),
            stop=stop,
            keep=scored.append,
            gather=gather,
        )
        return None if metrics is None else Evaluation(metrics, scored[0])

    def check_validation(self, records: Records) -> None:
        """Refuse a choice by objects of a size of which there are none."""
        from tilewise.evaluation.coco import SIZES

        size = (self.primary or "").partition("_")[2]
        if size:
            least, end = SIZES[size]
            areas = self._areas(records)
            if not ((areas >= least) & (areas <= end)).any():  # as COCO counts them
                raise self._undefined()

    def _areas(self, records: Records) -> Float64:
        """Of the objects that count, as their figures have them: in pixels of the image."""
        areas: Float64 = records.object_sizes[~records.targets.ignored] ** 2
        return areas

    def _undefined(self) -> UserError:
        return UserError(
            f"primary_metric={self.primary}: the validation images have no object of that size, so it cannot "
            "choose the best epoch: choose by another figure, or validate on images with such objects"
        )

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """``mAP``, COCO's if the job chose it, else VOC's, and the figure that the job chose instead.

        Raises:
            UserError: that figure is not defined on the validation images.

        """
        scores = {"mAP": float(metrics["AP"] or 0.0)} if self.metric == "coco" else self.test_scores(metrics)
        if self.primary:
            if metrics[self.primary] is None and metrics["AP"] is not None:
                raise self._undefined()
            scores[self.primary] = float(metrics[self.primary] or 0.0)
        return scores

    def test_scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """VOC's ``mAP``."""
        return {"mAP": float(metrics["VOC"]["mAP"])}

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        """The mean figures, and each class's."""
        from tilewise.evaluation.coco import FIGURES

        figures = ", ".join(f"{name} {_figure(metrics[name])}" for name in FIGURES)
        by_class = ", ".join(f"{name} {_figure(value)}" for name, value in metrics["AP_class"].items())
        return [
            f"{channel}: {figures}, VOC mAP {metrics['VOC']['mAP']:.4f}",
            f"{channel} AP by class: {by_class}",
        ]

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The mean figures, and each class's, as far as they are defined."""
        from tilewise.evaluation.coco import FIGURES

        scalars = {f"validation/{name}": metrics.get(name) for name in FIGURES}
        scalars["validation/VOC_mAP"] = metrics.get("VOC", {}).get("mAP")
        for name, value in metrics.get("AP_class", {}).items():
            scalars[f"validation_AP_of/{name}"] = value
        return {name: value for name, value in scalars.items() if value is not None}

    def validation_pictures(
        self, scored: Scored, classes: tuple[str, ...], rendering: Rendering
    ) -> dict[str, Image]:
        """See :func:`tilewise.evaluation.beside_truth.pictures_beside_truth`."""
        from tilewise.evaluation.beside_truth import pictures_beside_truth

        return pictures_beside_truth(scored, classes, rendering)

    def channel_statistics(
        self, records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, whole: bool
    ) -> dict[str, Any]:
        """See :func:`tilewise.data.statistics.channel_statistics`."""
        from tilewise.data.statistics import channel_statistics

        return channel_statistics(records, issues, classes, whole=whole)

    def analyse(self, scored: Scored, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Analysis:
        """See :func:`tilewise.evaluation.analysis.analyse`."""
        from tilewise.evaluation.analysis import analyse

        return analyse(scored, classes, metrics)

    def boxes(self, prediction: Prediction, score_threshold: float) -> tuple[Prediction, Float32]:
        """See :class:`tilewise.inference.two_stages.FindsObjects`."""
        found = prediction.detections
        kept = found.select(found.scores >= score_threshold)
        return replace(prediction, detections=kept), kept.boxes

    def relabelled(self, prediction: Prediction, class_scores: Float32) -> Prediction:
        """Each object's likeliest class; its score is that of the box times that of the class."""
        found = prediction.detections
        if not len(found):
            return prediction
        labels = class_scores.argmax(axis=1)
        scores = found.scores * class_scores[np.arange(len(found)), labels]
        best_first = np.argsort(-scores, kind="stable")
        relabelled = replace(found, scores=scores.astype(np.float32), labels=labels.astype(np.int64))
        return replace(prediction, detections=relabelled.select(best_first))

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        """See :func:`tilewise.evaluation.report.report_page`."""
        from tilewise.evaluation.report import report_page

        return report_page(content, pictures=not stop.requested, stop=stop)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
