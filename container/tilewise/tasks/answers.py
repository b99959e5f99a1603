"""What an endpoint answers. Without torch: a server answers /ping before that is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tilewise.inference.description import ModelDescription
from tilewise.registry import find_task

Answer = Callable[[Any, bool], dict[str, Any]]
"""The content of an answer, as plain JSON types.

It takes what a model says of an image, and whether the answer is to be as in the annotations.
"""


def answer_of(model_dir: Path) -> Answer:
    """The answer of the model in a folder, by its task; it is read when the first answer is asked for."""

    @cache
    def task() -> Any:
        return find_task(ModelDescription.read(model_dir).task)()

    def answer(prediction: Any, as_annotation: bool) -> dict[str, Any]:  # noqa: FBT001  # an Answer
        content: dict[str, Any] = task().answer(prediction, as_annotation=as_annotation)
        return content

    return answer
