from __future__ import annotations

import base64
import gc
import gzip
import json
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from flask.testing import FlaskClient
from made_instances import make_instances
from tilewise.data.decoding.decode import DecodedImage, DecodeError, ImageTooLargeError
from tilewise.inference.detections import Prediction
from tilewise.inference.model_card import ModelCard
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model
from tilewise.serving.responses import Form
from tilewise.serving.served_model import Predicts, ServedModel
from tilewise.serving.settings import Settings
from tilewise.tiling.spec import TileOptions
from werkzeug.test import TestResponse

JPEG = b"\xff\xd8\xff and so on"


class FakePredictor:
    """Finds one object in everything that begins like a JPEG."""

    classes = ("ant", "bee")

    def __init__(self) -> None:
        self.backend: Any = None
        self.images: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()

    def watch(self, tell: Callable[[int, float], None]) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def seen_as(self, options: TileOptions) -> FakePredictor:
        return self

    def decode(self, image: bytes) -> DecodedImage:
        self.images.append(image)
        self.inside.set()
        assert self.gate.wait(10)
        if image.startswith(b"huge"):
            raise ImageTooLargeError("the image has 100000 x 100000 pixels")
        if image.startswith(b"memory of NumPy"):
            raise MemoryError("Unable to allocate 9 GiB")
        if image.startswith(b"memory of torch"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if image.startswith(b"bug"):
            raise RuntimeError("/opt/ml/model/secret")
        if not image.startswith(b"\xff\xd8\xff"):
            raise DecodeError("these bytes are not an image in a known format")
        return DecodedImage.whole(np.zeros((3, 200, 100), np.uint8))

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Prediction]:
        found = make_instances([[10, 20, 30, 60]], [0.5], [1])
        for image in images:
            yield Prediction(image.width, image.height, found)


class Client:
    """A test client for an app around a fake predictor."""

    def __init__(
        self,
        settings: Settings,
        predictor: FakePredictor,
        start: bool = True,
        card: ModelCard = ModelCard(),  # noqa: B008  # it is frozen
    ) -> None:
        thread = ComputeThread(0.2, 60, _unexpected)
        self.thread = thread
        self.model = ServedModel(
            lambda: cast(Predicts, predictor), thread, _unexpected, on_breakdown=_unexpected
        )
        model = Model(self.model, card)
        if start:
            self.start()
        self.http: FlaskClient = create_app(model, settings).test_client()

    def start(self) -> None:
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.model.ready:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def invoke(
        self, body: bytes, content_type: str | None = "application/x-image", accept: str = ""
    ) -> TestResponse:
        headers = {"Accept": accept} if accept else {}
        return self.http.post("/invocations", data=body, content_type=content_type, headers=headers)


def _unexpected() -> None:
    raise AssertionError("the worker was to be ended")


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def client(predictor: FakePredictor) -> Client:
    return Client(Settings(max_payload_mb=1, max_in_flight=2), predictor)


def refused(response: TestResponse, status: int) -> str:
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert {*response.get_json()} <= {"error", "retry_after"}
    reason = response.get_json()["error"]
    assert 0 < len(reason) < 300
    assert "/opt/" not in reason and "Traceback" not in reason and "<" not in reason
    return str(reason)


def test_ping__only_when_the_model_answers(predictor: FakePredictor) -> None:
    loading = Client(Settings(), predictor, start=False)
    assert loading.http.get("/ping").status_code == 503
    loading.start()
    response = loading.http.get("/ping")
    assert (response.status_code, response.data) == (200, b"")


def test_invocations__default_answer(client: Client) -> None:
    response = client.invoke(JPEG)
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    rows = [[1.0, 0.5, 0.1, 0.1, 0.3, 0.3]]
    assert response.get_json() == {"prediction": rows, "classes": ["ant", "bee"]}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-image",
        "image/jpeg",
        "image/jpg",
        "image/png",
        "IMAGE/JPEG",
        "image/webp",
        "image/jpeg; charset=binary",
        "application/octet-stream",
        "binary/octet-stream",
        None,
    ],
)
def test_invocations__image_types(client: Client, predictor: FakePredictor, content_type: str | None) -> None:
    assert client.invoke(JPEG, content_type).status_code == 200
    assert predictor.images == [JPEG]


@pytest.mark.parametrize(
    "content_type",
    ["text/csv", "application/zip", "video/mp4"],
)
def test_invocations__other_types(client: Client, predictor: FakePredictor, content_type: str) -> None:
    assert "application/x-image" in refused(client.invoke(JPEG, content_type), 415)
    assert predictor.images == []


def test_invocations__packed_body_is_named(client: Client, predictor: FakePredictor) -> None:
    packed = {"data": gzip.compress(JPEG), "content_type": "image/jpeg"}
    response = client.http.post("/invocations", headers={"Content-Encoding": "gzip"}, **packed)
    assert refused(response, 415).startswith("the Content-Encoding is gzip: send the body as it is")
    assert predictor.images == []
    plain = {"data": JPEG, "content_type": "image/jpeg", "headers": {"Content-Encoding": "identity"}}
    assert client.http.post("/invocations", **plain).status_code == 200


def test_invocations__calibrated_scores_on_request(predictor: FakePredictor) -> None:
    """A score of 0.5 stands for a chance of 0.27, which is below a threshold of 0.5."""
    card = ModelCard(classes=("ant", "bee"), threshold=0.45, calibration=ScoreCalibration(2.0, -1.0))
    client = Client(Settings(), predictor, card=card)

    def answered(query: str) -> list[float]:
        response = client.http.post(f"/invocations?{query}", data=JPEG, content_type="application/x-image")
        return [row[1] for row in response.get_json()["prediction"]]

    assert answered("") == answered("scores=model") == [0.5]
    assert answered("scores=calibrated") == pytest.approx([1 / (1 + math.e)])
    assert answered("scores=calibrated&threshold=0.5") == []
    assert answered("scores=calibrated&threshold=0.2") == pytest.approx([1 / (1 + math.e)])
    assert answered("scores=calibrated&threshold=recommended") == pytest.approx([1 / (1 + math.e)])
    described = client.http.get("/").get_json()["model"]
    assert described["score_calibration"] == {"temperature": 2.0, "bias": -1.0}


def test_invocations__nothing_calibrates_the_scores(client: Client) -> None:
    response = client.http.post(
        "/invocations?scores=calibrated", data=JPEG, content_type="application/x-image"
    )
    assert "nothing calibrates the scores of this model" in refused(response, 400)


def test_invocations__an_option_given_twice(client: Client) -> None:
    both = client.http.post("/invocations?classes=ant&classes=bee", data=JPEG)
    assert [row[0] for row in both.get_json()["prediction"]] == [1.0]
    assert "threshold=0.1,0.9" in refused(
        client.http.post("/invocations?threshold=0.1&threshold=0.9", data=JPEG), 400
    )


def test_invocations__annotation(client: Client) -> None:
    response = client.invoke(JPEG, accept="application/json;annotation=1")
    assert response.mimetype == "application/json"
    assert response.get_json() == {
        "image_size": [{"width": 100, "height": 200, "depth": 3}],
        "annotations": [{"class_id": 1, "score": 0.5, "left": 10, "top": 20, "width": 20, "height": 40}],
        "categories": [{"class_id": 0, "name": "ant"}, {"class_id": 1, "name": "bee"}],
    }


@pytest.mark.parametrize("accept", ["application/jsonlines", "application/jsonlines;annotation=1"])
def test_invocations__json_lines(client: Client, accept: str) -> None:
    response = client.invoke(JPEG, accept=accept)
    assert response.mimetype == "application/jsonlines"
    assert response.data.endswith(b"\n") and response.data.count(b"\n") == 1
    assert client.invoke(JPEG, accept=accept.replace("lines", "")).get_json() == json.loads(response.data)


def test_invocations__default_form_of_the_server(predictor: FakePredictor) -> None:
    client = Client(Settings(default_form=Form("application/jsonlines")), predictor)
    assert client.invoke(JPEG).mimetype == "application/jsonlines"
    assert client.invoke(JPEG, accept="*/*").mimetype == "application/jsonlines"
    assert client.invoke(JPEG, accept="application/json").mimetype == "application/json"


def test_invocations__not_acceptable(client: Client, predictor: FakePredictor) -> None:
    assert "application/json" in refused(client.invoke(JPEG, accept="text/csv"), 406)
    assert predictor.images == []


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"xmin,ymin,xmax,ymax", 400, "not an image"),
        (b"huge", 413, "100000 x 100000"),
    ],
)
def test_invocations__refused_bodies(client: Client, body: bytes, status: int, reason: str) -> None:
    assert reason in refused(client.invoke(body), status)


def test_invocations__names_the_image_that_cannot_be_read(client: Client) -> None:
    good, bad, huge = (base64.b64encode(each).decode() for each in (JPEG, b"text", b"huge"))
    lines = f'"{good}"\n{{"image": "{bad}", "name": "b.jpg"}}\n'.encode()
    assert "image 2 of 2, b.jpg: these bytes" in refused(client.invoke(lines, "application/jsonlines"), 400)
    instances = json.dumps({"instances": [good, good, huge]}).encode()
    assert "image 3 of 3: the image has" in refused(client.invoke(instances, "application/json"), 413)


@pytest.mark.parametrize("body", [b"memory of NumPy", b"memory of torch"])
def test_invocations__lack_of_memory_is_ours(client: Client, body: bytes) -> None:
    answer = client.invoke(body)
    assert "not enough memory for this image" in refused(answer, 503)
    assert answer.headers["Retry-After"] == "10"
    assert client.invoke(JPEG).status_code == 200


@pytest.mark.parametrize("body", [b"no image", b"huge", b"memory of NumPy", b"memory of torch"])
def test_invocations__what_a_broken_image_took_is_free_with_the_answer(
    client: Client, predictor: FakePredictor, body: bytes
) -> None:
    """Without the garbage collector, which may come minutes later."""

    class Pixels:
        pass

    decoded: list[weakref.ref[Pixels]] = []
    decode = predictor.decode

    def decode_half(image: bytes) -> DecodedImage:
        half = Pixels()
        decoded.append(weakref.ref(half))
        return decode(image)

    predictor.decode = decode_half  # type: ignore[method-assign]
    client.invoke(JPEG)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert client.invoke(body).status_code != 200
        client.invoke(JPEG)  # the compute thread keeps the last one
        assert [each() for each in decoded] == [None] * 5
    finally:
        gc.enable()


def test_invocations__failure_is_for_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert refused(client.invoke(b"bug"), 500) == "internal error"
    assert "/opt/ml/model/secret" in caplog.text
    assert "Traceback" in caplog.text
    assert client.invoke(JPEG).status_code == 200


def test_invocations__model_not_ready(predictor: FakePredictor) -> None:
    response = Client(Settings(), predictor, start=False).invoke(JPEG)
    assert "not ready" in refused(response, 503)
    assert int(response.headers["Retry-After"]) >= 1


def test_invocations__busy(predictor: FakePredictor) -> None:
    client = Client(Settings(max_in_flight=1), predictor)
    predictor.gate.clear()
    answers: list[TestResponse] = []
    first = threading.Thread(target=lambda: answers.append(client.invoke(JPEG)))
    first.start()
    assert predictor.inside.wait(10)
    response = client.invoke(JPEG)
    assert "waiting" in refused(response, 503)
    assert int(response.headers["Retry-After"]) >= 1
    assert client.http.get("/ping").status_code == 200
    predictor.gate.set()
    first.join(10)
    assert answers[0].status_code == 200
    assert client.invoke(JPEG).status_code == 200


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), (1, 25)),
        (Settings(workers=4), (4, 25)),
        (Settings(workers=8), (4, 25)),
        (Settings(workers=8, max_payload_mb=100), (1, 100)),
        (Settings(workers=8, max_payload_mb=500), (1, 100)),
    ],
)
def test_execution_parameters__within_what_batch_transform_allows(
    predictor: FakePredictor, settings: Settings, expected: tuple[int, int]
) -> None:
    response = Client(settings, predictor).http.get("/execution-parameters")
    assert response.get_json() == {
        "MaxConcurrentTransforms": expected[0],
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": expected[1],
    }


@pytest.mark.parametrize("path", ["/models", "/ping/", "//ping", "/static/x", "/%2e%2e/etc/passwd"])
def test_unknown_paths__404(client: Client, path: str) -> None:
    assert "/ping" in refused(client.http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/invocations"), ("DELETE", "/invocations"), ("POST", "/ping")]
)
def test_unknown_methods__405(client: Client, method: str, path: str) -> None:
    response = client.http.open(path, method=method)
    refused(response, 405)
    assert response.headers["Allow"]


def test_unknown_headers__ignored(client: Client) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "x" * 1024, "X-Amzn-SageMaker-Inference-Id": "1"}
    response = client.http.post("/invocations", data=JPEG, content_type="image/jpeg", headers=headers)
    assert response.status_code == 200
