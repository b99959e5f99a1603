"""Files of JSON lines: which there are in a folder, and their lines.

Specification: jsonlines.org.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilewise.data.folder import Folder
from tilewise.errors import UserError

MAX_CANDIDATES = 10
MAX_FIRST_LINE = 8 << 20
MANIFEST, AZURE = "an augmented manifest", "Azure JSON lines"
_MARKS = (b'"source-ref"', b'"image_url"', b'-metadata"')
"""Every such file has one of these texts in its first line."""


def find_json_lines(folder: Folder, format: str) -> Path | None:
    """The file of JSON lines of a format, :data:`MANIFEST` or :data:`AZURE`, or None.

    Of many ``.json`` files, which may annotate one image each, only the largest few are looked into.

    Raises:
        UserError: there are several.

    """
    candidates = folder.with_suffix(".manifest", ".jsonl") | largest_json(folder)
    matching_files = sorted(name for name, path in candidates.items() if format_of_lines(path) == format)
    if len(matching_files) > 1:
        names = ", ".join(matching_files)
        raise UserError(f"channel {folder.root.name} holds {format} in several files ({names}): keep one")
    return candidates[matching_files[0]] if matching_files else None


def largest_json(folder: Folder) -> dict[str, Path]:
    """The largest few ``.json`` files: one with all labels is among them, whatever else there is."""
    files = folder.with_suffix(".json").items()
    return dict(sorted(files, key=lambda pair: pair[1].stat().st_size)[-MAX_CANDIDATES:])


def format_of_lines(path: Path) -> str:
    """The format of a file of JSON lines by the keys of its first line; "" for any other file.

    A COCO file may be one line too: it is told apart by its keys, and not read where it is large.
    """
    with path.open("rb") as file:
        line = file.readline(MAX_FIRST_LINE)
        while line and not line.strip():
            line = file.readline(MAX_FIRST_LINE)
    content = _parse(line) if any(mark in line for mark in _MARKS) else {}
    if isinstance(content, str):
        return ""
    if "source-ref" in content or ("source" in content and any(key.endswith("-metadata") for key in content)):
        return MANIFEST
    return AZURE if "image_url" in content and not {"annotations", "images"} & set(content) else ""


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The lines of a file, each with its number from 1: an object, or what is wrong with it.

    Empty lines are passed over.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | str:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return f"the line is not UTF-8 text: {error.reason} at byte {error.start}"
    except (ValueError, RecursionError) as error:
        return f"the line is not valid JSON: {error}"
    return content if isinstance(content, dict) else "the line is not one JSON object, {…}"


def path_in(address: str) -> str:
    """The path that an address such as ``s3://bucket/path`` has; of what is no address, itself."""
    scheme, mark, rest = address.partition("://")
    return rest.partition("/")[2] if mark and "/" not in scheme else address
