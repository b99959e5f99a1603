"""A channel in Pipe mode: a thread reads the FIFOs ``<channel>_0``, ``<channel>_1``, … as they come.

Specification: "How Amazon SageMaker Provides Training Information" in the developer guide, on
``inputdataconfig.json``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tilewise.data.label_numbers import ImageLabels
from tilewise.data.pipe.fifo import POLL_SECONDS, StopWaiting, open_fifo
from tilewise.data.pipe.formats import StreamItem, Turn, read_arrivals
from tilewise.machine import memory_limit
from tilewise.stop import NEVER, StopToken

log = logging.getLogger(__name__)

BUFFER_BYTES = 256 << 20
MEMORY_SHARE = 1 / 16
"""A channel's images take at most so many bytes of memory, or this share of it where that is less."""

FULL_SECONDS, FULL_BYTES = 600.0, 2 << 20
"""A buffer that stays full so long takes in so much more: the platform fails a job whose pipe is not read."""


def buffer_bytes() -> int:
    """How many bytes of images a channel keeps in this container's memory, if nobody says otherwise."""
    return min(BUFFER_BYTES, int(memory_limit() * MEMORY_SHARE))


class Buffer:
    """Images on their way from the thread that reads them to whoever uses them, bounded in bytes.

    An image counts until :meth:`release`, wherever it waits; one more than fits may be in.
    """

    def __init__(self, limit: int, stop: StopToken):
        self.limit = limit
        self._stop, self._closed = stop, False
        self._changed = threading.Condition()
        self._queue: deque[StreamItem | None] = deque()
        self._held, self._allowed = 0, limit
        self._error: BaseException | None = None

    def put(self, arrival: StreamItem | None) -> None:
        """Add an image, when there is room, or None for the end of a pass.

        Raises:
            StopWaiting: nobody needs it any more.

        """
        with self._changed:
            full_since = time.monotonic()
            while self._held > self._allowed and arrival is not None:
                self._wait()
                if time.monotonic() - full_since > FULL_SECONDS:
                    self._allowed = self._held + FULL_BYTES
            if self._held <= self.limit:
                self._allowed = self.limit
            self._queue.append(arrival)
            self._held += arrival.size if arrival else 0
            self._changed.notify_all()

    def get(self) -> StreamItem | None:
        """Take the next image out, or None at the end of a pass; wait for it.

        Raises:
            StopWaiting: the job is to stop.

        """
        with self._changed:
            while not self._queue:
                if self._error:
                    raise self._error
                self._wait()
            return self._queue.popleft()

    def peek(self, count: int, size: int) -> list[StreamItem]:
        """The next ``count`` images, or ``size`` bytes of them, or all of the pass; they stay where they are.

        Raises:
            StopWaiting: the job is to stop.

        """
        with self._changed:
            while True:
                ahead: list[StreamItem] = []
                total = 0
                for arrival in self._queue:
                    if arrival is None:
                        return ahead
                    ahead.append(arrival)
                    total += arrival.size
                    if len(ahead) == count or total >= size:
                        return ahead
                if self._error:
                    raise self._error
                self._wait()

    def release(self, size: int) -> None:
        """Give back the bytes of an image that is not needed here any more."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let :meth:`get` raise this, after what came before it."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Let all waiting end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def requested(self) -> bool:
        """Whether waiting is of no use any more: a buffer is the stop token of what fills it."""
        return self._closed or self._stop.requested

    def _wait(self) -> None:
        if self.requested:
            raise StopWaiting
        self._changed.wait(POLL_SECONDS)


class Pipe:
    """The passes of a channel in Pipe mode, read ahead of their use by a thread of its own.

    The next pass's FIFO is opened as soon as the last one has ended, as far as the buffer has room, and none
    beyond ``passes``. There must be one such reader of a channel on a host.

    Args:
        path: that of the channel; pass k is read from ``<path>_<k>``.
        passes: how many passes there will be.
        limit: bytes of images that may wait in memory.
        stop: looked at while anything waits.
        turn: which images of a pass are for this host.

    """

    def __init__(
        self,
        path: Path,
        passes: int,
        limit: int,
        *,
        stop: StopToken = NEVER,
        turn: Turn = lambda number: True,
        labels: ImageLabels | None = None,
    ):
        self.path, self.passes, self.turn, self.labels = path, passes, turn, labels
        self.buffer = Buffer(limit, stop)
        self._thread = threading.Thread(target=self._read, name=f"pipe {path.name}", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[StreamItem]:
        """The images of the next pass; whoever takes one releases its bytes to :attr:`buffer`.

        Raises:
            UserError: the pipe is damaged, or its writer died in the middle of a record.
            StopWaiting: the job is to stop.

        """
        while (arrival := self.buffer.get()) is not None:
            yield arrival

    def close(self) -> None:
        """Close the pipe, in the middle if need be, and end the thread."""
        self.buffer.close()
        self._thread.join(timeout=10)

    def _read(self) -> None:
        try:
            for number in range(self.passes):
                name = f"{self.path.name}_{number}"
                with open_fifo(self.path.with_name(name), self.buffer) as file:
                    for arrival in read_arrivals(file, name, self.turn, self.labels):
                        self.buffer.put(arrival)
                self.buffer.put(None)
        except StopWaiting as stop:
            self.buffer.fail(stop)
        except BaseException as error:  # raised again where the images are waited for
            self.buffer.fail(error)
