"""The real ``serve`` executable with a real model, over HTTP: what SageMaker sees."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SERVE = Path(__file__).resolve().parents[2] / "serve"
STARTUP_S = 60.0
NAMES = ("SAGEMAKER_", "MODEL_SERVER_", "TILEWISE_")

Answer = tuple[int, str, bytes]


class Server:
    """A ``serve`` process, its log, and a client for it."""

    def __init__(self, model_folder: Path, workspace: Path, **variables: str) -> None:
        base = workspace / "ml"
        base.mkdir()
        (base / "model").symlink_to(model_folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(NAMES)}
        environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        environ["OMP_NUM_THREADS"] = "1"  # more would wait for each other on a machine that is busy
        environ["SAGEMAKER_MODEL_SERVER_WORKERS"] = "1"  # also where there are many cores
        environ |= {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(self.port)} | variables
        self.log_path = workspace / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen([SERVE], env=environ, cwd=workspace, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body, headers=named)  # type: ignore[arg-type]
            response = connection.getresponse()
            return response.status, response.headers.get_content_type(), response.read()
        finally:
            connection.close()

    def invoke(self, body: bytes, content_type: str = "application/x-image", accept: str = "*/*") -> Answer:
        return self.request("POST", "/invocations", body, Content_Type=content_type, Accept=accept)

    def page_faults(self) -> int:
        """Of the worker, since it began: pages of memory that it got."""
        pid = self.process.pid
        (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[7])

    def wait_until_ready(self) -> list[int]:
        """Ping until 200. Returns what the pings before it got, 0 for a refused connection."""
        statuses: list[int] = []
        deadline = time.monotonic() + STARTUP_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                status = self.request("GET", "/ping")[0]
            except ConnectionError:
                status = 0
            if status == 200:
                return statuses
            statuses.append(status)
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.log}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def serving(model_folder: Path, workspace: Path, **variables: str) -> Iterator[Server]:
    server = Server(model_folder, workspace, **variables)
    try:
        yield server
    finally:
        server.close()


def encoded(image_format: str, width: int = 400, height: int = 300) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, image_format)
    return stream.getvalue()


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(model_folder, tmp_path_factory.mktemp("serve")) as running:
        statuses = running.wait_until_ready()
        assert set(statuses) <= {0, 503}
        yield running
        assert "Traceback" not in running.log


def test_ping__empty_body(server: Server) -> None:
    status, _, body = server.request("GET", "/ping")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("content_type", ["application/x-image", "image/jpeg"])
def test_invocations__default_answer(server: Server, image_format: str, content_type: str) -> None:
    status, kind, body = server.invoke(encoded(image_format), content_type)
    assert (status, kind) == (200, "application/json")
    rows = json.loads(body)["prediction"]
    assert rows, "the model of this test has no threshold: it finds something everywhere"
    assert all(len(row) == 6 and all(isinstance(number, float) for number in row) for row in rows)
    assert all(0 <= number <= 1 for row in rows for number in row[1:])
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_invocations__the_same_as_the_library(server: Server, model_folder: Path) -> None:
    from tilewise.inference.predictor import Predictor

    image = encoded("PNG")
    expected = Predictor.load(model_folder).predict(image).detections
    rows = np.array(json.loads(server.invoke(image)[2])["prediction"])
    assert np.abs(rows[:, 1] - expected.scores.numpy()).max() < 1e-4
    assert np.abs(rows[:, 2:] * [400, 300, 400, 300] - expected.boxes.numpy()).max() < 0.05


def test_invocations__annotation(server: Server) -> None:
    status, kind, body = server.invoke(encoded("JPEG"), accept="application/json;annotation=1")
    assert (status, kind) == (200, "application/json")
    answer = json.loads(body)
    assert answer["image_size"] == [{"width": 400, "height": 300, "depth": 3}]
    assert set(answer["annotations"][0]) == {"class_id", "score", "left", "top", "width", "height"}


@pytest.mark.parametrize("accept", ["application/jsonlines", "application/jsonlines;annotation=1"])
def test_invocations__json_lines(server: Server, accept: str) -> None:
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
    server: Server, body: bytes, content_type: str, accept: str, expected: int
) -> None:
    status, kind, answer = server.invoke(body, content_type, accept)
    assert (status, kind) == (expected, "application/json")
    reason = json.loads(answer)["error"]
    assert 0 < len(reason) < 300 and "/" + "opt" not in reason


def test_invocations__chunks_over_the_limit(server: Server) -> None:
    chunks = (bytes(1024 * 1024) for _ in range(30))
    assert server.request("POST", "/invocations", chunks, Content_Type="image/jpeg")[0] == 413


def test_invocations__use_memory_again(server: Server) -> None:
    image = encoded("JPEG", 1600, 1200)
    for _ in range(3):
        server.invoke(image)
    before = server.page_faults()
    for _ in range(10):
        assert server.invoke(image)[0] == 200
    assert server.page_faults() - before < 10 * 500


def test_other_paths__small_json(server: Server) -> None:
    assert server.request("GET", "/models")[:2] == (404, "application/json")
    assert server.request("GET", "/invocations")[:2] == (405, "application/json")
    parameters = json.loads(server.request("GET", "/execution-parameters")[2])
    assert parameters == {
        "MaxConcurrentTransforms": 1,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": 25,
    }


def test_ping__answers_during_invocations(server: Server) -> None:
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


def test_log__a_line_for_invocations_none_for_pings(server: Server) -> None:
    server.invoke(encoded("JPEG"))
    assert '"POST /invocations HTTP/1.1" 200' in server.log
    assert "/ping" not in server.log


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
    "variable", ["SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_MODEL_SERVER_WORKERS", "TILEWISE_MAX_PAYLOAD_MB"]
)
def test_wrong_variable__exit_2(tmp_path: Path, variable: str) -> None:
    with serving(tmp_path, tmp_path, **{variable: "many"}) as server:
        assert server.process.wait(30) == 2
        assert server.log.startswith(variable)
        assert server.log.count("\n") == 1
