"""A request as its bytes come: the head, then the body. Nothing here waits for a socket."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gunicorn.config import Config
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    ExpectationFailed,
    InvalidChunkSize,
    InvalidRequestLine,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

MEGABYTE = 1024 * 1024
HEAD_BYTES = 64 * 1024
_LINE_BYTES = 8190
_CHUNK_LINE_BYTES = 1024
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{1,15}")
_STATUSES: dict[type[Exception], int] = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}


@dataclass(frozen=True)
class Refusal:
    """Why a request is answered without being looked at.

    Attributes:
        status: of HTTP.
        reason: a sentence.
        retry_after_s: when it is worth while to ask again.

    """

    status: int
    reason: str
    retry_after_s: int | None = None


TOO_SLOW_HEAD = Refusal(408, "the request's head did not arrive in time")
TOO_SLOW_BODY = Refusal(408, "the body did not arrive in time")
TOO_MANY_BYTES = Refusal(503, "too many large requests are on their way", 1)


def error_body(reason: str, retry_after_s: int | None = None) -> str:
    """The body of an error, as JSON: what is wrong, and after how many seconds to try again."""
    if retry_after_s is None:
        return json.dumps({"error": reason})
    return json.dumps({"error": f"{reason}: try again in {retry_after_s} s", "retry_after": retry_after_s})


def refusal_of(error: ParseException) -> Refusal:
    """What to tell the client of a request that is not valid HTTP."""
    return Refusal(_STATUSES.get(type(error), 400), f"the request is not valid: {error}"[:250])


class ReceivedBody(io.BytesIO):
    """A request's whole body, as ``wsgi.input``.

    Attributes:
        client_left: set as soon as the client has closed its connection.

    """

    def __init__(self, content: bytes, client_left: threading.Event) -> None:
        super().__init__(content)
        self.client_left = client_left


class IncomingRequest:
    """A request, as far as it has come.

    Args:
        config: gunicorn's, for its limits of a head.
        client: the client's address.
        max_body: bytes; a longer body is refused.

    Attributes:
        head: gunicorn's request, as soon as the head is whole.
        complete: whether it can be answered: it is whole, or refused.
        refusal: what to answer instead of looking at it; the rest of its bytes is of no use then.
        held_bytes: of its body, that are in memory.

    """

    def __init__(self, config: Config, client: object, max_body: int) -> None:
        self._config = config
        self._client = client
        self._max_body = max_body
        self._buffer = bytearray()
        self._searched = 0
        self._body = bytearray()
        self._left = 0  # bytes still to come of the body, or of the chunk that is being read
        # A function, not a method of this object: that would be a circle, which kept the body until it were
        # collected as garbage, many requests later.
        self._take_more: Callable[[IncomingRequest], bool] = IncomingRequest._take_head
        self._expects_continue = False
        self.head: Any = None
        self.complete = False
        self.refusal: Refusal | None = None
        self.held_bytes = 0

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return self.head is not None or bool(self._buffer)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be told to send its body (RFC 9110, 10.1.1)."""
        return self._expects_continue and not (self.complete or self._body or self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes that have come.

        Raises:
            ParseException: they are not the head of a valid request.

        """
        self._buffer += data
        while not self.complete and self._take_more(self):
            pass

    def refuse(self, refusal: Refusal) -> None:
        """Answer it with this, without what is still to come."""
        self.refusal, self.complete = refusal, True
        self._body.clear()
        self.held_bytes = 0

    def rest(self) -> bytes:
        """What has come beyond its end: the beginning of the next request."""
        return bytes(self._buffer)

    def take_body(self, client_left: threading.Event) -> ReceivedBody:
        """Its body, when it is complete; once."""
        content, self._body = bytes(self._body), bytearray()
        return ReceivedBody(content, client_left)

    def _take_head(self) -> bool:
        """The head, if it is whole. Each step says whether it has got on, so that there may be a next one."""
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        head = self._buffer[: end + 4] if end >= 0 else self._buffer
        self._check_head(head)
        self._searched = len(self._buffer)
        if end < 0:
            return False
        self.head = Request(self._config, IterUnreader([bytes(head)]), self._client)
        # Gunicorn would tell the client when the app starts, which waits for the body.
        self._expects_continue, self.head._expected_100_continue = self.head._expected_100_continue, False
        del self._buffer[: len(head)]
        reader = self.head.body.reader
        if isinstance(reader, ChunkedReader):
            reader.parser = None  # a circle as well: it knows the reader, which knows the head
            self._take_more = IncomingRequest._take_size
        else:
            self._left = reader.length if isinstance(reader, LengthReader) else 0
            self._take_more = IncomingRequest._take_body
        self._refuse_large(self._left)
        return True

    def _check_head(self, head: bytearray) -> None:
        """Refuse at once what would never become a valid head."""
        if len(head) > HEAD_BYTES:
            if b"\r\n" not in head[:_LINE_BYTES]:
                raise LimitRequestLine(len(head), _LINE_BYTES)
            raise LimitRequestHeaders(f"the head has more than {HEAD_BYTES} bytes")
        newline = head.find(b"\n", self._searched)
        while newline >= 0:
            if head[newline - 1 : newline] != b"\r":
                raise InvalidRequestLine("bare LF as line terminator")
            newline = head.find(b"\n", newline + 1)

    def _refuse_large(self, size: int) -> None:
        if size > self._max_body:
            self.refuse(Refusal(413, f"the body is larger than {self._max_body // MEGABYTE} MB"))

    def _move(self) -> None:
        """As much as there is of what is left, from the buffer to the body."""
        size = min(self._left, len(self._buffer))
        self._body += self._buffer[:size]
        del self._buffer[:size]
        self._left -= size
        self.held_bytes += size

    def _take_body(self) -> bool:
        self._move()
        self.complete = not self._left
        return False

    def _take_size(self) -> bool:
        """A chunk's first line (RFC 9112, 7.1)."""
        line = self._line()
        if line is None:
            return False
        size = line.split(b";", 1)[0].rstrip(b" \t")
        if not _HEXADECIMAL.fullmatch(size):
            return self._invalid(InvalidChunkSize(size[:20]))
        self._left = int(size, 16)
        self._take_more = IncomingRequest._take_chunk if self._left else IncomingRequest._take_trailer
        self._refuse_large(len(self._body) + self._left)
        return True

    def _take_chunk(self) -> bool:
        self._move()
        if self._left or len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            return self._invalid(ChunkMissingTerminator(bytes(self._buffer[:2])))
        del self._buffer[:2]
        self._take_more = IncomingRequest._take_size
        return True

    def _take_trailer(self) -> bool:
        line = self._line()
        self.complete = self.complete or line == b""
        return bool(line)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, _CHUNK_LINE_BYTES)
        if end < 0:
            if len(self._buffer) >= _CHUNK_LINE_BYTES:
                self._invalid(InvalidChunkSize(b"a line without an end"))
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _invalid(self, error: ParseException) -> bool:
        self.refuse(refusal_of(error))
        return False
