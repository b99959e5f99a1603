"""The forms of an answer: JSON or JSON lines, and as fractions or as in the training annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from tilewise.errors import UserError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
ACCEPTED = f"{JSON}, {JSON};annotation=1, {JSON_LINES}, {JSON_LINES};annotation=1"
_ANYTHING = ("*/*", "application/*")


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


def render(content: Mapping[str, Any], form: Form) -> str:
    """The body of an answer with this content.

    Raises:
        ValueError: a number is not finite.

    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text + "\n" if form.media_type == JSON_LINES else text
