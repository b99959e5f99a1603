"""What differs between the tasks that a model can be trained for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:  # an endpoint needs little of it
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from tilewise.arrays import Float32
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
    from tilewise.tasks.answers import Answers
    from tilewise.views.rendering import Rendering


class Scored(Protocol):
    """Annotated images, and what a model said of each."""

    @property
    def records(self) -> Records:
        """The images."""

    @classmethod
    def interleaved(cls, parts: Sequence[Self]) -> Self:
        """The images of several processes, of which each one takes every n-th, in their order."""


Gather = Callable[[Any], Any]
"""Puts together the :class:`Scored` of several processes, or None; see :meth:`Task.evaluate`."""


class Details(Protocol):
    """What a task has to say of a model beyond its metrics."""

    def to_json(self) -> dict[str, Any]:
        """The ``details`` of ``metrics.json``."""

    def recommended(self) -> dict[str, Any]:
        """What ``model.json`` recommends to those who use the model; empty for nothing.

        ``recommended_threshold``: the score from which on what it says is worth showing, and
        ``recommended_thresholds``: the same by class name.
        """


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes:
        metrics: the task's figures, as plain JSON types.
        scored: what the model said, and the ground truth.

    """

    metrics: dict[str, Any]
    scored: Scored


class Task(Protocol):
    """A kind of answer about an image. Loop, checkpoints, distribution and outputs know this, and no task.

    A task is a class that :func:`tilewise.registry.register_task` names. Without arguments it makes the one
    that an endpoint needs, which builds models and answers; :meth:`of_job` the one that trains.

    Attributes:
        name: as the hyperparameter ``task`` and ``model.json`` have it.
        target_fields: the optional fields of the ground truth that it learns from, beside boxes and labels.
        answers: what an endpoint answers, and in which forms.

    """

    name: ClassVar[str]
    target_fields: ClassVar[frozenset[str]]
    answers: ClassVar[Answers]

    @classmethod
    def of_job(cls, hp: Hyperparameters) -> Self:
        """The task with a job's choices, such as its metrics."""

    # the model

    def fit_spec(self, hp: Hyperparameters, data: DataSet, initial: Any) -> Any:
        """A job's model, fitted to its data: a :class:`~tilewise.models.spec.ModelSpec`.

        Args:
            hp: the job's.
            data: its data.
            initial: the spec of the model that it goes on from, None where there is none.

        """

    def spec_from_json(self, content: dict[str, Any]) -> Any:
        """The inverse of the spec's ``to_json``."""

    def differences(self, spec: Any, initial: Any) -> list[str]:
        """Why a job's model, of ``spec``, cannot take the weights of the ``initial`` one; empty if it can.

        Such as ``model_name X, but that model Y``.
        """

    def build(self, spec: Any) -> VisionModel:
        """The model that ``spec`` describes, freshly initialised, on the CPU, in training mode."""

    def merger(self, spec: Any) -> Merge:
        """Who makes one answer of what the model says of an image's views."""

    # training

    def loss_figures(self, means: Mapping[str, float], spec: Any) -> dict[str, float]:
        """The figures that the log has of the mean losses of an epoch of a model, by their name there."""

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[Tensor]:
        """Targets such as a view of so many pixels may have, to measure what a step needs.

        Args:
            objects: so many.
            size: (width, height).
            generator: of the random numbers.

        """

    def false_positives(self, prediction: Any, record: Record) -> Float32:
        """(M, 4) boxes of what a model took for objects and are none, the most confident first."""

    # evaluation

    def check_validation(self, records: Records) -> None:
        """Look at the ground truth before training.

        Raises:
            UserError: what is to choose the best epoch is not defined on it.

        """

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        *,
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

    def validation_pictures(
        self, scored: Any, classes: tuple[str, ...], rendering: Rendering
    ) -> dict[str, Image]:
        """Some images with what the model said of them, for TensorBoard, by their tag there; always the same.

        Args:
            scored: a validation's.
            classes: names by label.
            rendering: how pixels become colours.

        """

    # what a job leaves

    def channel_statistics(
        self, records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, whole: bool
    ) -> dict[str, Any]:
        """The figures of a channel, for ``metrics.json`` and the report.

        Args:
            records: those that can be used.
            issues: what became of the others.
            classes: names by label.
            whole: whether these are all its records; of a pipe only the first ones may be known.

        """

    def analyse(self, scored: Any, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Details:
        """All that can be said of what a model said; ``metrics`` are its figures."""

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        """The report of a training as one HTML page; without images when the job is to stop."""
