"""Values from users' files as messages show them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

LONGEST = 80
"""So many characters of a text are shown: an address may hold a whole image."""

_NULL = ("", "null", "none")
_KINDS = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}


def shortened(text: str) -> str:
    """A text, cut after :data:`LONGEST` characters."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def quoted(value: Any) -> str:
    """A value as JSON has it, with its type: ``"1" (text)``, ``1 (number)``, ``null``."""
    try:
        text = json.dumps(value[:20] if isinstance(value, list) else value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    kind = _KINDS.get(type(value))
    return shortened(text) + (f" ({kind})" if kind else "")


def some(names: Iterable[str], count: int = 3) -> str:
    """The first few names, for a message."""
    listed = list(names)
    return ", ".join([*listed[:count], "…"] if len(listed) > count else listed)


class NoValue(ValueError):
    """A file says that there is no number: one object of an image cannot be used, the others can."""


def as_number(value: Any, what: str) -> float:
    """A number that a file gives as one, or as a text.

    Raises:
        NoValue: it is null, or an empty text.
        ValueError: it is no number; the message says so in words, after ``what``.

    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NULL):
        raise NoValue(f"{what} {quoted(value)}, not a number")
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        comma = isinstance(value, str) and value.count(",") == 1 and "." not in value
        hint = ": write decimals with a point" if comma else ""
        raise ValueError(f"{what} {quoted(value)}, not a number{hint}") from None
