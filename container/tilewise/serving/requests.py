"""The images of a request, in all the forms in which people send them."""

from __future__ import annotations

import base64
import binascii
import io
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from tilewise.errors import UserError
from tilewise.serving.options import NAMES, check_names

IMAGE_TYPES = "application/x-image, image/jpeg, image/png, any other image/*, application/octet-stream"
JSON_LINES_TYPES = (
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
    "application/x-ndjson",
)
ACCEPTED_TYPES = f"{IMAGE_TYPES}, application/json, application/jsonlines, multipart/form-data"
MOST_IMAGES = 1000
_KEYS = ("image", "image_base64", "b64", "data", "body", "bytes", "source-ref", "url", "image_url")
"""Where an object of JSON may hold an image; the first that it has counts."""
_NAMES = ("name", "file_name", "filename", "file", "source-ref")

Fetch = Callable[[str], bytes]
"""Address -> what lies there."""
Dialect = Literal["image", "instances", "azure", "lines"]


class UnsupportedTypeError(UserError):
    """The Content-Type is none that holds images."""


@dataclass(frozen=True)
class Image:
    """An encoded image.

    Attributes:
        content: its bytes.
        name: what the request calls it.
        explain: Azure's ``xai_parameters``, where it wants the answer explained.

    """

    content: bytes
    name: str = ""
    explain: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ask:
    """What a body asks for.

    Attributes:
        images: in its order.
        dialect: how it asks, which decides how the answer looks where Accept leaves that open.
        options: what it chooses beside its images.

    """

    images: list[Image]
    dialect: Dialect = "image"
    options: Mapping[str, Any] = field(default_factory=dict)


def read_body(body: bytes, content_type: str, fetch: Fetch) -> Ask:
    """The images in a body.

    Args:
        body: the whole of it.
        content_type: with its parameters; "" for an image whose kind its bytes tell.
        fetch: of images that are named by an address; raises UserError where that must not be.

    Raises:
        UnsupportedTypeError: the type is none that holds images.
        UserError: there is no image in it; the message says which part is wrong.

    """
    media_type, parameters = parse_options_header(content_type)
    media_type = media_type.lower()
    if not body:
        raise UserError("the body is empty: send the bytes of one image")
    if media_type == "application/json":
        ask = _read_json(_parse(body.removeprefix(BOM_UTF8), "the body"), fetch)
    elif media_type in JSON_LINES_TYPES:
        ask = _read_lines(body.removeprefix(BOM_UTF8), fetch)
    elif media_type == "multipart/form-data":
        ask = _read_form(body, media_type, parameters)
    elif media_type.startswith("image/") or media_type in (
        "",
        "application/x-image",
        "application/octet-stream",
        "binary/octet-stream",
    ):
        return Ask([Image(body)])
    else:
        raise UnsupportedTypeError(f"the Content-Type is not an image's; accepted are {ACCEPTED_TYPES}")
    if not ask.images:
        raise UserError("the body holds no image")
    if len(ask.images) > MOST_IMAGES:
        raise UserError(f"the body holds {len(ask.images)} images: at most {MOST_IMAGES} are accepted")
    return ask


def _parse(text: bytes, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}"[:250]) from None


def _read_json(content: Any, fetch: Fetch) -> Ask:
    """``image``, ``instances``, or Azure's ``input_data`` in both of its shapes."""
    if not isinstance(content, dict):
        raise UserError('the body must be a JSON object with "image", "instances" or "input_data"')
    options = _options(content, '"parameters"')
    _check_no_option(content, "the body", 'its "parameters"')
    given = [name for name in ("image", "instances", "input_data") if name in content]
    if len(given) > 1:
        raise UserError(f'the body has "{given[0]}" and "{given[1]}": give one of them')
    if "input_data" in content:
        cells = list(_azure_cells(content["input_data"]))
        for at, each in enumerate(cells):
            _check_no_option(each, f"data[{at}]", '"parameters" beside "input_data"')
        return Ask([_image(cell, f"data[{at}]", fetch) for at, cell in enumerate(cells)], "azure", options)
    if "instances" in content:
        instances = content["instances"]
        if not isinstance(instances, list):
            raise UserError('"instances" must be a list of images')
        for at, each in enumerate(instances):
            if isinstance(each, dict) and "parameters" in each:
                raise UserError(
                    f'instances[{at}] has "parameters": they go beside "instances", for all images'
                )
            _check_no_option(each, f"instances[{at}]", '"parameters" beside "instances"')
        images = [_image(each, f"instances[{at}]", fetch) for at, each in enumerate(instances)]
        return Ask(images, "instances", options)
    return Ask([_image(content, "the body", fetch)], "image", options)


def _options(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    options = content.get("parameters") or {}
    if not isinstance(options, dict):
        raise UserError(f"{where} must be an object")
    check_names(options, where)
    return options


def _check_no_option(entry: Any, where: str, place: str) -> None:
    """Refuse an option beside an image, where it would have no effect; ``place``: where it goes instead."""
    if isinstance(entry, dict) and (misplaced := sorted(entry.keys() & set(NAMES))):
        raise UserError(f'{where} has "{misplaced[0]}": options go into {place}')


def _azure_cells(table: Any) -> Iterator[Any]:
    """The cells of the column ``image``: of a table as pandas splits it, whose rows may be bare values."""
    data = table.get("data") if isinstance(table, dict) else table
    columns = table.get("columns", ["image"]) if isinstance(table, dict) else ["image"]
    if not isinstance(data, list) or not isinstance(columns, list) or "image" not in columns:
        raise UserError('"input_data" must be {"columns": ["image"], "data": [images]}')
    column = columns.index("image")
    for at, row in enumerate(data):
        if isinstance(row, list):
            if len(row) != len(columns):
                raise UserError(f"data[{at}] has {len(row)} values for {len(columns)} columns")
            yield row[column]
        else:
            yield row


def _read_lines(body: bytes, fetch: Fetch) -> Ask:
    """One JSON value a line; empty lines do not count. Lines have the same ``parameters``, or none."""
    images: list[Image] = []
    options: dict[str, Any] = {}
    for number, line in enumerate(body.splitlines(), start=1):
        if line.strip():
            where = f"line {number}"
            content = _parse(line, where)
            own = _options(content, f'{where}: "parameters"') if isinstance(content, dict) else {}
            if images and own != options:
                raise UserError(
                    f'{where} has other "parameters" than the lines before: a request has one set'
                )
            options = own
            _check_no_option(content, where, 'its "parameters"')
            images.append(_image(content, where, fetch))
            if len(images) > MOST_IMAGES:
                raise UserError(f"the body holds more than {MOST_IMAGES} lines")
    return Ask(images, "lines", options)


def _image(value: Any, where: str, fetch: Fetch) -> Image:
    """An image as base64 or as an address, perhaps within an object."""
    name = ""
    if isinstance(value, str) and value.lstrip().startswith("{"):  # Azure's with model_explainability
        value = _parse(value.encode(), where)
    if isinstance(value, dict) and "model_explainability" in value:
        return _explained(value, where, fetch)
    if isinstance(value, dict):
        name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")
        key = next((key for key in _KEYS if key in value), None)
        if key is None:
            raise UserError(f"{where} is an object without an image: it must have one of {', '.join(_KEYS)}")
        where, value = (f'{where}: "{key}"' if where != "the body" else f'"{key}"'), value[key]
        if isinstance(value, dict):
            return Image(_image(value, where, fetch).content, name)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} must be an image as base64")
    if value.startswith(("s3://", "https://", "http://")):
        return Image(fetch(value), name or value)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return Image(base64.b64decode("".join(text.split()), altchars=_url_safe(text), validate=True), name)
    except (binascii.Error, ValueError):
        raise UserError(f"{where} is not valid base64") from None


def _explained(value: Mapping[str, Any], where: str, fetch: Fetch) -> Image:
    """An image with Azure's ``model_explainability`` and ``xai_parameters``."""
    rest = {
        name: each for name, each in value.items() if name not in ("model_explainability", "xai_parameters")
    }
    wanted, parameters = value["model_explainability"], value.get("xai_parameters") or {}
    if not isinstance(wanted, bool) or not isinstance(parameters, dict):
        raise UserError(f'{where}: "model_explainability" must be true or false, "xai_parameters" an object')
    return replace(_image(rest, where, fetch), explain=parameters if wanted else None)


def _url_safe(text: str) -> bytes | None:
    return b"-_" if "-" in text or "_" in text else None


def _read_form(body: bytes, media_type: str, parameters: Mapping[str, str]) -> Ask:
    """Each file is an image, and fields are options."""
    if not parameters.get("boundary"):
        raise UserError("the body holds no image: the Content-Type has no boundary between the form's parts")
    # In memory: the parser's own would write large files to /tmp, which need not be there.
    parser = FormDataParser(stream_factory=lambda *_, **__: io.BytesIO(), max_form_parts=MOST_IMAGES + 50)
    try:
        _, fields, files = parser.parse(io.BytesIO(body), media_type, len(body), dict(parameters))
    except Exception as error:
        raise UserError(f"the multipart body cannot be read: {error}"[:250]) from None
    unknown = next((name for name in fields if name not in NAMES), None)
    if unknown is not None and not files:
        raise UserError(
            f"the form has no file, and its field {unknown!r} is no option: send each image as a file (curl "
            "-F image=@photo.jpg)"
        )
    check_names(fields, "the form")
    images = [Image(file.read(), file.filename or "") for _, file in files.items(multi=True)]
    empty = [at for at, image in enumerate(images, start=1) if not image.content]
    if empty:
        raise UserError(f"file {empty[0]} of the form is empty")
    options = {name: ",".join(values) for name, values in fields.lists()}
    return Ask(images, "image" if len(images) == 1 else "instances", options)
