from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tilewise.arrays import Array, Float32
from tilewise.errors import UserError
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.registry import family_of, load
from tilewise.registry.classifiers import ONE_LABEL, SEVERAL_LABELS
from tilewise.tasks.answers import Answered, Answers
from tilewise.tasks.classification.answers import ClassificationAnswers
from tilewise.tasks.classification.prediction import ClassScores, merger
from tilewise.tiling.spec import Tiling, TilingKind
from tilewise.views.view import CentreCrop

if TYPE_CHECKING:  # an endpoint needs little of it
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from tilewise.data.channel import DataSet
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.records import Record, Records
    from tilewise.evaluation.report_content import ReportContent
    from tilewise.hyperparameters import Hyperparameters
    from tilewise.inference.batching import Merge
    from tilewise.inference.predictor import Predictor
    from tilewise.models.detector import VisionModel
    from tilewise.stop import StopToken
    from tilewise.targets import Targets
    from tilewise.tasks.classification.analysis import Analysis, ScoredImages
    from tilewise.tasks.task import Evaluation, Gather
    from tilewise.views.rendering import Rendering

log = logging.getLogger(__name__)

RANKINGS = ("AUC_weighted", "average_precision_score_weighted")
"""Figures that may choose the best epoch, and of which a class needs images with it and without it."""
SHOWN = ("accuracy", "balanced_accuracy", "AUC_macro", "average_precision_score_macro", "f1_score_macro")
"""The figures of a line of the log, beside the loss; the others are in ``metrics.json``."""

PICTURES = 4
"""So many images of a validation are drawn."""


@dataclass(frozen=True)
class ClassificationTask:
    """Image classification: one of the classes for each image.

    Attributes:
        primary: the figure that chooses the best epoch.
        top_k: also count the images whose class is among so many likeliest ones.

    """

    primary: str = "accuracy"
    top_k: int | None = None

    name: ClassVar[str] = "classification"
    several: ClassVar[bool] = False
    target_fields: ClassVar[frozenset[str]] = frozenset({ONE_LABEL})
    answers: ClassVar[Answers] = ClassificationAnswers()

    @classmethod
    def of_job(cls, hp: Hyperparameters) -> Self:
        """With the job's choice of figures."""
        return cls(hp.primary_metric, hp.top_k)

    def fit_spec(self, hp: Hyperparameters, data: DataSet, initial: ClassifierSpec | None) -> ClassifierSpec:
        """The crops that the job says, and the weights of its classes."""
        from tilewise.data.image_labels import shown_classes

        assert hp.validation_crop_size and hp.validation_resize_size and hp.training_crop_size
        counts = shown_classes(data.train.sample, len(data.classes)).sum(axis=0)
        if len(data.classes) < 2 and not self.several:
            raise UserError(
                f"channel train has the class {data.classes[0]} only: give images of two classes or more"
            )
        absent = [name for name, count in zip(data.classes, counts.tolist(), strict=True) if not count]
        if absent and data.train.known_length:
            log.warning(
                "channel train has no image of the class%s %s: nothing is learnt of %s",
                "es" if len(absent) > 1 else "",
                ", ".join(absent),
                "them" if len(absent) > 1 else "it",
            )
        tiling = _tiling(hp)
        log.info("each image is seen as %s", tiling)
        return ClassifierSpec(
            name=hp.model_name,
            num_classes=len(data.classes),
            scaling=CentreCrop(square=hp.validation_crop_size, resized=hp.validation_resize_size),
            training_crop=hp.training_crop_size,
            several=self.several,
            class_weights=self._class_weights(hp.weighted_loss, counts, len(data.train.sample)),
            tiling=tiling,
            rendering=hp.rendering,
        )

    def _class_weights(self, how: int, counts: np.ndarray, images: int) -> tuple[float, ...] | None:
        """Images / (classes · images of the class), as scikit-learn balances; their root where ``how`` is 1.

        Of several: images without the class / images with it. A class without an image has the weight 1.
        """
        if not how:
            return None
        there = np.maximum(counts, 1)
        balanced = (images - counts) / there if self.several else images / (len(counts) * there)
        weights = np.where((counts > 0) & (balanced > 0), balanced, 1.0) ** (0.5 if how == 1 else 1.0)
        return tuple(float(f"{weight:.6g}") for weight in weights)

    def spec_from_json(self, content: dict[str, Any]) -> ClassifierSpec:
        """See :class:`~tilewise.models.classifier_spec.ClassifierSpec`."""
        return ClassifierSpec.from_json(content)

    def differences(self, spec: ClassifierSpec, initial: ClassifierSpec) -> list[str]:
        """Another architecture."""
        same = spec.name == initial.name
        return [] if same else [f"model_name {spec.name}, but that model {initial.name}"]

    def build(self, spec: ClassifierSpec) -> VisionModel:
        """See :func:`tilewise.models.classifier.build_classifier`."""
        model: VisionModel = load(family_of(spec.name).builder)(spec)
        return model

    def merger(self, spec: ClassifierSpec) -> Merge:
        """See :func:`tilewise.tasks.classification.prediction.merger`."""
        return merger(several=spec.several)

    def loss_figures(self, means: Mapping[str, float], spec: ClassifierSpec) -> dict[str, float]:
        """``cross_entropy``, and the ``accuracy`` on training views as they were seen."""
        return dict(means)

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[Tensor]:
        """One label, of all of the view."""
        import torch

        from tilewise.targets import Targets

        box = torch.tensor([[0, 0, *size]], dtype=torch.float32)
        return Targets(box, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))

    def false_positives(self, prediction: ClassScores, record: Record) -> Float32:
        """None: it looks for no objects."""
        return np.zeros((0, 4), np.float32)

    def check_validation(self, records: Records) -> None:
        """Refuse a choice by a figure of which nothing can be known."""
        from tilewise.data.image_labels import shown_classes
        from tilewise.tasks.classification.metrics import has_both

        labels = np.unique(records.targets.labels)
        if self.primary == "norm_macro_recall" and len(labels) < 2:
            raise UserError(
                f"primary_metric={self.primary}: the validation images are of one class, so it cannot choose "
                "the best epoch: choose accuracy, or validate on images of several classes"
            )
        if self.primary not in RANKINGS:
            return
        if not len(has_both(shown_classes(records, int(labels.max(initial=-1)) + 1))):
            raise UserError(
                f"primary_metric={self.primary}: of no class are there validation images with it and "
                "others without it, so it cannot choose the best epoch: choose accuracy, or validate on "
                "more images"
            )

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        *,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        """The figures of :mod:`tilewise.tasks.classification.metrics`."""
        from tilewise.evaluation.predicting import predict_records
        from tilewise.tasks.classification.analysis import ScoredImages
        from tilewise.tasks.task import Evaluation

        predicted = predict_records(predictor, records, issues, stop=stop)
        scored: ScoredImages | None = gather(ScoredImages(*predicted) if predicted else None)
        if scored is None:
            return None
        return Evaluation(self.figures(scored, predictor.classes), scored)

    def figures(self, scored: ScoredImages, classes: tuple[str, ...]) -> dict[str, Any]:
        """Those of :mod:`tilewise.tasks.classification.metrics`."""
        from tilewise.tasks.classification.metrics import figures_of

        truth = scored.truth(len(classes))
        return figures_of(truth, scored.scores(), several=self.several, top_k=self.top_k)

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """``accuracy``, and the figure that the job chose instead.

        Raises:
            UserError: that figure is not defined on the validation images.

        """
        names = dict.fromkeys(("accuracy", *(["top_k_accuracy"] if self.top_k else [])))
        names.pop(self.primary, None)
        names[self.primary] = None  # it chooses, and so stands last
        if metrics[self.primary] is None:
            raise UserError(
                f"primary_metric={self.primary} is not defined on the validation images, which have too few "
                "classes: choose accuracy, or validate on images of several classes"
            )
        return {name: float(metrics[name]) for name in names if metrics.get(name) is not None}

    def test_scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """``accuracy``, and the figure that the job chose, where it is defined."""
        names = dict.fromkeys(("accuracy", self.primary))
        return {name: float(metrics[name]) for name in names if metrics.get(name) is not None}

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        """The most telling figures."""
        names = (*(["iou"] if self.several else []), *SHOWN, "log_loss")
        figures = ", ".join(f"{name} {_figure(metrics[name])}" for name in names)
        return [f"{channel}: {figures}"]

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """All figures that are defined."""
        return {f"validation/{name}": value for name, value in metrics.items() if value is not None}

    def validation_pictures(
        self, scored: ScoredImages, classes: tuple[str, ...], rendering: Rendering
    ) -> dict[str, Image]:
        """The first few images whose files can be had, with what the model said."""
        from tilewise.evaluation.beside_truth import MAX_SIDE
        from tilewise.tasks.classification.pictures import small_picture

        pictures: dict[str, Image] = {}
        for record, prediction in zip(scored.records, scored.predictions, strict=True):
            if len(pictures) == PICTURES:
                break
            pixels = small_picture(record, MAX_SIDE, rendering)
            if pixels is not None:
                picture = self.answers.draw(pixels, Answered(prediction, classes))
                pictures[f"validation/{record.key}"] = picture
        return pictures

    def channel_statistics(
        self, records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, whole: bool
    ) -> dict[str, Any]:
        """Images, those without a class, those left out, and how many each class has."""
        from tilewise.data.image_labels import shown_classes

        counts = shown_classes(records, len(classes)).sum(axis=0).tolist()
        return {
            "images": len(records),
            "whole": whole,
            "without_class": int((records.object_counts == 0).sum()),
            "left_out_count": len(issues.left_out),
            "left_out": dict(list(issues.left_out.items())[:1000]),
            "classes": dict(zip(classes, counts, strict=True)),
        }

    def analyse(self, scored: ScoredImages, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Analysis:
        """See :class:`~tilewise.tasks.classification.analysis.Analysis`."""
        from tilewise.tasks.classification.analysis import Analysis

        return Analysis(scored, classes, scored.truth(len(classes)), scored.scores(), self.several)

    def class_scores(self, prediction: ClassScores) -> Float32:
        """See :class:`tilewise.inference.two_stages.ClassifiesCrops`."""
        return prediction.scores

    def explanation(
        self, folder: Path, asked: Mapping[str, Any]
    ) -> Callable[[Array, Callable[[], None]], dict[str, Any]]:
        """See :class:`tilewise.tasks.answers.Explains`."""
        from tilewise.tasks.classification.explanations import explanation

        return explanation(folder, asked)

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        """See :func:`tilewise.tasks.classification.report.report_page`."""
        from tilewise.tasks.classification.report import report_page

        return report_page(content, stop)


@dataclass(frozen=True)
class MultilabelTask(ClassificationTask):
    """The same where an image has any number of the classes."""

    primary: str = "iou"

    name: ClassVar[str] = "multilabel_classification"
    several: ClassVar[bool] = True
    target_fields: ClassVar[frozenset[str]] = frozenset({SEVERAL_LABELS})


def _tiling(hp: Hyperparameters) -> Tiling:
    """The views of an image, whose scores are pooled."""
    grid, size = hp.tile_grid_size, hp.tile_size
    assert grid != "auto"
    kind: TilingKind = "grid" if grid else "fixed" if size else "whole"
    return Tiling(kind, grid, size, overlap=hp.tile_overlap_ratio, merge="pool")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
