"""Text files as users have them: packed with gzip, with a byte order mark, or in UTF-16."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from tilewise.errors import UserError

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_AT_ONCE = 1 << 24
"""Bytes that are given back together: whole pages."""


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """A text file as a stream of UTF-8 bytes without a byte order mark; what is packed is unpacked.

    Raises:
        UserError: it is damaged, there or where it is read.

    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            file: IO[bytes] = gzip.GzipFile(fileobj=plain) if packed else plain  # type: ignore[assignment]
            start = file.read(4)
            file.seek(0)
            encoding = json.detect_encoding(start)
            if encoding.startswith("utf-8"):
                file.seek(len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0)
            else:
                file = io.BytesIO(file.read().decode(encoding).encode())
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path.name} is damaged: it begins as a gzip file, but {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not text in {error.encoding}: {error.reason}") from None


def read_text(path: Path) -> bytes:
    """All of :func:`open_text`."""
    with open_text(path) as file:
        return file.read()


def fault_of_text(path: Path) -> str:
    """Why no reader can take a file for its own, as a sentence; "" where it holds text."""
    try:
        content = read_text(path)
        content.decode()
    except UserError as error:
        return str(error)
    except UnicodeDecodeError:
        return f"{path.name} is not text in UTF-8: save it so"
    if content.startswith(b"version https://git-lfs"):
        return f"{path.name} is a pointer of Git LFS in place of the file: fetch that by `git lfs pull`"
    return "" if content.strip() else f"{path.name} is empty"


class LargeText:
    """All of :func:`open_text`, whose beginning can be given back while the rest is still read.

    Attributes:
        content: the bytes.

    """

    def __init__(self, path: Path):
        with open_text(path) as file:
            size = path.stat().st_size - file.tell()
            if isinstance(file, io.BufferedReader) and size:
                self.content: bytes | mmap.mmap = mmap.mmap(-1, size)
                file.readinto(self.content)
            else:
                self.content = file.read()
        self._given_back = self._done = 0

    def done(self, size: int) -> None:
        """So many bytes more are not looked at again, from the beginning on."""
        self._done += size
        whole = (self._done - self._given_back) // _AT_ONCE * _AT_ONCE
        if whole and isinstance(self.content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.content.madvise(mmap.MADV_DONTNEED, self._given_back, whole)
            self._given_back += whole


def csv_reader(text: TextIO) -> Any:
    """The rows of a CSV file; semicolons or tabs may stand for commas, as spreadsheets write them."""
    first = text.readline()
    delimiter = max(",;\t", key=first.count)
    return csv.reader(itertools.chain([first], text), delimiter=delimiter)
