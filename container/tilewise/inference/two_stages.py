"""Two stages: one model finds objects, another one says of each object's crop what it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tilewise.arrays import Float32
from tilewise.data.crops import MARGIN, crop_around
from tilewise.data.decoding.decode import DecodedImage
from tilewise.errors import UserError
from tilewise.inference.description import DESCRIPTION, ModelDescription
from tilewise.inference.load import BackendName
from tilewise.inference.model_card import ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.registry import find_task
from tilewise.tiling.spec import AS_TRAINED, TileOptions

log = logging.getLogger(__name__)


@runtime_checkable
class FindsObjects(Protocol):
    """A task whose models can be the first stage."""

    def boxes(self, prediction: Any, score_threshold: float) -> tuple[Any, Float32]:
        """The objects from that score on: the prediction with these alone, and their (N, 4) boxes."""

    def relabelled(self, prediction: Any, class_scores: Float32) -> Any:
        """The objects as another model sees them, given (N, C): how sure it is of each class."""


@runtime_checkable
class ClassifiesCrops(Protocol):
    """A task whose models can be the second stage."""

    def class_scores(self, prediction: Any) -> Float32:
        """(C,) in 0..1: how sure the model is that the image shows each class."""


@dataclass(frozen=True)
class Stage:
    """What a detector's ``model.json`` says of the classifier of its crops, under ``classifier``.

    Attributes:
        model: the classifier's folder, relative to the detector's.
        margin: by this share of its sides an object's box is enlarged on each side.
        score_threshold: objects with a lower score are neither classified nor answered.

    """

    model: str
    margin: float = MARGIN
    score_threshold: float = 0.05

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Stage:
        """Read it.

        Raises:
            ValueError, TypeError: a value is wrong, missing or unknown.

        """
        stage = Stage(**content)
        if not stage.model or not 0 <= stage.margin <= 10 or not 0 <= stage.score_threshold <= 1:
            raise ValueError(
                "classifier: model must name a folder, margin lie in 0..10, score_threshold in 0..1"
            )
        return stage


def load_predictor(
    folder: Path | str, options: TileOptions = AS_TRAINED, *, backend: BackendName = "auto"
) -> Predictor:
    """Load the model in a folder, with the classifier of its crops where its ``model.json`` names one.

    Args:
        folder: what a training job left.
        options: tiles in place of the model's own.
        backend: what runs each model; see :func:`tilewise.inference.load.load_backend`.

    Raises:
        UserError: a folder holds no model that can be used, or the tasks of two do not go together.

    """
    detector = Predictor.load(folder, options, backend=backend)
    description = ModelDescription.read(Path(folder))
    if description.classifier is None:
        ModelCard.require(description.folder)
        return detector
    folder = description.folder
    where = folder / DESCRIPTION
    try:
        stage = Stage.from_json(description.classifier)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    classifier_folder = folder / stage.model
    finds = find_task(description.task)()
    classifies = find_task(ModelDescription.read(classifier_folder).task)()
    if not isinstance(finds, FindsObjects):
        raise UserError(f"{where} names a classifier, but the task {finds.name} finds no objects to classify")
    if not isinstance(classifies, ClassifiesCrops):
        raise UserError(
            f"{where} names a classifier, but the model in {classifier_folder} is for the task "
            f"{classifies.name}, which does not classify crops"
        )
    log.info("the objects are classified by the model in %s", classifier_folder)
    classifier = Predictor.load(classifier_folder, backend=backend)
    return TwoStagePredictor(detector, classifier, finds=finds, classifies=classifies, stage=stage)


class TwoStagePredictor(Predictor):
    """A detector and a classifier as one model, with the classifier's classes.

    Args:
        detector: finds objects.
        classifier: says what they are.
        finds: the detector's task.
        classifies: the classifier's task.
        stage: how crops are cut.

    """

    def __init__(
        self,
        detector: Predictor,
        classifier: Predictor,
        *,
        finds: FindsObjects,
        classifies: ClassifiesCrops,
        stage: Stage,
    ):
        super().__init__(detector.backend, detector.plan, classifier.classes, merge=detector.merge)
        self._classifier, self._finds, self._classifies, self._stage = classifier, finds, classifies, stage

    def seen_as(self, options: TileOptions) -> TwoStagePredictor:
        """As :meth:`tilewise.inference.predictor.Predictor.seen_as`: the detector's tiles."""
        return TwoStagePredictor(
            super().seen_as(options),
            self._classifier,
            finds=self._finds,
            classifies=self._classifies,
            stage=self._stage,
        )

    def watch(self, tell: Callable[[int, float], None]) -> None:
        """As :meth:`tilewise.inference.predictor.Predictor.watch`, of both stages."""
        super().watch(tell)
        self._classifier.watch(tell)

    def warm_up(self) -> None:
        """Both stages, also where the first finds nothing."""
        super().warm_up()
        self._classifier.warm_up()

    def _reduction(self, width: int, height: int) -> int:
        return 1  # crops want all the detail that there is

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Any]:
        """As :meth:`tilewise.inference.predictor.Predictor.predict_all`."""
        for image in images:
            (found,) = super().predict_all([image])
            objects, boxes = self._finds.boxes(found, self._stage.score_threshold)
            on_cpu = image.to(lambda pixels: pixels)
            crops = (
                DecodedImage.whole(np.moveaxis(crop_around(on_cpu, box, self._stage.margin), 2, 0))
                for box in boxes
            )
            said = self._classifier.predict_all(crops)
            scores = [self._classifies.class_scores(each) for each in said]
            class_scores = np.array(scores, np.float32).reshape(len(boxes), len(self.classes))
            yield self._finds.relabelled(objects, class_scores)
