"""Which form of an answer a request wants, and the answer in it. What forms there are is the tasks'."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from tilewise.errors import UserError
from tilewise.tasks.answers import Answered, AnswerForm, Answers

JSON = "application/json"
JSON_LINES = "application/jsonlines"
PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG"}
"""Media type -> what Pillow calls the format."""
PICTURE_NAMES = {"jpeg": "image/jpeg", "png": "image/png"}
_SAME = {
    "application/x-ndjson": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "text/xml": "application/xml",
}
_ANYTHING = ("*/*", "application/*")

Forms = Mapping[str, AnswerForm]


def accepted(forms: Forms) -> str:
    """What an Accept header may ask for, in words."""
    named = f", {JSON};format= one of {', '.join(forms)}" if forms else ""
    return f"{JSON} or {JSON_LINES}, also with ;annotation=1{named}, or {', '.join(PICTURES)}"


class NotAcceptableError(UserError):
    """An Accept header asks only for forms that the server does not make."""


@dataclass(frozen=True)
class Form:
    """One form of the answer.

    Attributes:
        media_type: ``application/json``, ``application/jsonlines`` for lines that a newline ends, or another.
        annotation: whole pixels as in the training annotations, rather than fractions of the image.
        name: of one of the task's forms; "" for its own JSON and for pictures.

    """

    media_type: str = JSON
    annotation: bool = False
    name: str = ""

    @property
    def is_picture(self) -> bool:
        """Whether the answer is the image, drawn."""
        return self.media_type in PICTURES


DEFAULT_FORM = Form()


def choose_form(accept: str | None, default: Form, forms: Forms) -> Form:
    """The form that an Accept header likes best; ``default`` where it leaves the choice open.

    Parameters other than ``annotation``, ``format`` and ``q`` are ignored.

    Args:
        accept: the header.
        default: see above.
        forms: the task's, by name.

    Raises:
        NotAcceptableError: it names no form that the task makes.

    """
    # Werkzeug sorts by specificity, RFC 9110 12.5.1 by quality first. The sort is stable.
    wishes = sorted(parse_accept_header(accept, MIMEAccept), key=lambda wish: -wish[1])
    if not wishes:
        return default
    for value, quality in wishes:
        media_type, options = parse_options_header(value.lower())
        if quality > 0:
            form = _form(_SAME.get(media_type, media_type), options, default, forms)
            if form is not None:
                return form
    raise NotAcceptableError(f"the Accept header names no form that this server makes: {accepted(forms)}")


def form_named(name: str, forms: Forms) -> Form | None:
    """The form that the option ``format`` names; None where there is none."""
    if name in PICTURE_NAMES:
        return Form(PICTURE_NAMES[name])
    return Form(forms[name].media_type, name=name) if name in forms else None


def _form(media_type: str, options: dict[str, str], default: Form, forms: Forms) -> Form | None:
    """One wish's form, None where it is not made."""
    if named := options.get("format", ""):
        return form_named(named, forms)
    if media_type in _ANYTHING:
        return default
    if media_type in (JSON, JSON_LINES):
        annotation = options.get("annotation", "0")
        return Form(media_type, annotation=annotation == "1") if annotation in ("0", "1") else None
    if media_type in PICTURES:
        return Form(media_type)
    if media_type == "image/*":
        return Form("image/jpeg")
    return next((Form(media_type, name=name) for name in forms if forms[name].media_type == media_type), None)


def render(images: Sequence[Answered], form: Form, answers: Answers, *, as_list: bool = False) -> str:
    """The body of an answer, but for pictures.

    Args:
        images: those of the request, in its order.
        form: how; it holds as many images.
        answers: the task's.
        as_list: whether a JSON object holds them as its ``predictions``, also where there is but one.

    Raises:
        ValueError: a number is not finite.

    """
    if form.name:
        return answers.forms[form.name].render(images)
    contents = [answers.content(answered, as_annotation=form.annotation) for answered in images]
    if form.media_type == JSON_LINES:
        return "".join(f"{_compact(content)}\n" for content in contents)
    return _compact({"predictions": contents} if as_list else contents[0])


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
