"""The forms of an answer, and which of them an Accept header wants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from tilewise.errors import UserError
from tilewise.tasks.answers import Answer
from tilewise.tasks.detection_forms import FORMS, Answered

JSON = "application/json"
JSON_LINES = "application/jsonlines"
PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG"}
"""Media type -> what Pillow calls the format."""
_SAME = {
    "application/x-ndjson": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "text/xml": "application/xml",
}
_ANYTHING = ("*/*", "application/*")
ACCEPTED = (
    f"{JSON} or {JSON_LINES}, also with ;annotation=1, {JSON};format= one of {', '.join(FORMS)}, "
    f"or {', '.join(PICTURES)}"
)


def error_body(reason: str, retry_after_s: int | None = None) -> str:
    """The body of an error, as JSON: what is wrong, and after how many seconds to try again."""
    content: dict[str, object] = {"error": reason}
    if retry_after_s is not None:
        content["retry_after"] = retry_after_s
    return json.dumps(content)


class NotAcceptableError(UserError):
    """An Accept header asks only for forms that the server does not make."""


@dataclass(frozen=True)
class Form:
    """One form of the answer.

    Attributes:
        media_type: ``application/json``, ``application/jsonlines`` for lines that a newline ends, or another.
        annotation: whole pixels as in the training annotations, rather than fractions of the image.
        name: of a form that is not the built-in algorithm's; "" for its own and for pictures.

    """

    media_type: str = JSON
    annotation: bool = False
    name: str = ""

    @property
    def is_picture(self) -> bool:
        """Whether the answer is the image, drawn."""
        return self.media_type in PICTURES


DEFAULT_FORM = Form()


def choose_form(accept: str | None, default: Form) -> Form:
    """The form that an Accept header likes best; ``default`` where it leaves the choice open.

    Parameters other than ``annotation``, ``format`` and ``q`` are ignored.

    Raises:
        NotAcceptableError: it names no form that the server makes.

    """
    # Werkzeug sorts by specificity, RFC 9110 12.5.1 by quality first. The sort is stable.
    wishes = sorted(parse_accept_header(accept, MIMEAccept), key=lambda wish: -wish[1])
    if not wishes:
        return default
    for value, quality in wishes:
        media_type, options = parse_options_header(value.lower())
        form = _form(_SAME.get(media_type, media_type), options, default) if quality > 0 else None
        if form is not None:
            return form
    raise NotAcceptableError(f"the Accept header names no form that this server makes: {ACCEPTED}")


def _form(media_type: str, options: dict[str, str], default: Form) -> Form | None:
    """One wish's form, None where it is not made."""
    named = options.get("format", "")
    if named:
        return Form(FORMS[named][0], name=named) if named in FORMS else None
    if media_type in _ANYTHING:
        return default
    if media_type in (JSON, JSON_LINES):
        return Form(media_type, annotation=options.get("annotation") == "1")
    if media_type in PICTURES:
        return Form(media_type)
    own = (name for name, (own_type, _) in FORMS.items() if own_type == media_type)
    return next((Form(media_type, name=name) for name in own), None)


def render(images: Sequence[Answered], form: Form, answer: Answer, *, as_list: bool = False) -> str:
    """The body of an answer, but for pictures.

    Args:
        images: those of the request, in its order.
        form: how.
        answer: the task's own content of an answer about one image.
        as_list: whether a JSON object holds them as its ``predictions``, also where there is but one.

    Raises:
        ValueError: a number is not finite, or the form holds one image only.

    """
    if form.name:
        if form.name == "yolo" and len(images) > 1:
            raise ValueError("YOLO's text holds one image")
        return FORMS[form.name][1](images)
    contents = [_content(answered, form, answer) for answered in images]
    if form.media_type == JSON_LINES:
        return "".join(f"{_compact(content)}\n" for content in contents)
    return _compact({"predictions": contents} if as_list else contents[0])


def _content(answered: Answered, form: Form, answer: Answer) -> dict[str, Any]:
    content = answer(answered.prediction, form.annotation)
    if form.annotation:
        names = enumerate(answered.classes)
        return content | {"categories": [{"class_id": label, "name": name} for label, name in names]}
    return content | {"classes": list(answered.classes)}


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
