"""Answers in the JSON forms of SageMaker's built-in Object Detection algorithm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from tilewise.errors import UserError

if TYPE_CHECKING:  # torch comes with it: the server answers /ping before that is loaded
    from tilewise.inference.predictor import Prediction

JSON = "application/json"
JSON_LINES = "application/jsonlines"
ACCEPTED = f"{JSON}, {JSON};annotation=1, {JSON_LINES}, {JSON_LINES};annotation=1"
_ANYTHING = ("*/*", "application/*")


class NotAcceptableError(UserError):
    """An Accept header asks only for forms that the server does not make."""


@dataclass(frozen=True)
class Form:
    """One form of the answer.

    Attributes:
        media_type: ``application/json``, or ``application/jsonlines`` for one line that a newline ends.
        annotation: whole pixels as in the training annotations, rather than fractions of the image.

    """

    media_type: str = JSON
    annotation: bool = False


DEFAULT_FORM = Form()


def choose_form(accept: str | None, default: Form) -> Form:
    """The form that an Accept header likes best; ``default`` where it leaves the choice open.

    Parameters other than ``annotation`` and ``q`` are ignored.

    Raises:
        NotAcceptableError: it names no form that the server makes.

    """
    # Werkzeug sorts by specificity, RFC 9110 12.5.1 by quality first. The sort is stable.
    wishes = sorted(parse_accept_header(accept, MIMEAccept), key=lambda wish: -wish[1])
    if not wishes:
        return default
    for value, quality in wishes:
        media_type, options = parse_options_header(value.lower())
        if quality <= 0:
            continue
        if media_type in _ANYTHING:
            return default
        if media_type in (JSON, JSON_LINES):
            return Form(media_type, annotation=options.get("annotation") == "1")
    raise NotAcceptableError(f"the Accept header names no form that this server makes: {ACCEPTED}")


def render(prediction: Prediction, form: Form) -> str:
    """The body of an answer.

    Follows the developer guide's "Object Detection Request and Response Formats": rows of
    ``[class, score, xmin, ymin, xmax, ymax]``, all floats, corners as fractions of the upright image's own
    size, best score first; or with ``annotation=1`` its size and integer ``left, top, width, height``.

    Raises:
        ValueError: a box or a score is not finite.

    """
    content = _annotations(prediction) if form.annotation else _rows(prediction)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text + "\n" if form.media_type == JSON_LINES else text


def _rows(prediction: Prediction) -> dict[str, Any]:
    width, height = prediction.width, prediction.height
    rows = []
    for (left, top, right, bottom), score, label in prediction.detections:
        corners = (left / width, top / height, right / width, bottom / height)
        rows.append([float(label), _short(score), *map(_short, corners)])
    return {"prediction": rows}


def _annotations(prediction: Prediction) -> dict[str, Any]:
    annotations = []
    for box, score, label in prediction.detections:
        left, top, right, bottom = map(round, box)
        annotations.append(
            {
                "class_id": label,
                "score": _short(score),
                "left": left,
                "top": top,
                "width": right - left,
                "height": bottom - top,
            }
        )
    size = {"width": prediction.width, "height": prediction.height, "depth": 3}
    return {"image_size": [size], "annotations": annotations}


def _short(value: float) -> float:
    """Without the digits that a float32 does not have: nine are enough to read the same float32 back."""
    return float(f"{value:.9g}")
