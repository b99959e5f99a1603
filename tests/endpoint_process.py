"""A server as a process of its own, and clients for it, honest and other ones."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SERVE = (str(ROOT / "serve"),)
STAND_IN = (sys.executable, str(ROOT / "tests" / "serving" / "stand_in_server.py"))
STARTUP_S = 60.0
NAMES = ("SAGEMAKER_", "MODEL_SERVER_", "TILEWISE_")

Answer = tuple[int, str, bytes]


class EndpointProcess:
    """A server's process, its log, and a client for it."""

    def __init__(self, workspace: Path, command: Sequence[str] = SERVE, **variables: str) -> None:
        base = workspace / "ml"
        base.mkdir(exist_ok=True)
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
            self.process = subprocess.Popen(command, env=environ, cwd=workspace, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def send(self, method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        """The response; its body is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body, headers=named)  # type: ignore[arg-type]
            response = connection.getresponse()
            content = response.read()
            response.read = lambda *_: content  # type: ignore[method-assign]
            return response
        finally:
            connection.close()

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        response = self.send(method, path, body, **headers)
        return response.status, response.headers.get_content_type(), response.read()

    def invoke(self, body: bytes, content_type: str = "application/x-image", accept: str = "*/*") -> Answer:
        return self.request("POST", "/invocations", body, Content_Type=content_type, Accept=accept)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection that has sent this, and nothing else yet."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return connection

    def say(self, sent: bytes) -> tuple[int, str, bytes]:
        """The answer to bytes that need not be a request."""
        with self.connect(sent) as connection:
            return self.answer_on(connection)

    def answer_on(self, connection: socket.socket) -> tuple[int, str, bytes]:
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers.get_content_type(), response.read()

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def page_faults(self) -> int:
        """Of the worker, since it began: pages of memory that it got."""
        (worker,) = self.workers
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
def serving(model_folder: Path, workspace: Path, **variables: str) -> Iterator[EndpointProcess]:
    """``serve`` with a model."""
    (workspace / "ml").mkdir()
    (workspace / "ml" / "model").symlink_to(model_folder)
    server = EndpointProcess(workspace, **variables)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def standing_in(workspace: Path, **variables: Any) -> Iterator[EndpointProcess]:
    """The stand-in of ``tests/serving/stand_in_server.py``, ready."""
    server = EndpointProcess(workspace, STAND_IN, **variables)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.close()
