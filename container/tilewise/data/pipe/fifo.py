"""SageMaker's pipes: named FIFOs that the platform makes and writes, each to be read once, by one process."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import select
import stat
import time
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from tilewise.errors import UserError
from tilewise.stop import StopToken

log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 20
"""What the kernel is asked to hold of a pipe, and what is read at once."""

POLL_SECONDS = 0.1
TELL_AFTER_SECONDS = 10.0
"""After so long without a first byte the log says what is waited for."""


class StopWaiting(Exception):
    """The job is to stop, or the pipe is not needed any more."""


def open_fifo(path: Path, stop: StopToken) -> IO[bytes]:
    """Open a FIFO to read from, as soon as it is there; reads wait for what is written.

    Args:
        path: the FIFO; the platform may make it later.
        stop: looked at ten times a second while this, or a read, has to wait.

    Raises:
        StopWaiting: when ``stop`` said so, here or in a read.
        UserError: there is something else at ``path``, or it cannot be opened.

    """
    waiting = _StoppableWait(stop)
    while not path.exists():
        waiting.wait(f"{path} is not there yet")
    try:
        # Without O_NONBLOCK this call would wait for the writer, deaf to a request to stop.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"the pipe {path} cannot be opened: {error.strerror}") from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is a folder: in input mode Pipe it must be a FIFO")
    return io.BufferedReader(_Fifo(descriptor, path.name, waiting), PIPE_BYTES)


class _StoppableWait:
    """Waits in short steps, and says once what for."""

    def __init__(self, stop: StopToken):
        self.stop = stop
        self.tell_at = time.monotonic() + TELL_AFTER_SECONDS
        self.told = False

    def check(self, what: str) -> None:
        if self.stop.requested:
            raise StopWaiting
        if not self.told and time.monotonic() > self.tell_at:
            self.told = True
            log.info("waiting: %s", what)

    def wait(self, what: str) -> None:
        self.check(what)
        time.sleep(POLL_SECONDS)


class _Fifo(io.RawIOBase):
    """The reading end of a FIFO."""

    def __init__(self, descriptor: int, name: str, waiting: _StoppableWait):
        self._descriptor, self._name, self._waiting = descriptor, name, waiting
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # no FIFO but a file, or more than an ordinary user may have: it works all the same
        _open_fifos.add(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # Before the first writer came, a read would look like the end; poll tells the two apart.
        while not self._poll.poll(POLL_SECONDS * 1000):
            self._waiting.check(f"nothing has been written into {self._name} yet")
        self._waiting.told = True
        self._waiting.check("")
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            # First of all: a process forked now must not close what may be another file by then.
            _open_fifos.discard(self)
            os.close(self._descriptor)
        super().close()


_open_fifos: WeakSet[_Fifo] = WeakSet()


def _close_inherited() -> None:
    """Loader workers are forked while pipes are open: with a copy there the writer would not see a close."""
    for fifo in list(_open_fifos):
        fifo.close()


os.register_at_fork(after_in_child=_close_inherited)
