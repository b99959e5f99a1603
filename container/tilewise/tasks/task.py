"""What differs between the tasks that a model can be trained for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tilewise.data.annotations import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Analysis, Scored
from tilewise.inference.predictor import Prediction, Predictor
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.stop import StopToken

if TYPE_CHECKING:
    from tilewise.evaluation.report import ReportContent

Gather = Callable[[Scored | None], Scored | None]
"""Puts together what several processes have found; see :func:`tilewise.evaluation.evaluate.evaluate`."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes:
        metrics: the task's figures, as plain JSON types.
        scored: what the model found, and the ground truth.

    """

    metrics: dict[str, Any]
    scored: Scored


class Task(Protocol):
    """A kind of answer about an image. Loop, checkpoints, distribution and outputs know this, and no task.

    Attributes:
        name: as the hyperparameter ``task`` has it.
        target_fields: the optional fields of the ground truth that it learns from, beside boxes and labels.

    """

    name: ClassVar[str]
    target_fields: ClassVar[frozenset[str]]

    def build(self, spec: DetectorSpec) -> Detector:
        """The model that ``spec`` describes, freshly initialised, on the CPU, in training mode."""

    def loss_figures(self, means: Mapping[str, float], spec: DetectorSpec) -> dict[str, float]:
        """The figures that the log has of the mean losses of an epoch of a model, by their name there."""

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        """Predict every record and compare with its ground truth.

        Args:
            predictor: takes the path that the endpoint takes.
            records: the ground truth; each is asked for once.
            issues: damaged images are noted there and left out.
            stop: looked at after each image.
            gather: puts together what several processes have found.

        Returns:
            None when it was stopped, or ``gather`` returned None.

        Raises:
            UserError: too many images are damaged.

        """

    def check_validation(self, records: Records) -> None:
        """Look at the ground truth before training.

        Raises:
            UserError: what is to choose the best epoch is not defined on it.

        """

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """What metric definitions read of a validation, by its name in the log.

        The last one chooses the best epoch; the higher, the better.
        """

    def test_scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The same of a test channel."""

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        """All figures, as the lines that the log has of them."""

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a validation for TensorBoard, by their tag there."""

    def analyse(self, scored: Scored, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Analysis:
        """All that can be said of what a model found; ``metrics`` are its figures."""

    def answer(self, prediction: Prediction, *, as_annotation: bool) -> dict[str, Any]:
        """What an endpoint answers for an image; see :data:`tilewise.tasks.answers.Answer`."""

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        """The report of a training as one HTML page; without images when the job is to stop."""
