from __future__ import annotations

import gc
import threading
import weakref

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from hypothesis import given
from hypothesis import strategies as st
from tilewise.serving.incoming import IncomingRequest

POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
NEXT = b"GET /ping HTTP/1.1\r\n\r\n"


def incoming(max_body: int = 1000) -> IncomingRequest:
    return IncomingRequest(Config(), ("127.0.0.1", 1), max_body)


def body_of(request: IncomingRequest) -> bytes:
    return request.take_body(threading.Event()).getvalue()


def with_length(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%X\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@given(
    body=st.binary(max_size=300),
    chunk=st.integers(1, 50) | st.none(),
    cuts=st.lists(st.integers(0, 600), max_size=10),
)
def test_feed__the_same_in_whichever_pieces_it_comes(body: bytes, chunk: int | None, cuts: list[int]) -> None:
    sent = (in_chunks(body, chunk) if chunk else with_length(body)) + NEXT
    request = incoming()
    ends = sorted({*cuts, len(sent)})
    for start, end in zip([0, *ends], ends, strict=False):
        if start < len(sent):
            assert request.complete == (start >= len(sent) - len(NEXT))
            request.feed(sent[start:end])
    assert request.complete and request.refusal is None
    assert request.head.method == "POST" and request.head.path == "/invocations"
    assert request.held_bytes == len(body)
    assert body_of(request) == body
    assert request.rest() == NEXT


@pytest.mark.parametrize(
    "sent",
    [
        POST[:20],
        with_length(b"body"),
        in_chunks(b"body", 2),
        in_chunks(b"body", 2)[:-9],
        POST + b"Content-Length: 5000\r\n\r\n",
    ],
)
def test_request__leaves_the_memory_when_nobody_has_it_any_more(sent: bytes) -> None:
    """Not with the garbage, which is collected hundreds of requests later."""
    gc.disable()
    try:
        request = incoming()
        request.feed(sent)
        left: list[weakref.ref[object]] = [weakref.ref(request)]
        if request.complete:
            request.head.body = request.take_body(threading.Event())
            left.append(weakref.ref(request.head.body))
        del request
        assert [each() for each in left] == [None] * len(left)
    finally:
        gc.enable()


def test_feed__a_request_without_a_body() -> None:
    request = incoming()
    request.feed(b"GET /ping HTTP/1.1\r\n\r")
    assert request.begun and not request.complete
    request.feed(b"\n")
    assert request.complete and body_of(request) == b""


@pytest.mark.parametrize(
    "sent",
    [
        with_length(bytes(11)),
        POST + b"Content-Length: 11\r\n\r\n",
        in_chunks(bytes(11), 4),
        in_chunks(bytes(11), 11)[:-15],
    ],
)
def test_feed__body_over_the_limit(sent: bytes) -> None:
    request = incoming(10)
    request.feed(sent)
    assert request.complete
    assert request.refusal is not None and request.refusal.status == 413
    assert request.held_bytes == 0


def test_feed__body_of_exactly_the_limit() -> None:
    request = incoming(10)
    request.feed(with_length(bytes(10)))
    assert request.refusal is None and body_of(request) == bytes(10)


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n", b"-1\r\n", b"\r\n", b"1\r\nabc", b"x" * 5000, b"1" * 16 + b"\r\n", b"0x1\r\na\r\n"]
)
def test_feed__broken_chunks(chunks: bytes) -> None:
    request = incoming(10**9)
    request.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert request.refusal is not None and request.refusal.status == 400


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"G\n", ParseException),
        (b"\xff" * 9000 + b"\r\n\r\n", ParseException),
        (b"G" * 70_000, LimitRequestLine),
        (POST + b"X: 1\r\n" * 12_000, LimitRequestHeaders),
    ],
)
def test_feed__no_head(sent: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        incoming().feed(sent)


def test_expects_continue__until_the_body_begins() -> None:
    request = incoming()
    request.feed(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert request.expects_continue
    request.feed(b"abc")
    assert not request.expects_continue and request.complete
