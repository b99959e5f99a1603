"""The one thread of a worker that computes, and who may ask it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from tilewise.machine import FreedMemory

LOOK_S = 0.1
"""How often a request that waits looks whether its client has left."""
_NEWEST = 0.2

logger = logging.getLogger(__name__)
T = TypeVar("T")
NEVER = threading.Event()
"""Of a client that does not leave."""


class BusyError(Exception):
    """The model's turn did not come, or would not come, in time.

    Args:
        reason: a sentence.
        retry_after_s: when it is worth while to ask again.

    """

    def __init__(self, reason: str, retry_after_s: int = 1):
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


class Turn(Future[Any]):
    """A piece of work that waits for its turn; ``limited``: it may not go on silently."""

    def __init__(self, work: Callable[[], Any], client_left: threading.Event, *, limited: bool):
        super().__init__()
        self.work, self.client_left, self.limited = work, client_left, limited


class ComputeThread:
    """A thread that does one piece of work after the other.

    A predictor is not thread-safe. Threads do not share it under a lock, because each one that computes would
    have its own pool of OpenMP threads and its own treatment of denormal numbers.

    Args:
        patience_s: how long work may wait for its turn.
        silence_s: how long work may go on without a call of :meth:`pulse`.
        on_silence: called when it went on for longer: it will not end, and the process is of no further use.

    """

    def __init__(self, patience_s: float, silence_s: float, on_silence: Callable[[], None]):
        self._patience_s = patience_s
        self._silence_s = silence_s
        self._on_silence = on_silence
        self._queue: SimpleQueue[Turn] = SimpleQueue()
        self._lock = threading.Lock()
        self._asked = 0
        self._mean_s = 0.0
        self._current: Turn | None = None
        self._pulse_at = 0.0
        self._memory = FreedMemory()
        self.broken = False

    def start(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._run, name="model", daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    @property
    def expected_wait_s(self) -> float:
        """When the turn of new work is to come: so many pieces wait or are done, each takes so long."""
        return self._asked * self._mean_s

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a piece of work done, whenever its turn comes and however long it takes."""
        turn = Turn(work, NEVER, limited=False)
        self._queue.put(turn)
        return turn

    def do(self, work: Callable[[], T], client_left: threading.Event = NEVER) -> T:
        """What a piece of work returns, when those before it are done.

        Args:
            work: it calls :meth:`pulse` as it gets on.
            client_left: set when nobody waits for the result any more.

        Raises:
            BusyError: its turn did not come in time, or is not expected to.
            ClientLeftError: its client has left.
            Exception: what the work raises.

        """
        self._refuse_hopeless()
        with self._lock:
            self._asked += 1
        try:
            result: T = self._await(Turn(work, client_left, limited=True))
            return result
        finally:
            with self._lock:
                self._asked -= 1

    def pulse(self) -> None:
        """Tell that the work gets on.

        Raises:
            ClientLeftError: nobody waits for it any more.

        """
        self._pulse_at = time.monotonic()
        if self._current is not None and self._current.client_left.is_set():
            raise ClientLeftError

    def give_up(self) -> None:
        """Do no more work: what waits is refused."""
        self.broken = True

    def _refuse_hopeless(self) -> None:
        if self.broken:
            raise BusyError("the model is not ready")
        late_s = self.expected_wait_s - self._patience_s
        if late_s > 0:
            raise BusyError("too many requests are waiting", math.ceil(late_s))

    def _await(self, turn: Turn) -> Any:
        self._queue.put(turn)
        deadline = time.monotonic() + self._patience_s
        try:
            while True:
                wait([turn], min(LOOK_S, max(0.0, deadline - time.monotonic())) or LOOK_S)
                if turn.done():
                    return turn.result()
                if turn.client_left.is_set() and turn.cancel():
                    raise ClientLeftError
                if time.monotonic() >= deadline and turn.cancel():
                    raise BusyError("too many requests are waiting", max(1, math.ceil(self.expected_wait_s)))
        finally:
            del turn  # see _take

    def _run(self) -> None:
        while True:
            turn = self._queue.get()
            limited = turn.limited
            if turn.set_running_or_notify_cancel():
                self._take(turn)
            del turn  # so that what it decoded is free
            if limited:
                self._memory.give_back()
            else:
                self._memory.is_usual()

    def _take(self, turn: Turn) -> None:
        if self.broken:  # it broke down while this one waited
            turn.set_exception(BusyError("the model is not ready"))
            return
        started = self._pulse_at = time.monotonic()
        self._current = turn
        try:
            self.pulse()
            result = turn.work()
        except BaseException as error:
            self._current = None
            with suppress(InvalidStateError):
                turn.set_exception(error)
        else:
            self._current = None
            with suppress(InvalidStateError):
                turn.set_result(result)
            if turn.limited:
                took = time.monotonic() - started
                self._mean_s += (took - self._mean_s) * (_NEWEST if self._mean_s else 1.0)
        finally:
            # The turn holds an error, that holds the frames which it passed, and these hold what was decoded
            # of a broken image: a circle, which would wait for the garbage collector, perhaps for minutes.
            del turn

    def _watch(self) -> None:
        """Wait for work that does not end."""
        while not self.broken:
            time.sleep(min(1.0, self._silence_s / 4))
            turn = self._current
            if turn and turn.limited and time.monotonic() - self._pulse_at > self._silence_s:
                self._stop_waiting_for(turn)
            del turn  # it is kept by nobody while this thread sleeps

    def _stop_waiting_for(self, turn: Turn) -> None:
        logger.error("the model has not moved for %g s: this worker is replaced", self._silence_s)
        self.broken = True
        error = BusyError("the model does not answer: it is replaced", max(1, math.ceil(self._silence_s / 4)))
        with suppress(InvalidStateError):
            turn.set_exception(error)
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting.set_running_or_notify_cancel():
                waiting.set_exception(error)
        self._on_silence()
