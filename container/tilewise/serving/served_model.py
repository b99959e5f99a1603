"""The one model of a worker process: loaded in the background, asked one image at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol

from tilewise.errors import UserError

logger = logging.getLogger(__name__)


class Predicts(Protocol):
    """What is served: :class:`tilewise.inference.predictor.Predictor`, or a stand-in."""

    def predict(self, image: bytes) -> Any:
        """What the model says of one encoded image."""

    def warm_up(self) -> None:
        """Prove by one prediction that the model answers."""


class BusyError(Exception):
    """The model's turn did not come in time."""


class ServedModel:
    """A predictor on a thread of its own, which loads it and then takes one image after the other.

    A predictor is not thread-safe. Threads do not share it under a lock, because each one that computes would
    have its own pool of OpenMP threads and its own treatment of denormal numbers.

    Args:
        load: makes the predictor; called on the thread, so that its imports happen there too.
        patience_s: how long :meth:`predict` waits for its turn.
        on_load_failure: called when there is nothing to serve, after the log has the reason.
        on_breakdown: called when a model that did answer no longer does.

    """

    def __init__(
        self,
        load: Callable[[], Predicts],
        patience_s: float,
        on_load_failure: Callable[[], None],
        on_breakdown: Callable[[], None],
    ) -> None:
        self._load = load
        self._patience_s = patience_s
        self._on_load_failure = on_load_failure
        self._on_breakdown = on_breakdown
        self._ready = threading.Event()
        self._queue: SimpleQueue[tuple[bytes, Future[Any]]] = SimpleQueue()

    def start(self) -> None:
        """Begin to load; :attr:`ready` tells when it is done."""
        threading.Thread(target=self._run, name="model", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether the model has answered its warm-up prediction, and answers still."""
        return self._ready.is_set()

    def predict(self, image: bytes) -> Any:
        """What the model says of one encoded image, when the requests before it are done.

        Raises:
            BusyError: the model was not loaded, or its turn did not come, in time.
            DecodeError: the bytes are not an image that can be decoded.
            Exception: whatever goes wrong in the model.

        """
        turn: Future[Any] = Future()
        self._queue.put((image, turn))
        try:
            return turn.result(self._patience_s)
        except TimeoutError:
            if turn.cancel():
                reason = "too many requests are waiting" if self.ready else "the model is not ready"
                raise BusyError(reason) from None
            return turn.result()  # it has its turn: let it finish

    def _run(self) -> None:
        predictor = self._load_and_warm_up()
        if predictor is None:
            self._on_load_failure()
            return
        self._ready.set()
        while True:
            image, turn = self._queue.get()
            if turn.set_running_or_notify_cancel():
                self._answer(predictor, image, turn)

    def _load_and_warm_up(self) -> Predicts | None:
        started = time.monotonic()
        try:
            predictor = self._load()
            predictor.warm_up()
        except UserError as error:
            logger.error("the model cannot be served: %s", error)
        except Exception:
            logger.exception("the model cannot be served: it failed to load or to answer a first image")
        else:
            logger.info("the model is ready after %.1f s", time.monotonic() - started)
            return predictor
        return None

    def _answer(self, predictor: Predicts, image: bytes, turn: Future[Any]) -> None:
        if not self.ready:  # it broke down while this request waited
            turn.set_exception(BusyError("the model is not ready"))
            return
        try:
            turn.set_result(predictor.predict(image))
        except UserError as error:
            turn.set_exception(error)
        except Exception as error:
            self._check(predictor)
            turn.set_exception(error)

    def _check(self, predictor: Predicts) -> None:
        """After an unexpected failure: some, like a lost CUDA context, stay until the process ends."""
        try:
            predictor.warm_up()
        except Exception:
            self._ready.clear()
            logger.exception("the model no longer answers: this worker is replaced")
            self._on_breakdown()
