"""Batches of records from the one process of a host that reads a pipe to the others: a Unix socket."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tilewise.data.pipe.fifo import POLL_SECONDS, StopWaiting
from tilewise.errors import UserError
from tilewise.stop import NEVER, StopToken

CONNECT_SECONDS = 600.0
"""The other ranks may start so much later, or earlier."""

REFUSED_SECONDS = 5.0
"""A socket that is there but refuses for so long has been closed: it listens as soon as it is made."""

_ENDED = "the process that reads the pipe for this host has ended"


class BatchServer:
    """The reading rank's side.

    Sending never waits for another rank: all train in step, so that as many batches lie here as loaders
    read ahead.

    Args:
        address: path of the socket to make, in a folder that only this user can write to.
        ranks: processes of this host that train, this one (rank 0) among them.

    """

    def __init__(self, address: Path, ranks: int):
        self.ranks = ranks
        self._closed = threading.Event()
        self._queues: dict[int, SimpleQueue[Any]] = {rank: SimpleQueue() for rank in range(1, ranks)}
        self._lost: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen(ranks)
        self._socket.settimeout(POLL_SECONDS)
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in self._queues]
        for thread in self._threads:
            thread.start()

    def send(self, rank: int, message: Any) -> None:
        """Queue a rank's batch; None for the end of an epoch, a sentence for an error.

        Raises:
            RuntimeError: a rank is gone.

        """
        if self._lost:
            raise RuntimeError(f"rank {self._lost[0]} does not take its batches any more")
        self._queues[rank].put(message)

    def send_all(self, message: Any) -> None:
        """The same to all ranks."""
        for rank in self._queues:
            self.send(rank, message)

    def close(self) -> None:
        """Send what is queued, as far as it is taken, and close."""
        self._closed.set()
        for queue in self._queues.values():
            queue.put(_END)
        for thread in self._threads:
            thread.join(timeout=10)
        self._socket.close()

    def _serve(self) -> None:
        """Take one rank's connection and send it what is queued for it."""
        connection = self._accept()
        if connection is None:
            return
        rank = 0
        with connection:
            try:
                rank = connection.recv()
                while (message := self._queues[rank].get()) is not _END:
                    connection.send(message)
            except (EOFError, OSError):
                self._lost.append(rank)

    def _accept(self) -> Connection | None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                accepted, _ = self._socket.accept()
                accepted.setblocking(True)  # noqa: FBT003  # it takes no keyword
                return Connection(accepted.detach())
        return None


_END = object()


class BatchClient:
    """Another rank's side.

    Args:
        address: of the :class:`BatchServer`, which may be made later.
        rank: of this process on its host, from 1.
        stop: looked at while it has to wait.

    """

    def __init__(self, address: Path, rank: int, stop: StopToken = NEVER):
        self._stop = stop
        self._connection = self._connect(address)
        self._connection.send(rank)

    def receive(self) -> Any:
        """The next batch; None at the end of an epoch, and when the job is to stop.

        Raises:
            UserError: the reading rank found the data wanting.
            RuntimeError: it is gone.

        """
        try:
            while not self._connection.poll(POLL_SECONDS):
                if self._stop.requested:
                    return None
            message = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(_ENDED) from None
        if isinstance(message, str):
            raise UserError(message)
        return message

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connect(self, address: Path) -> Connection:
        start = time.monotonic()
        refused: float | None = None
        while True:
            connecting = socket.socket(socket.AF_UNIX)
            try:
                connecting.connect(str(address))
                return Connection(connecting.detach())
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connecting.close()
                now = time.monotonic()
                if self._stop.requested:
                    raise StopWaiting from None
                if isinstance(error, ConnectionRefusedError):
                    refused = refused or now
                    if now > refused + REFUSED_SECONDS:
                        raise RuntimeError(_ENDED) from None
                if now > start + CONNECT_SECONDS:
                    raise RuntimeError(f"no process hands out batches at {address}") from None
                time.sleep(POLL_SECONDS)
