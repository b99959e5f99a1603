"""The model of an endpoint: loaded in the background, asked one image at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tilewise.errors import UserError
from tilewise.serving.compute import NEVER, BusyError, ClientLeftError, ComputeThread
from tilewise.tiling.spec import AS_TRAINED, TileOptions

if TYPE_CHECKING:  # torch comes with it: the server answers /ping before that is loaded
    from tilewise.arrays import Array
    from tilewise.data.decoding.decode import DecodedImage
    from tilewise.inference.backend import Backend

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Predicts(Protocol):
    """What is served: :class:`tilewise.inference.predictor.Predictor`, or a stand-in."""

    backend: Backend

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label."""

    def decode(self, image: bytes) -> DecodedImage:
        """The pixels of an encoded image."""

    def pixels(self, image: bytes) -> Array:
        """All pixels of an encoded image, (3, H, W) uint8, in the colours that the model sees."""

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Any]:
        """What the model says of each image."""

    def seen_as(self, options: TileOptions) -> Predicts:
        """The same model with other tiles."""

    def watch(self, tell: Callable[[int, float], None]) -> None:
        """Have each batch of views told of: how many, and how many seconds it took."""

    def warm_up(self) -> None:
        """Prove by one prediction that the model answers."""


@dataclass
class Timings:
    """How long an answer took, in seconds, by what it was spent on.

    Attributes:
        wait_s: for the turn.
        decode_s: from bytes to pixels.
        compute_s: in the network.
        merge_s: the rest: cutting views and putting together what was found in them.
        batches: views of each batch.
        sizes: width and height of each image, in pixels.

    """

    wait_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    merge_s: float = 0.0
    batches: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(eq=False)
class _Request:
    """An image that waits for its answer, or has it."""

    image: bytes
    tiles: TileOptions
    client_left: threading.Event
    timings: Timings
    asked: float = field(default_factory=time.perf_counter)
    prediction: Any | None = None
    error: UserError | MemoryError | None = None

    @property
    def answered(self) -> bool:
        return self.prediction is not None or self.error is not None


class ServedModel:
    """A predictor that a thread loads, and then asks one image after the other.

    Where its backend takes several views at once, as a GPU does, images that wait go through it together.
    Only views of one size share a batch, so that what is found in an image never depends on the others.

    Args:
        load: makes the predictor; called on the thread, so that its imports happen there too.
        thread: computes; other models may share it.
        on_load_failure: called when there is nothing to serve, after the log has the reason.
        on_breakdown: called when a model that did answer no longer does.
        batch_delay_s: how long to wait for more images, where several go through the model together.

    Attributes:
        classes: names by label, when it is ready.
        failure: why it could not be loaded.

    """

    def __init__(
        self,
        load: Callable[[], Predicts],
        thread: ComputeThread,
        on_load_failure: Callable[[], None],
        *,
        on_breakdown: Callable[[], None],
        batch_delay_s: float = 0.0,
    ) -> None:
        self._batch_delay_s = batch_delay_s
        self._asked = threading.Condition()
        self._waiting: list[_Request] = []
        self._load = load
        self._thread = thread
        self._on_breakdown = on_breakdown
        self._predictor: Predicts | None = None
        self._timings = Timings()
        self.classes: tuple[str, ...] = ()
        self.failure = ""
        self._loaded = thread.submit(self._load_and_warm_up)  # before all that is asked
        self._loaded.add_done_callback(lambda loaded: None if loaded.result() else on_load_failure())

    def wait_until_loaded(self) -> bool:
        """Wait for it. Returns whether there is something to serve."""
        return self._loaded.result()

    @property
    def ready(self) -> bool:
        """Whether the model has answered its warm-up prediction, and answers still."""
        return self._predictor is not None and not self._thread.broken

    def pulse(self) -> None:
        """Tell that work on pixels gets on; see :meth:`with_pixels`."""
        self._thread.pulse()

    def with_pixels(self, image: bytes, work: Callable[[Array], T]) -> T:
        """What work on an image's pixels returns, (3, H, W) uint8, such as drawing, when its turn comes.

        Raises:
            BusyError, DecodeError: as :meth:`predict`.

        """

        def decode_and_work() -> T:
            if self._predictor is None:
                raise BusyError("the model is not ready")
            return work(self._predictor.pixels(image))

        return self._thread.do(decode_and_work)

    def predict(
        self,
        image: bytes,
        *,
        tiles: TileOptions = AS_TRAINED,
        client_left: threading.Event = NEVER,
        timings: Timings | None = None,
    ) -> Any:
        """What the model says of one encoded image, when the requests before it are done.

        Args:
            image: its bytes.
            tiles: in place of the model's own.
            client_left: set when nobody waits for the answer any more.
            timings: are added to.

        Raises:
            BusyError: the model was not loaded, or its turn did not come, in time.
            ClientLeftError: the client has left.
            DecodeError: the bytes are not an image that can be decoded.
            Exception: whatever goes wrong in the model.

        """
        request = _Request(image, tiles, client_left, timings or Timings())
        with self._asked:
            self._waiting.append(request)
            self._asked.notify()
        try:
            return self._thread.do(partial(self._answer, request), client_left)
        except BusyError as error:
            if self.ready or self._thread.broken:
                raise
            raise BusyError("the model is not ready", error.retry_after_s) from None
        finally:
            with self._asked:
                self._waiting = [other for other in self._waiting if other is not request]

    def _answer(self, request: _Request) -> Any:
        """The answer to a request whose turn it is; another's turn may have brought it already."""
        predictor = self._predictor
        if predictor is None:
            raise BusyError("the model is not ready")
        if not request.answered:
            if request.tiles != AS_TRAINED:
                predictor = predictor.seen_as(request.tiles)
            try:
                self._predict(predictor, self._together(request, predictor))
            except (ClientLeftError, MemoryError):
                raise
            except Exception:
                self._check(predictor)
                raise
        if request.error is not None:
            error, request.error = request.error, None
            try:
                raise error
            finally:
                del error  # it holds this frame; see ComputeThread
        assert request.prediction is not None
        return request.prediction

    def _together(self, request: _Request, predictor: Predicts) -> list[_Request]:
        """A request, and others that wait, as many as the backend gains from: a GPU does, a CPU does not."""
        most = getattr(predictor.backend, "batch_size", 1)
        if most == 1:
            return [request]
        with self._asked:
            self._asked.wait_for(lambda: len(self._companions(request)) + 1 >= most, self._batch_delay_s)
            return [request, *self._companions(request)][:most]

    def _companions(self, request: _Request) -> list[_Request]:
        return [
            other
            for other in self._waiting
            if other is not request
            and other.tiles == request.tiles
            and not (other.answered or other.client_left.is_set())
        ]

    def _predict(self, predictor: Predicts, requests: list[_Request]) -> None:
        """Answer requests; what fails in decoding is the fault of one, what fails later of all."""
        started = time.perf_counter()
        decoded = []
        for request in requests:
            request.timings.wait_s += started - request.asked
            begun = time.perf_counter()
            try:
                decoded.append((request, predictor.decode(request.image)))
            except (UserError, MemoryError) as error:
                request.error = error
            request.timings.decode_s += time.perf_counter() - begun
            self._thread.pulse()
        begun, self._timings = time.perf_counter(), Timings()
        predictions = predictor.predict_all([image for _, image in decoded])
        for (request, _), prediction in zip(decoded, predictions, strict=True):
            request.prediction = prediction
        spent, shared = time.perf_counter() - begun, self._timings
        for request, _ in decoded:
            assert request.prediction is not None
            request.timings.compute_s += shared.compute_s
            request.timings.merge_s += spent - shared.compute_s
            request.timings.batches += shared.batches
            request.timings.sizes.append((request.prediction.width, request.prediction.height))

    def _batch_done(self, views: int, seconds: float) -> None:
        self._timings.compute_s += seconds
        self._timings.batches.append(views)
        self._thread.pulse()

    def _load_and_warm_up(self) -> bool:
        """Whether there is something to serve."""
        started = time.monotonic()
        try:
            predictor = self._load()
            predictor.warm_up()
        except UserError as error:
            self.failure = str(error)
            logger.error("the model cannot be served: %s", error)
        except Exception:
            self.failure = "it failed to load or to answer a first image"
            logger.exception("the model cannot be served: it failed to load or to answer a first image")
        else:
            logger.info("the model is ready after %.1f s", time.monotonic() - started)
            predictor.watch(self._batch_done)
            self.classes = predictor.classes
            self._predictor = predictor
            return True
        return False

    def _check(self, predictor: Predicts) -> None:
        """After an unexpected failure: some, like a lost CUDA context, stay until the process ends."""
        try:
            predictor.warm_up()
        except Exception:
            self._thread.give_up()
            logger.exception("the model no longer answers: this worker is replaced")
            self._on_breakdown()
