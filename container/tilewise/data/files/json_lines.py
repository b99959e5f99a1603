"""Files of JSON lines: which there are in a folder, and their lines.

Specification: jsonlines.org. One JSON array of the same objects, or objects that go over several lines, are
read too.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import open_text
from tilewise.data.plausibility import several_splits
from tilewise.errors import UserError

log = logging.getLogger(__name__)

MAX_CANDIDATES = 10
PEEK = 64 * 1024
MAX_FIRST_LINE = 8 << 20
MANIFEST, AZURE = "an augmented manifest", "Azure JSON lines"
LINE_SUFFIXES = (".manifest", ".jsonl", ".ndjson", ".manifest.gz", ".jsonl.gz", ".ndjson.gz")
JSON_SUFFIXES = (".json", ".json.gz")
_MARKS = (b'"source-ref"', b'"image_url"', b'-metadata"')
"""Every such file has one of these texts in its first object."""

_decode = json.JSONDecoder().raw_decode


def find_json_lines(folder: Folder, format: str) -> dict[str, Path]:
    """The files of JSON lines of a format, :data:`MANIFEST` or :data:`AZURE`, by name.

    Of many ``.json`` files, which may annotate one image each, only the largest few are looked into; of files
    whose names do not say what they are, too.
    """
    candidates = folder.with_suffix(*LINE_SUFFIXES) | largest_json(folder) | largest_unnamed(folder)
    return {
        name: path for name, path in sorted(candidates.items()) if folder.ask(format_of_lines, path) == format
    }


def largest_json(folder: Folder) -> dict[str, Path]:
    """The largest few ``.json`` files: one with all labels is among them, whatever else there is."""
    return folder.largest(folder.with_suffix(*JSON_SUFFIXES), MAX_CANDIDATES)


def largest_unnamed(folder: Folder) -> dict[str, Path]:
    """The largest few of the files whose names do not say what they are."""
    return folder.largest(folder.unnamed, MAX_CANDIDATES)


def format_of_lines(path: Path) -> str:
    """The format of a file of JSON lines by the keys of its first object; "" for any other file.

    A COCO file may be one line too: it is told apart by its keys, and not read where it is large.
    """
    try:
        with open_text(path) as file:
            start = _start(file)
    except (OSError, UserError):
        return ""
    if not any(mark in start for mark in _MARKS):
        return ""
    text = start.decode(errors="replace").lstrip("[ \t\r\n")
    try:
        content, _ = _decode(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    if "source-ref" in content or ("source" in content and any(key.endswith("-metadata") for key in content)):
        return MANIFEST
    return AZURE if "image_url" in content and not {"annotations", "images"} & set(content) else ""


def _start(file: IO[bytes]) -> bytes:
    """Enough of a file to have its first object whole: 64 KB, or its first line, up to 8 MB."""
    start = file.read(PEEK)
    while start and not start.strip() and len(start) < MAX_FIRST_LINE:
        start = file.read(PEEK)
    if start.lstrip()[:1] not in (b"{", b"["):
        return b""
    if b"\n" not in start.strip():
        start += file.readline(MAX_FIRST_LINE)
    return start


def read_json_lines(files: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """The lines of files, one file after the other, each with its place such as ``a.jsonl line 3``.

    A line is an object, or what is wrong with it. Empty lines are passed over.

    Raises:
        UserError: a file is damaged as a whole.

    """
    say_joined(files)
    for name, path in files.items():
        with open_text(path) as file:
            if _in_lines(file):
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{name} line {number}", _parse(line)
            else:
                log.info("%s is no file of lines: the JSON objects in it are read one after the other", name)
                for number, content in enumerate(_objects(file.read(), name), 1):
                    yield f"{name} object {number}", content


def say_joined(files: Mapping[str, object]) -> None:
    """Log that several files are one to a reader."""
    if len(files) > 1:
        log.info("%d files are read as one: %s", len(files), ", ".join(islice(files, 5)))
        if splits := several_splits(files, "files"):
            log.warning("%s", splits)


def _in_lines(file: IO[bytes]) -> bool:
    """Whether a file has an object in a line; else it begins with an array, or goes over several lines."""
    place = file.tell()
    line = b"\n"
    while line and not line.strip():
        line = file.readline()
    file.seek(place)
    return not line.lstrip().startswith(b"[") and line.strip() != b"{"


def _objects(content: bytes, name: str) -> Iterator[dict[str, Any] | str]:
    """The objects of JSON texts that follow one another; those of an array one by one."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    place = _next(text, 0)
    while place < len(text):
        try:
            found, place = _decode(text, place)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name} is not valid JSON: {error}") from None
        for one in found if isinstance(found, list) else [found]:
            yield one if isinstance(one, dict) else "it is not a JSON object, {…}"
        place = _next(text, place)


def _next(text: str, place: int) -> int:
    """Where the next JSON text begins, behind spaces and commas."""
    match = re.compile(r"[\s,]*").match(text, place)
    return match.end() if match else place


def _parse(line: bytes) -> dict[str, Any] | str:
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"the line is not UTF-8 text: {error.reason} at byte {error.start}"
    except (ValueError, RecursionError) as error:
        if line.rstrip().endswith((b"},", b"],")):
            return "the line ends with a comma: write one JSON object a line, with nothing between the lines"
        return f"the line is not valid JSON: {error}"
    return content if isinstance(content, dict) else "the line is not one JSON object, {…}"


def path_in(address: str) -> str:
    """The path that an address such as ``s3://bucket/path`` has; of what is no address, itself."""
    scheme, mark, rest = address.partition("://")
    return rest.partition("/")[2] if mark and "/" not in scheme else address
