"""What clients can do to a server, done to a real one."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_process import Answer, EndpointProcess, standing_in
from tilewise.serving.worker import OPEN_FILES

JPEG = b"\xff\xd8\xff"
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
FIRST_BYTES = {
    "idle": b"",
    "onebyte": b"G",
    "headers": HEAD + b"X-A: ",
    "body": HEAD + b"Content-Length: 20000\r\n\r\n\xff",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n4e20\r\n\xff",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with standing_in(tmp_path_factory.mktemp("attacked")) as running:
        yield running
        assert "Traceback" not in running.log.replace("secret", "")


def reason(answer: Answer) -> str:
    assert answer[1] == "application/json"
    return str(json.loads(answer[2])["error"])


@pytest.mark.parametrize("kind", FIRST_BYTES)
def test_slow_clients__hold_up_nobody(server: EndpointProcess, kind: str) -> None:
    held = [server.connect(FIRST_BYTES[kind]) for _ in range(200)]
    try:
        for _ in range(5):
            assert server.request("GET", "/ping")[0] == 200
            assert server.invoke(JPEG)[0] == 200
            if kind != "idle":
                for connection in held:
                    connection.sendall(b"a")
    finally:
        for connection in held:
            connection.close()


def test_worker__its_table_of_files_need_not_grow(server: EndpointProcess) -> None:
    """The kernel would wait for all processors each time, and the health check with it."""
    assert server.request("GET", "/ping")[0] == 200
    (worker,) = server.workers
    status = Path(f"/proc/{worker}/status").read_text()
    (size,) = re.findall(r"^FDSize:\s*(\d+)$", status, re.MULTILINE)
    limits = Path(f"/proc/{worker}/limits").read_text()
    (limit,) = re.findall(r"^Max open files +(\d+)", limits, re.MULTILINE)
    assert int(size) >= min(int(limit), OPEN_FILES) > 200


def test_slow_clients__that_do_not_read_hold_up_nobody(server: EndpointProcess) -> None:
    request = HEAD + b"Content-Length: 16\r\n\r\n" + (JPEG + b" views=3000").ljust(16)
    held = [server.connect(request) for _ in range(12)]
    try:
        assert server.request("GET", "/ping")[0] == 200
        assert server.invoke(JPEG)[0] == 200
    finally:
        for connection in held:
            connection.close()


def test_slow_head__408_in_the_end_though_it_goes_on(server: EndpointProcess) -> None:
    others = [server.connect(FIRST_BYTES["headers"]) for _ in range(60)]
    with server.connect(FIRST_BYTES["headers"]) as connection:
        answered = threading.Event()
        drip(connection, answered)
        answer = server.answer_on(connection)
        answered.set()
    assert answer[0] == 408 and "head" in reason(answer)
    for other in others:  # which time out together
        with other:
            assert server.answer_on(other)[0] == 408


def drip(connection: socket.socket, answered: threading.Event) -> None:
    """Send a byte now and then, on a thread of its own."""

    def send() -> None:
        while not answered.wait(0.5):
            try:
                connection.sendall(b"a")
            except OSError:
                return

    threading.Thread(target=send, daemon=True).start()


def test_idle_connection__closed_without_a_word(server: EndpointProcess) -> None:
    with server.connect() as connection:
        assert connection.recv(1000) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\nHost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"x" * 100_000, 414),
        (b"GET /ping HTTP/1.1\r\nExpect: tea\r\n\r\n", 417),
        (b"GET /ping HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: 1\r\n" * 20_000, 431),
        (HEAD + b"Transfer-Encoding: tea\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    ],
)
def test_no_request__our_json(server: EndpointProcess, sent: bytes, status: int) -> None:
    answer = server.say(sent)
    assert answer[0] == status
    assert 0 < len(reason(answer)) < 300


def test_body_in_chunks(server: EndpointProcess) -> None:
    pieces = (JPEG, b" views=", b"3")
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    answer = server.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX: y\r\n\r\n")
    assert answer[0] == 200 and len(json.loads(answer[2])["prediction"]) == 6


def test_expect_continue__asked_for_the_body_or_refused(server: EndpointProcess) -> None:
    with server.connect(HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n") as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(JPEG)
        assert server.answer_on(connection)[0] == 200
    large = HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    assert server.say(large)[0] == 413


def test_pipelined_requests__answered_in_order(server: EndpointProcess) -> None:
    bodies = [JPEG + b" views=%d" % views for views in (3, 1, 2)]
    requests = [HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies]
    with server.connect(b"".join(requests)) as connection:
        found = [len(json.loads(server.answer_on(connection)[2])["prediction"]) for _ in bodies]
    assert found == [6, 2, 4]


def test_pipelined_pings__hundreds_answered(server: EndpointProcess) -> None:
    said = b""
    with server.connect(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 1500) as connection:
        while said.count(b"HTTP/1.1 200 OK") < 1500:
            piece = connection.recv(65536)
            assert piece
            said += piece


def test_abandoned_requests__not_computed(server: EndpointProcess) -> None:
    slow = JPEG + b" views=100 seconds=0.1"
    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(slow), slow)
    held = [server.connect(request) for _ in range(20)]
    time.sleep(0.3)
    for connection in held:
        connection.close()
    assert server.invoke(JPEG)[0] == 200, "200 s of work that nobody waits for would be in front of it"


def test_refusal__by_the_time_that_is_expected(tmp_path: Path) -> None:
    slow = JPEG + b" seconds=0.2"
    responses: list[http.client.HTTPResponse] = []
    with standing_in(tmp_path, SAGEMAKER_MODEL_SERVER_TIMEOUT="1") as server:
        server.invoke(slow)

        def ask() -> None:
            responses.append(server.send("POST", "/invocations", slow, Content_Type="image/jpeg"))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {response.status for response in responses} == {200, 503}
    assert sum(response.status == 200 for response in responses) >= 4
    for response in responses:
        if response.status == 503:
            seconds = int(response.headers["Retry-After"])
            content = json.loads(response.read())
            assert content["retry_after"] == seconds >= 1
            assert f"try again in {seconds} s" in content["error"]


def test_many_at_once__all_answered_that_can_be_in_time(server: EndpointProcess) -> None:
    answers: list[Answer] = []
    image = JPEG + b" seconds=0.05"
    threads = [threading.Thread(target=lambda: answers.append(server.invoke(image))) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer[0] for answer in answers] == [200] * 60


def test_model_that_hangs__is_replaced(tmp_path: Path) -> None:
    with standing_in(tmp_path, TILEWISE_VIEW_TIMEOUT="1") as server:
        (first,) = server.workers
        assert server.invoke(JPEG + b" views=8 seconds=0.3")[0] == 200, "it gets on, view by view"
        answers: list[Answer] = []
        hung = threading.Thread(target=lambda: answers.append(server.invoke(JPEG + b" seconds=1000")))
        hung.start()
        time.sleep(0.2)
        waiting = threading.Thread(target=lambda: answers.append(server.invoke(JPEG)))
        waiting.start()
        hung.join()
        waiting.join()
        assert [answer[0] for answer in answers] == [503, 503]
        assert "replaced" in reason(answers[0])
        server.wait_until_ready()
        assert server.workers != [first]
        assert server.invoke(JPEG)[0] == 200
        assert "the model has not moved for 1 s" in server.log


def test_worker__recycled_in_a_quiet_moment(tmp_path: Path) -> None:
    with standing_in(tmp_path, TILEWISE_MAX_REQUESTS="5") as server:
        (first,) = server.workers
        for _ in range(12):
            assert server.invoke(JPEG)[0] == 200
        deadline = time.monotonic() + 20
        while server.workers == [first] or not server.workers:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.invoke(JPEG)[0] == 200
        assert "a fresh one takes over" in server.log


def test_sigterm__slow_clients_do_not_hold_it_up(tmp_path: Path) -> None:
    with standing_in(tmp_path) as server:
        held = [server.connect(sent) for sent in (b"", b"G")]
        server.request("GET", "/ping")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(9) == 0
        for connection in held:
            connection.close()
