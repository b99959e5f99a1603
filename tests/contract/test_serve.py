"""The real ``serve`` executable with a real model, over HTTP: what SageMaker sees."""

from __future__ import annotations

import http.client
import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from endpoint_process import STARTUP_S, Answer, EndpointProcess, serving
from PIL import Image


def encoded(image_format: str, width: int = 400, height: int = 300) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, image_format)
    return stream.getvalue()


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with serving(model_folder, tmp_path_factory.mktemp("serve")) as running:
        statuses = running.wait_until_ready()
        assert set(statuses) <= {0, 503}
        yield running
        assert "Traceback" not in running.log


def test_ping__empty_body(server: EndpointProcess) -> None:
    status, _, body = server.request("GET", "/ping")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("content_type", ["application/x-image", "image/jpeg"])
def test_invocations__default_answer(server: EndpointProcess, image_format: str, content_type: str) -> None:
    status, kind, body = server.invoke(encoded(image_format), content_type)
    assert (status, kind) == (200, "application/json")
    rows = json.loads(body)["prediction"]
    assert rows, "the model of this test has no threshold: it finds something everywhere"
    assert all(len(row) == 6 and all(isinstance(number, float) for number in row) for row in rows)
    assert all(0 <= number <= 1 for row in rows for number in row[1:])
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_invocations__the_same_as_the_library(server: EndpointProcess, model_folder: Path) -> None:
    from tilewise.inference.predictor import Predictor

    image = encoded("PNG")
    expected = Predictor.load(model_folder).predict(image).detections
    rows = np.array(json.loads(server.invoke(image)[2])["prediction"])
    assert np.abs(rows[:, 1] - expected.scores).max() < 1e-4
    assert np.abs(rows[:, 2:] * [400, 300, 400, 300] - expected.boxes).max() < 0.05


def test_invocations__annotation(server: EndpointProcess) -> None:
    status, kind, body = server.invoke(encoded("JPEG"), accept="application/json;annotation=1")
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert answer["image_size"] == [{"width": 400, "height": 300, "depth": 3}]
    assert set(answer["annotations"][0]) == {"class_id", "score", "left", "top", "width", "height"}


@pytest.mark.parametrize("accept", ["application/jsonlines", "application/jsonlines;annotation=1"])
def test_invocations__json_lines(server: EndpointProcess, accept: str) -> None:
    status, kind, body = server.invoke(encoded("JPEG"), accept=accept)
    assert (status, kind) == (200, "application/jsonlines")
    assert body.endswith(b"\n") and body.count(b"\n") == 1
    assert json.loads(body) == json.loads(
        server.invoke(encoded("JPEG"), accept=accept.replace("lines", ""))[2]
    )


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "expected"),
    [
        (b"This is text, not an image.", "image/jpeg", "*/*", 400),
        (encoded("JPEG")[:2000], "image/jpeg", "*/*", 400),
        (b"", "image/jpeg", "*/*", 400),
        (b"1,2,3", "text/csv", "*/*", 415),
        (encoded("JPEG"), "image/jpeg", "text/csv", 406),
        (bytes(30 * 1024 * 1024), "image/jpeg", "*/*", 413),
    ],
)
def test_invocations__refused(
    server: EndpointProcess, body: bytes, content_type: str, accept: str, expected: int
) -> None:
    status, kind, answer = server.invoke(body, content_type, accept)
    assert (status, kind) == (expected, "application/json")
    reason = json.loads(answer)["error"]
    assert 0 < len(reason) < 300 and "/" + "opt" not in reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_invocations__the_image_drawn(server: EndpointProcess, image_format: str) -> None:
    media_type = f"image/{image_format.lower()}"
    status, kind, body = server.invoke(encoded("PNG"), accept=media_type)
    assert (status, kind) == (200, media_type)
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.format == image_format and picture.size == (400, 300)


def test_invocations__tiles_of_a_request(server: EndpointProcess) -> None:
    image = encoded("JPEG")
    whole = json.loads(server.invoke(image)[2])["prediction"]
    tiled = server.request("POST", "/invocations?tile_grid_size=2x2", image, Content_Type="image/jpeg")
    assert tiled[0] == 200
    assert json.loads(tiled[2])["prediction"] != whole
    assert json.loads(server.invoke(image)[2])["prediction"] == whole


def test_invocations__chunks_over_the_limit(server: EndpointProcess) -> None:
    chunks = (bytes(1024 * 1024) for _ in range(30))
    assert server.request("POST", "/invocations", chunks, Content_Type="image/jpeg")[0] == 413


def test_invocations__use_memory_again(server: EndpointProcess) -> None:
    image = encoded("JPEG", 1600, 1200)
    for _ in range(3):
        server.invoke(image)
    before = server.page_faults()
    for _ in range(10):
        assert server.invoke(image)[0] == 200
    assert server.page_faults() - before < 10 * 500


def test_other_paths__small_json(server: EndpointProcess) -> None:
    assert server.request("GET", "/models")[:2] == (404, "application/json")
    assert server.request("GET", "/invocations")[:2] == (405, "application/json")
    parameters = json.loads(server.request("GET", "/execution-parameters")[2])
    assert parameters == {
        "MaxConcurrentTransforms": 1,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": 25,
    }


def test_ping__answers_during_invocations(server: EndpointProcess) -> None:
    large = encoded("JPEG", 4000, 3000)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(server.invoke(large))) for _ in range(4)]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert server.request("GET", "/ping")[0] == 200
        waits.append(time.monotonic() - started)
    assert [answer[0] for answer in answers] == [200] * 4
    assert max(waits) < 2


def test_log__a_line_for_invocations_none_for_pings(server: EndpointProcess) -> None:
    server.invoke(encoded("JPEG"))
    assert '"POST /invocations HTTP/1.1" 200' in server.log
    assert "/ping" not in server.log


def test_graph__is_served_without_pytorch_as_the_model_is(
    server: EndpointProcess, graph_folder: Path, tmp_path: Path
) -> None:
    image = encoded("JPEG")
    expected = np.array(json.loads(server.invoke(image)[2])["prediction"])
    with serving(graph_folder, tmp_path, CUDA_VISIBLE_DEVICES="") as graph:
        graph.wait_until_ready()
        rows = np.array(json.loads(graph.invoke(image)[2])["prediction"])
        assert "the model runs in ONNX Runtime: model.onnx holds its graph" in graph.log
        (worker,) = graph.workers
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
        resident = int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096
        assert resident < 400e6
    assert np.abs(rows[:, 1] - expected[:, 1]).max() < 1e-4


def test_sigterm__answers_what_it_holds(model_folder: Path, tmp_path: Path) -> None:
    image = encoded("JPEG")
    with serving(model_folder, tmp_path, SAGEMAKER_MODEL_SERVER_WORKERS="2") as server:
        server.wait_until_ready()
        assert server.log.count("Booting worker") == 2
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            connection.putrequest("POST", "/invocations")
            connection.putheader("Content-Type", "image/jpeg")
            connection.putheader("Content-Length", str(len(image)))
            connection.endheaders(image[:1000])
            time.sleep(0.5)  # for a worker to accept it
            server.process.send_signal(signal.SIGTERM)
            stopped = time.monotonic()
            time.sleep(0.5)
            with pytest.raises(ConnectionError):
                server.request("GET", "/ping")
            connection.send(image[1000:])
            response = connection.getresponse()
            assert response.status == 200
            assert json.loads(response.read())["prediction"]
        finally:
            connection.close()
        assert server.process.wait(30) == 0
        assert time.monotonic() - stopped < 10
        assert "Traceback" not in server.log


def test_sigterm__while_the_model_loads(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as server:
        while "Booting worker" not in server.log:
            assert server.process.poll() is None, server.log
            time.sleep(0.05)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert "is ready" not in server.log


def test_broken_model__one_sentence_and_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text("{")
    with serving(folder, tmp_path) as server:
        assert server.process.wait(STARTUP_S) not in (0, 1)
        assert server.log.count("the model cannot be served: ") == 1
        assert server.log.count("Booting worker") == 1
        assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "variable",
    [
        "SAGEMAKER_BIND_TO_PORT",
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        "TILEWISE_MAX_PAYLOAD_MB",
        "TILEWISE_BACKEND",
    ],
)
def test_wrong_variable__exit_2(tmp_path: Path, variable: str) -> None:
    with serving(tmp_path, tmp_path, **{variable: "many"}) as server:
        assert server.process.wait(30) == 2
        assert server.log.startswith(variable)
        assert server.log.count("\n") == 1
