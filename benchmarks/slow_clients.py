"""How long ``/ping`` takes beside hundreds of slow clients, until all have timed out: a JSON line a kind.

python benchmarks/slow_clients.py [--connections 500] [--kinds idle,onebyte,headers,body] [--alone]

One worker with SSDlite's graph. The clients send a part of a request at the same moment, and then a byte
every two seconds; so they time out together. Beside them an honest client sends one image after the other,
but with ``--alone``, and a ping goes out every 20 ms over a connection of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from endpoint_process import EndpointProcess  # noqa: E402
from serving_speed import photograph, prepare  # noqa: E402

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
KINDS = {
    "idle": (b"", 17),
    "onebyte": (b"G", 17),
    "headers": (HEAD + b"X-A: ", 17),
    "body": (HEAD + b"Content-Length: 20000\r\n\r\n\xff", 37),
}
"""What each sends first, and seconds until all have timed out."""


def ping(port: int) -> float:
    """Seconds until 200."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/ping")
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"/ping says {response.status}")
    return time.perf_counter() - started


def drip(held: list[socket.socket], over: threading.Event) -> None:
    """A byte on each connection every two seconds."""
    while not over.wait(2):
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(b"a")


def ask(server: EndpointProcess, image: bytes, over: threading.Event, answers: list[int]) -> None:
    """One image after the other."""
    while not over.is_set():
        answers.append(server.invoke(image)[0])


def measure(server: EndpointProcess, kind: str, connections: int, image: bytes | None) -> dict[str, Any]:
    """One kind's line."""
    first, seconds = KINDS[kind]
    over, answers, times = threading.Event(), list[int](), list[float]()
    held = [server.connect(first) for _ in range(connections)]
    threads = [threading.Thread(target=drip, args=(held, over))] if kind != "idle" else []
    if image:
        threads.append(threading.Thread(target=ask, args=(server, image, over, answers)))
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(ping(server.port))
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    still_open = 0
    for connection in held:
        connection.settimeout(0)
        try:
            while connection.recv(4096):
                pass
        except BlockingIOError:
            still_open += 1
        except OSError:
            pass
        connection.close()
    times.sort()
    return {
        "kind": kind,
        "connections": connections,
        "pings": len(times),
        "p50_ms": round(1000 * times[len(times) // 2], 1),
        "p99_ms": round(1000 * times[int(0.99 * len(times))], 1),
        "slowest_ms": round(1000 * times[-1], 1),
        "honest_answers": len(answers),
        "honest_failures": sum(status != 200 for status in answers),
        "still_open": still_open,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    image = None if arguments.alone else photograph(640, 480)
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        (workspace / "ml").mkdir()
        prepare(workspace / "ml" / "model")
        server = EndpointProcess(workspace, CUDA_VISIBLE_DEVICES="", SAGEMAKER_CONTAINER_LOG_LEVEL="error")
        try:
            server.wait_until_ready()
            for kind in arguments.kinds.split(","):
                print(json.dumps(measure(server, kind, arguments.connections, image)), flush=True)
        finally:
            server.close()


if __name__ == "__main__":
    main()
