from __future__ import annotations

import base64
import io
import json
from codecs import BOM_UTF8
from typing import Any

import pytest
from tilewise.errors import UserError
from tilewise.serving.requests import Image, UnsupportedTypeError, read_body
from werkzeug.datastructures import FileStorage
from werkzeug.test import EnvironBuilder

ONE, TWO = b"\xff\xd8\xff one", b"\xff\xd8\xff two?>"
B1, B2 = base64.b64encode(ONE).decode(), base64.b64encode(TWO).decode()


def no_fetch(address: str) -> bytes:
    raise UserError(f"{address} is not fetched")


def read(content: Any, content_type: str = "application/json") -> list[bytes]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return [image.content for image in read_body(body, content_type, no_fetch).images]


@pytest.mark.parametrize(
    ("content", "dialect"),
    [
        ({"image": B1}, "image"),
        ({"image": {"b64": B1}}, "image"),
        ({"image": f"data:image/jpeg;base64,{B1}"}, "image"),
        ({"b64": B1}, "image"),
        ({"instances": [B1]}, "instances"),
        ({"instances": [{"image": B1}]}, "instances"),
        ({"instances": [{"image": {"b64": B1}}]}, "instances"),
        ({"instances": [{"b64": B1}]}, "instances"),
        ({"input_data": {"columns": ["image"], "data": [B1]}}, "azure"),
        ({"input_data": {"columns": ["image"], "index": [0], "data": [[B1]]}}, "azure"),
        ({"input_data": {"columns": ["id", "image"], "data": [[7, B1]]}}, "azure"),
    ],
)
def test_read_body__json(content: Any, dialect: str) -> None:
    ask = read_body(json.dumps(content).encode(), "application/json; charset=utf-8", no_fetch)
    assert [image.content for image in ask.images] == [ONE]
    assert ask.dialect == dialect


def test_read_body__several_in_order() -> None:
    assert read({"instances": [B1, B2, B1]}) == [ONE, TWO, ONE]
    assert read({"input_data": {"columns": ["image"], "data": [[B2], [B1]]}}) == [TWO, ONE]
    lines = "\n".join(json.dumps(each) for each in ({"image": B1}, B2)).encode() + b"\n\n"
    assert read(lines, "application/jsonlines") == [ONE, TWO]


def test_read_body__begins_with_a_byte_order_mark() -> None:
    assert read(BOM_UTF8 + json.dumps({"image": B1}).encode(), "application/json") == [ONE]
    assert read(BOM_UTF8 + json.dumps(B1).encode(), "application/jsonlines") == [ONE]


def test_read_body__base64_of_urls_and_with_line_breaks() -> None:
    assert read({"image": base64.urlsafe_b64encode(TWO).decode()}) == [TWO]
    assert read({"image": "\n".join((B1[:4], B1[4:]))}) == [ONE]


def test_read_body__form() -> None:
    fields: dict[str, Any] = {
        "threshold": "0.5",
        "classes": ["ant", "bee"],
        "file": [FileStorage(io.BytesIO(each), f"{at}.jpg") for at, each in enumerate((ONE, TWO * 200_000))],
    }
    builder = EnvironBuilder(method="POST", data=fields)
    environ = builder.get_environ()
    with environ["wsgi.input"] as sent:
        ask = read_body(sent.read(), environ["CONTENT_TYPE"], no_fetch)
    builder.close()
    assert ask.images == [Image(ONE, "0.jpg"), Image(TWO * 200_000, "1.jpg")]
    assert ask.options == {"threshold": "0.5", "classes": "ant,bee"}
    assert ask.dialect == "instances"


def test_read_body__options_and_names() -> None:
    body = {"image": B1, "name": "a.jpg", "parameters": {"threshold": 0.5, "classes": ["ant"]}}
    ask = read_body(json.dumps(body).encode(), "application/json", no_fetch)
    assert ask.options == {"threshold": 0.5, "classes": ["ant"]}
    assert ask.images[0].name == "a.jpg"


def test_read_body__lines_with_options() -> None:
    line = json.dumps({"image": B1, "parameters": {"threshold": 0.5}}).encode() + b"\n"
    ask = read_body(line * 2, "application/jsonlines", no_fetch)
    assert ask.options == {"threshold": 0.5}
    with pytest.raises(UserError, match='line 2 has other "parameters" than the lines before'):
        read_body(line + json.dumps({"image": B1}).encode(), "application/jsonlines", no_fetch)


def test_read_body__addresses_are_fetched_and_name_the_image() -> None:
    asked = []

    def fetch(address: str) -> bytes:
        asked.append(address)
        return ONE

    body = b'{"source-ref": "s3://bucket/a.jpg"}\n{"image": "https://host/b.jpg"}\n'
    ask = read_body(body, "application/jsonlines", fetch)
    assert asked == ["s3://bucket/a.jpg", "https://host/b.jpg"]
    assert ask.images == [Image(ONE, "s3://bucket/a.jpg"), Image(ONE, "https://host/b.jpg")]


@pytest.mark.parametrize(
    ("content", "content_type", "reason"),
    [
        (b"", "image/jpeg", "the body is empty"),
        (b"{", "application/json", "not JSON"),
        (b"[" * 100_000, "application/json", "not JSON"),
        (b"\xff", "application/json", "not JSON"),
        ([], "application/json", '"image", "instances" or "input_data"'),
        ({}, "application/json", "without an image"),
        ({"image": 7}, "application/json", '"image" must be an image as base64'),
        ({"image": "???"}, "application/json", '"image" is not valid base64'),
        ({"image": ""}, "application/json", '"image" must be'),
        ({"image": "http://host/a"}, "application/json", "is not fetched"),
        ({"instances": []}, "application/json", "holds no image"),
        ({"instances": {}}, "application/json", "must be a list"),
        ({"instances": [B1, {"x": 1}]}, "application/json", r"instances\[1\] is an object without an image"),
        ({"instances": [B1, "%"]}, "application/json", r"instances\[1\] is not valid base64"),
        ({"instances": [B1] * 1001}, "application/json", "at most 1000"),
        ({"input_data": {"columns": ["x"], "data": [B1]}}, "application/json", "input_data"),
        ({"input_data": {"columns": ["image"], "data": [[B1, 1]]}}, "application/json", "2 values for 1 col"),
        (
            {"image": B1, "parameters": {"treshold": 1}},
            "application/json",
            "'treshold': possible are",
        ),
        (
            {"image": B1, "threshold": 0.5},
            "application/json",
            '"threshold": options go into its "parameters"',
        ),
        ({"instances": [{"image": B1, "parameters": {}}]}, "application/json", 'they go beside "instances"'),
        (
            {"instances": [B1, {"image": B1, "threshold": 0.5}]},
            "application/json",
            r'instances\[1\] has "threshold": options go into "parameters" beside "instances"',
        ),
        (
            {"input_data": {"columns": ["image"], "data": [{"image": B1, "threshold": 0.5}]}},
            "application/json",
            r'data\[0\] has "threshold": options go into "parameters" beside "input_data"',
        ),
        (
            b'"%s"\n{"image": "%s", "classes": "ant"}' % (B1.encode(), B1.encode()),
            "application/jsonlines",
            'line 2 has "classes": options go into its "parameters"',
        ),
        (
            {"image": B1, "instances": [B2]},
            "application/json",
            'the body has "image" and "instances": give one of them',
        ),
        (b'{"image": "%s"}\n{' % B1.encode(), "application/jsonlines", "line 2 is not JSON"),
        (b"no form", "multipart/form-data; boundary=x", "holds no image"),
        (b"no form", "multipart/form-data", "holds no image: the Content-Type has no boundary"),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nphoto.jpg\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "no file, and its field 'image' is no option: send each image as a file",
        ),
    ],
)
def test_read_body__refused(content: Any, content_type: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(content, content_type)


def test_read_body__other_type() -> None:
    with pytest.raises(UnsupportedTypeError, match="multipart/form-data"):
        read(b"1,2", "text/csv")
