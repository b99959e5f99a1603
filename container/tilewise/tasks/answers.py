"""What an endpoint answers. Without torch: a server answers /ping before that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tilewise.registry import find_task, task_names

if TYPE_CHECKING:
    from PIL.Image import Image

    from tilewise.arrays import Array

Threshold = float | Sequence[float]
"""The lowest score of what is answered: one for all classes, or one for each label."""


@dataclass(frozen=True)
class Answered:
    """One image of a request, and what the model says of it.

    Attributes:
        prediction: the task's own, with the width and height of the upright image in pixels.
        classes: names by label.
        name: of the image, for the forms that have one.
        number: of the image in its request, from 1.
        explanation: what speaks for it, where that is asked for: plain JSON types, by their names in an
            answer.

    """

    prediction: Any
    classes: tuple[str, ...] = ()
    name: str = ""
    number: int = 1
    explanation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Pixels of the upright image."""
        width: int = self.prediction.width
        return width

    @property
    def height(self) -> int:
        """Pixels of the upright image."""
        height: int = self.prediction.height
        return height

    def class_name(self, label: int) -> str:
        """The label's name; the number where there is none."""
        return self.classes[label] if label < len(self.classes) else str(label)

    @property
    def file_name(self) -> str:
        """The image's name, or one from its number."""
        return self.name or f"image-{self.number}"


@dataclass(frozen=True)
class MaskPictures:
    """What a request chooses of masks as pictures.

    Attributes:
        wanted: whether the answer holds them.
        image_type: of each, ``jpg``, ``png`` or ``bmp``; "" for the model's own.

    """

    wanted: bool
    image_type: str = ""


@dataclass(frozen=True)
class AnswerForm:
    """A form of an answer as text, beside the task's own JSON.

    Attributes:
        media_type: of the answer.
        render: a whole answer about all images of a request.
        one_image: whether it cannot hold more than one.
        with_pictures: a prediction that is shown with masks as pictures, or without, as a request chooses;
            None where the form has no place for them.

    """

    media_type: str
    render: Callable[[Sequence[Answered]], str]
    one_image: bool = False
    with_pictures: Callable[[Any, MaskPictures], Any] | None = None


@runtime_checkable
class Explains(Protocol):
    """A task that can say which pixels of an image speak for its answer."""

    def explanation(
        self, folder: Path, asked: Mapping[str, Any]
    ) -> Callable[[Array, Callable[[], None]], dict[str, Any]]:
        """What explains images to a request.

        Args:
            folder: of the model.
            asked: Azure's ``xai_parameters``.

        Returns:
            Of an image's pixels, (3, H, W) uint8, what :attr:`Answered.explanation` is to have; it calls the
            second argument as it gets on.

        Raises:
            UserError: it cannot be so explained.

        """


class Answers(Protocol):
    """What a task answers about images, and in which forms."""

    @property
    def forms(self) -> Mapping[str, AnswerForm]:
        """The forms beside its own JSON, by the name that ``format`` has."""

    @property
    def schema(self) -> Mapping[str, Any]:
        """Of its own JSON about one image: a JSON Schema, for ``/openapi.json``."""

    def content(self, answered: Answered, *, as_annotation: bool) -> Any:
        """Its own JSON about one image, as plain JSON types; ``as_annotation``: as in its annotations."""

    def choose(
        self, prediction: Any, *, threshold: Threshold, labels: Container[int] | None, most: int | None
    ) -> Any:
        """Some of what a model says of an image.

        Args:
            prediction: the task's.
            threshold: the lowest score.
            labels: the classes; None for all.
            most: how many at most, the best ones; None for all.

        """

    def draw(self, pixels: Array, answered: Answered) -> Image:
        """The image, (3, H, W) uint8, with what the model says drawn on it."""


def answers_of(task: str) -> Answers:
    """What the task of that name answers.

    Raises:
        UserError: there is no such task.

    """
    answers: Answers = find_task(task).answers
    return answers


def all_forms() -> dict[str, AnswerForm]:
    """The forms of all tasks, by name."""
    return {name: form for task in task_names() for name, form in answers_of(task).forms.items()}
