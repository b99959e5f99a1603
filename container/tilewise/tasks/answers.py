"""What an endpoint answers. Without torch: a server answers /ping before that is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Answer = Callable[[Any, bool], dict[str, Any]]
"""The content of an answer, as plain JSON types.

It takes what a model says of an image, and whether the answer is to be as in the annotations.
"""


def answer_of(model_dir: Path) -> Answer:
    """The answer of the model in a folder, by its task; it is read when the first answer is asked for."""

    @cache
    def task() -> Any:
        # Imported here: it takes torch with it, which is there by the time that a model has said something.
        from tilewise.inference.artifact import read_task
        from tilewise.registry import find_task

        return find_task(read_task(model_dir))()

    def answer(prediction: Any, as_annotation: bool) -> dict[str, Any]:  # noqa: FBT001  # an Answer
        content: dict[str, Any] = task().answer(prediction, as_annotation=as_annotation)
        return content

    return answer
