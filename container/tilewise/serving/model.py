"""The one model of a worker process: loaded in the background, asked one image at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tilewise.errors import UserError

if TYPE_CHECKING:  # torch comes with it: the server answers /ping before that is loaded
    from tilewise.inference.predictor import Prediction

logger = logging.getLogger(__name__)


class Predicts(Protocol):
    """What is served: :class:`tilewise.inference.predictor.Predictor`, or a stand-in."""

    def predict(self, image: bytes) -> Prediction:
        """The detections in one encoded image."""

    def warm_up(self) -> None:
        """Prove by one prediction that the model answers."""


class BusyError(Exception):
    """The model's turn did not come in time."""


class ServedModel:
    """Loads a predictor on a thread, and guards it: it is not thread-safe.

    Args:
        load: makes the predictor; called on the thread, so that its imports happen there too.
        patience_s: how long :meth:`predict` waits for the model and for its turn.
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
        self._lock = threading.Lock()
        self._predictor: Predicts | None = None

    def start(self) -> threading.Thread:
        """Begin to load; :attr:`ready` tells when it is done."""
        thread = threading.Thread(target=self._load_and_warm_up, name="load-model", daemon=True)
        thread.start()
        return thread

    @property
    def ready(self) -> bool:
        """Whether the model has answered its warm-up prediction, and answers still."""
        return self._ready.is_set()

    def predict(self, image: bytes) -> Prediction:
        """The detections in one encoded image, when the requests before it are done.

        Raises:
            BusyError: the model was not loaded, or its turn did not come, in time.
            DecodeError: the bytes are not an image that can be decoded.
            Exception: whatever goes wrong in the model.

        """
        deadline = time.monotonic() + self._patience_s
        if not self._ready.wait(self._patience_s):
            raise BusyError("the model is not ready")
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BusyError("too many requests are waiting")
        try:
            return self._predict(image)
        finally:
            self._lock.release()

    def _predict(self, image: bytes) -> Prediction:
        predictor = self._predictor
        if predictor is None or not self.ready:  # it broke down while this request waited
            raise BusyError("the model is not ready")
        try:
            return predictor.predict(image)
        except UserError:
            raise
        except Exception:
            self._check(predictor)
            raise

    def _load_and_warm_up(self) -> None:
        started = time.monotonic()
        try:
            self._predictor = self._load()
            self._predictor.warm_up()
        except UserError as error:
            logger.error("the model cannot be served: %s", error)
            self._on_load_failure()
        except Exception:
            logger.exception("the model cannot be served: it failed to load or to answer a first image")
            self._on_load_failure()
        else:
            self._ready.set()
            logger.info("the model is ready after %.1f s", time.monotonic() - started)

    def _check(self, predictor: Predicts) -> None:
        """After an unexpected failure: some, like a lost CUDA context, stay until the process ends."""
        try:
            predictor.warm_up()
        except Exception:
            self._ready.clear()
            logger.exception("the model no longer answers: this worker is replaced")
            self._on_breakdown()
