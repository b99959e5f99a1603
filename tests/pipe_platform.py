"""Plays SageMaker's part of Pipe mode: makes the FIFOs of a channel and writes records into them."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


def record_bytes(content: bytes) -> bytes:
    """One record as dmlc-core's writer lays it out: split at each aligned magic."""
    cuts = [at for at in range(0, len(content) // 4 * 4, 4) if content[at : at + 4] == MAGIC]
    begins, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(content)]
    flags = [1, *[2] * (len(cuts) - 1), 3] if cuts else [0]
    parts = [content[begin:end] for begin, end in zip(begins, ends, strict=True)]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


def image_record(label: list[float] | float, image: bytes, number: int = 0) -> bytes:
    """One image record as MXNet's ``im2rec`` packs it."""
    if not isinstance(label, list):
        return record_bytes(struct.pack("<IfQQ", 0, label, number, 0) + image)
    header = struct.pack(f"<IfQQ{len(label)}f", len(label), 0, number, 0, *label)
    return record_bytes(header + image)


def png(width: int = 40, height: int = 30, grey: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), grey).save(file, "PNG")
    return file.getvalue()


# The writer is another process on SageMaker: one forked from this one must not keep its end of a FIFO open.
_writing: set[int] = set()
_opening = threading.Lock()


def _close_inherited() -> None:
    _opening.release()
    for descriptor in _writing:
        os.close(descriptor)
    _writing.clear()


os.register_at_fork(
    before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_close_inherited
)


class PipePlatform:
    """Writes one stream of bytes for each pass into ``<path>_0``, ``<path>_1``, …, one after the other.

    The next FIFO is made when the last one has been read to its end, or closed early.

    Args:
        path: of the channel, without a number.
        passes: what is written: bytes, or pieces of it.
        piece: bytes that are written at once.
        pause: seconds between two pieces.
        late: seconds before each FIFO is made.
        dies_after: so many bytes into the first pass the writer is gone for good.

    Attributes:
        written: bytes that went into each FIFO.
        closed_early: numbers of the FIFOs that the reader closed before their end.

    """

    def __init__(
        self,
        path: Path,
        passes: Sequence[bytes | Iterable[bytes]],
        piece: int = 1 << 16,
        pause: float = 0.0,
        late: float = 0.0,
        dies_after: int | None = None,
    ):
        self.path, self.passes, self.piece, self.pause = path, passes, piece, pause
        self.late, self.dies_after = late, dies_after
        self.written: list[int] = []
        self.closed_early: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> PipePlatform:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()

    def join(self) -> None:
        """Wait until all is written."""
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the writer hangs"

    def fifo(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}_{number}")

    def _play(self) -> None:
        for number, content in enumerate(self.passes):
            if self._over.wait(self.late):
                return
            os.mkfifo(self.fifo(number))
            descriptor = self._open(self.fifo(number))
            if descriptor is None:
                return
            self.written.append(0)
            try:
                self._write(descriptor, [content] if isinstance(content, bytes) else content)
            except BrokenPipeError:
                self.closed_early.append(number)
            finally:
                with _opening:
                    _writing.discard(descriptor)
                    os.close(descriptor)
            if self.dies_after is not None:
                return

    def _open(self, fifo: Path) -> int | None:
        """Open a FIFO as soon as it has a reader, but stay ready to give up."""
        while not self._over.is_set():
            with _opening:
                try:
                    descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                    _writing.add(descriptor)
                    return descriptor
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
            time.sleep(0.005)
        return None

    def _write(self, descriptor: int, contents: Iterable[bytes]) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        for content in contents:
            rest = memoryview(content)
            while rest:
                size = self.piece
                if self.dies_after is not None:
                    size = min(size, self.dies_after - self.written[-1])
                    if not size:
                        return
                while not poll.poll(20):
                    if self._over.is_set():
                        return
                try:
                    count = os.write(descriptor, rest[:size])
                except BlockingIOError:
                    time.sleep(0.002)  # there is less room than one atomic write takes
                    continue
                self.written[-1] += count
                rest = rest[count:]
                if self.pause and self._over.wait(self.pause):
                    return


Object = tuple[object, float, float, float, float]
"""Class id, left, top, width and height."""


def manifest(image: bytes, objects: Iterable[Object], **more: object) -> bytes:
    """An image and its label as an augmented manifest's pipe has them; ``more`` are further attributes."""
    sides = ("class_id", "left", "top", "width", "height")
    label = {"annotations": [dict(zip(sides, one, strict=True)) for one in objects]}
    texts = [json.dumps(text).encode() for text in (label, *more.values())]
    return b"".join(map(record_bytes, [image, *texts]))
