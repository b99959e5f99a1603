from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from tilewise.errors import UserError
from tilewise.serving.compute import BusyError, ClientLeftError, ComputeThread
from tilewise.serving.served_model import Predicts, ServedModel, Timings
from tilewise.tiling.spec import TileOptions

if TYPE_CHECKING:
    from tilewise.inference.detections import Prediction

ANSWER = cast("Prediction", SimpleNamespace(width=1, height=1, detections=()))


class FakePredictor:
    classes = ("ant",)

    def __init__(self) -> None:
        self.backend: Any = None
        self.broken = False
        self.warm_ups = 0
        self.threads: set[int] = set()
        self.inside = 0
        self.most_inside = 0
        self.gate = threading.Event()
        self.gate.set()

    def watch(self, tell: Callable[[int, float], None]) -> None:
        pass

    def warm_up(self) -> None:
        self.warm_ups += 1
        self.threads.add(threading.get_ident())
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def seen_as(self, options: TileOptions) -> FakePredictor:
        return self

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        return (ANSWER for _ in images)

    def decode(self, image: bytes) -> Any:
        self.inside += 1
        self.threads.add(threading.get_ident())
        self.most_inside = max(self.most_inside, self.inside)
        assert self.gate.wait(10)
        self.inside -= 1
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if image == b"text":
            raise UserError("not an image")
        if image == b"odd":
            raise RuntimeError("odd")
        return image


class Calls:
    """A served model, and what became of its worker."""

    def __init__(
        self, predictor: FakePredictor | Exception, patience_s: float = 10, silence_s: float = 60
    ) -> None:
        self.stopped = 0
        self.retired = 0
        self.predictor = predictor
        self.thread = ComputeThread(patience_s, silence_s, self.retire)
        self.model = ServedModel(self.load, self.thread, self.stop, on_breakdown=self.retire)

    def load(self) -> Predicts:
        if isinstance(self.predictor, Exception):
            raise self.predictor
        return cast(Predicts, self.predictor)

    def stop(self) -> None:
        self.stopped += 1

    def retire(self) -> None:
        self.retired += 1


def started(calls: Calls) -> ServedModel:
    calls.thread.start()
    deadline = time.monotonic() + 10
    while not (calls.model.ready or calls.stopped):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return calls.model


def test_served_model__ready_after_its_warm_up() -> None:
    predictor = FakePredictor()
    calls = Calls(predictor)
    assert not calls.model.ready
    model = started(calls)
    assert model.ready
    assert predictor.warm_ups == 1
    assert model.predict(b"image") is ANSWER


def test_served_model__predict_waits_for_the_model() -> None:
    calls = Calls(FakePredictor())
    answers: list[object] = []
    early = threading.Thread(target=lambda: answers.append(calls.model.predict(b"image")))
    early.start()
    started(calls)
    early.join(10)
    assert answers == [ANSWER]


def test_served_model__not_for_ever() -> None:
    calls = Calls(FakePredictor(), patience_s=0.01)
    with pytest.raises(BusyError, match="not ready"):
        calls.model.predict(b"image")


def test_served_model__one_at_a_time_on_one_thread() -> None:
    predictor = FakePredictor()
    predictor.gate.clear()
    model = started(Calls(predictor, patience_s=10))
    threads = [threading.Thread(target=model.predict, args=(b"image",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    predictor.gate.set()
    for thread in threads:
        thread.join(10)
    assert predictor.most_inside == 1
    assert len(predictor.threads) == 1


def test_served_model__turn_does_not_come() -> None:
    predictor = FakePredictor()
    predictor.gate.clear()
    model = started(Calls(predictor, patience_s=0.1))
    answers: list[object] = []
    first = threading.Thread(target=lambda: answers.append(model.predict(b"image")))
    first.start()
    while not predictor.inside:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="waiting"):
        model.predict(b"image")
    predictor.gate.set()
    first.join(10)
    assert answers == [ANSWER], "a prediction that has begun is finished"
    assert model.predict(b"image") is ANSWER


def test_served_model__no_usable_model_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls(UserError("the model folder holds no model.json"))
    model = started(calls)
    assert calls.stopped == 1
    assert not model.ready
    assert [record.getMessage() for record in caplog.records] == [
        "the model cannot be served: the model folder holds no model.json"
    ]
    assert caplog.records[0].exc_info is None


def test_served_model__failing_warm_up_stops_the_server(caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakePredictor()
    predictor.broken = True
    calls = Calls(predictor)
    model = started(calls)
    assert calls.stopped == 1
    assert not model.ready
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(("image", "error"), [(b"text", UserError), (b"odd", RuntimeError)])
def test_served_model__one_bad_image_does_no_harm(image: bytes, error: type[Exception]) -> None:
    calls = Calls(FakePredictor())
    model = started(calls)
    with pytest.raises(error):
        model.predict(image)
    assert model.ready
    assert model.predict(b"image") is ANSWER
    assert calls.retired == 0


def test_served_model__lasting_failure_retires_the_worker() -> None:
    predictor = FakePredictor()
    calls = Calls(predictor, patience_s=0.01)
    model = started(calls)
    predictor.broken = True
    with pytest.raises(RuntimeError):
        model.predict(b"image")
    assert calls.retired == 1
    assert not model.ready
    with pytest.raises(BusyError):
        model.predict(b"image")
    assert calls.retired == 1


def test_served_model__nobody_waits_any_more() -> None:
    predictor = FakePredictor()
    predictor.gate.clear()
    model = started(Calls(predictor))
    first = threading.Thread(target=model.predict, args=(b"image",))
    first.start()
    while not predictor.inside:
        time.sleep(0.001)
    left = threading.Event()
    left.set()
    with pytest.raises(ClientLeftError):
        model.predict(b"image", client_left=left)
    predictor.gate.set()
    first.join(10)
    assert predictor.most_inside == 1


def test_served_model__silence_retires_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakePredictor()
    predictor.gate.clear()
    calls = Calls(predictor, silence_s=0.1)
    model = started(calls)
    with pytest.raises(BusyError, match="replaced"):
        model.predict(b"image")
    assert calls.retired == 1
    assert not model.ready
    assert "has not moved" in caplog.text
    predictor.gate.set()


def test_served_model__timings() -> None:
    timings = Timings()
    started(Calls(FakePredictor())).predict(b"image", timings=timings)
    assert timings.sizes == [(1, 1)]
    assert timings.wait_s >= 0 and timings.decode_s >= 0 and timings.merge_s >= 0


def test_compute_thread__refuses_what_would_come_too_late() -> None:
    thread = ComputeThread(1.0, 60, lambda: None)
    thread.start()
    thread.do(lambda: time.sleep(1.2))
    inside, gate = threading.Event(), threading.Event()

    def hold() -> bool:
        inside.set()
        return gate.wait(10)

    first = threading.Thread(target=thread.do, args=(hold,))
    first.start()
    assert inside.wait(10)
    with pytest.raises(BusyError, match="waiting") as refused:
        thread.do(lambda: None)
    assert refused.value.retry_after_s >= 1
    gate.set()
    first.join(10)


class Batching(FakePredictor):
    """Looks at up to four images together, as a GPU's backend does; notes which."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = SimpleNamespace(batch_size=4)
        self.batches: list[list[bytes]] = []

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        self.batches.append(list(images))
        for image in self.batches[-1]:
            yield cast("Prediction", SimpleNamespace(width=len(image), height=1, detections=(image,)))


def ask_all(model: ServedModel, images: list[bytes], **more: Any) -> list[Any]:
    """What becomes of requests that wait together, in their order."""
    results: list[Any] = [None] * len(images)

    def ask(index: int) -> None:
        try:
            results[index] = model.predict(images[index], **more).detections
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
        time.sleep(0.02)  # in their order
    predictor = cast(Any, model)._predictor
    predictor.gate.set()
    for thread in threads:
        thread.join(10)
    return results


def test_batches__images_that_wait_go_through_a_gpu_together() -> None:
    predictor = Batching()
    calls = Calls(predictor)
    started(calls)
    predictor.gate.clear()
    images = [bytes([65 + index]) * (index + 1) for index in range(6)]
    # the first is being decoded while the others come
    assert ask_all(calls.model, images) == [(image,) for image in images]
    assert predictor.batches == [images[:1], images[1:5], images[5:]]


def test_batches__a_damaged_image_is_its_own_clients_alone() -> None:
    predictor = Batching()
    calls = Calls(predictor)
    started(calls)
    predictor.gate.clear()
    results = ask_all(calls.model, [b"a", b"b", b"text", b"c"])
    assert results[:2] == [(b"a",), (b"b",)] and results[3] == (b"c",)
    assert isinstance(results[2], UserError)
    assert predictor.batches == [[b"a"], [b"b", b"c"]]


def test_batches__wait_for_company_as_long_as_they_may() -> None:
    predictor = Batching()
    thread = ComputeThread(10, 60, lambda: None)
    model = ServedModel(
        lambda: cast(Predicts, predictor), thread, print, on_breakdown=print, batch_delay_s=5.0
    )
    thread.start()
    begin = time.monotonic()
    assert ask_all(model, [b"a", b"b", b"c", b"d"]) == [(b"a",), (b"b",), (b"c",), (b"d",)]
    assert predictor.batches == [[b"a", b"b", b"c", b"d"]] and time.monotonic() - begin < 5


def test_batches__images_with_other_tiles_go_alone() -> None:
    predictor = Batching()
    calls = Calls(predictor)
    started(calls)
    predictor.gate.clear()
    other = threading.Thread(target=lambda: calls.model.predict(b"x", tiles=TileOptions(tiled=False)))
    first = threading.Thread(target=lambda: calls.model.predict(b"a"))
    for asking in (first, other):
        asking.start()
        time.sleep(0.02)
    ask_all(calls.model, [b"b"])
    for asking in (first, other):
        asking.join(10)
    assert sorted(predictor.batches) == [[b"a"], [b"b"], [b"x"]]
