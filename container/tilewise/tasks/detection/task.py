from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tilewise.data.annotations import ChannelIssues
from tilewise.data.records import Record
from tilewise.evaluation.analysis import Analysis, Scored, analyse
from tilewise.evaluation.evaluate import evaluate
from tilewise.inference.predictor import Prediction, Predictor
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.stop import StopToken
from tilewise.tasks.answers import answer_detection
from tilewise.tasks.task import Evaluation, Gather

if TYPE_CHECKING:
    from tilewise.evaluation.report import ReportContent

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class DetectionTask:
    """Object detection: a box, a class and a score for each object.

    Attributes:
        metric: whose mAP chooses the best epoch: COCO's, else VOC's.
        iou_threshold: of the VOC metric.

    """

    metric: Literal["none", "coco", "voc", "coco_voc"] = "voc"
    iou_threshold: float = 0.5

    name: ClassVar[str] = "detection"
    target_fields: ClassVar[frozenset[str]] = frozenset()
    score_name: ClassVar[str] = "mAP"

    def build(self, spec: DetectorSpec) -> Detector:
        """See :func:`tilewise.models.build.build_detector`."""
        return build_detector(spec)

    def loss_figures(self, means: Mapping[str, float], spec: DetectorSpec) -> dict[str, float]:
        """The built-in algorithm's two: ``cross_entropy`` of what there is, ``smooth_l1`` of where it is."""
        asked = family_of(spec.name).classification_losses
        classification_loss = sum(value for name, value in means.items() if name in asked)
        box_loss = sum(means.values()) - classification_loss
        return {"cross_entropy": classification_loss, "smooth_l1": box_loss}

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        """The figures of COCO and VOC; see :func:`tilewise.evaluation.evaluate.evaluate`."""
        scored: list[Scored] = []
        metrics = evaluate(predictor, records, issues, self.iou_threshold, stop, scored.append, gather)
        return None if metrics is None else Evaluation(metrics, scored[0])

    def score(self, metrics: Mapping[str, Any]) -> float:
        """COCO's mAP if the job chose it, else VOC's."""
        return float(metrics["AP"] or 0.0) if self.metric == "coco" else self.test_score(metrics)

    def test_score(self, metrics: Mapping[str, Any]) -> float:
        """VOC's mAP."""
        return float(metrics["VOC"]["mAP"])

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        """The mean figures, and each class's."""
        figures = ", ".join(f"{name} {_figure(metrics[name])}" for name in FIGURES)
        by_class = ", ".join(f"{name} {_figure(value)}" for name, value in metrics["AP_class"].items())
        return [
            f"{channel}: {figures}, VOC mAP {metrics['VOC']['mAP']:.4f}",
            f"{channel} AP by class: {by_class}",
        ]

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The mean figures, and each class's, as far as they are defined."""
        scalars = {f"validation/{name}": metrics.get(name) for name in (*FIGURES, "AR")}
        scalars["validation/VOC_mAP"] = metrics.get("VOC", {}).get("mAP")
        for name, value in metrics.get("AP_class", {}).items():
            scalars[f"validation_AP_of/{name}"] = value
        return {name: value for name, value in scalars.items() if value is not None}

    def analyse(self, scored: Scored, classes: tuple[str, ...], *, sizes: bool) -> Analysis:
        """See :func:`tilewise.evaluation.analysis.analyse`."""
        return analyse(scored, classes, sizes=sizes)

    def answer(self, prediction: Prediction, *, as_annotation: bool) -> dict[str, Any]:
        """See :func:`tilewise.tasks.answers.answer_detection`."""
        return answer_detection(prediction, as_annotation=as_annotation)

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        """See :func:`tilewise.evaluation.report.report_page`."""
        # Imported here: a job that fails early should not have to wait for it.
        from tilewise.evaluation.report import report_page

        return report_page(content, pictures=not stop.requested, stop=stop)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
