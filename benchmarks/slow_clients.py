"""How long ``/ping`` takes beside hundreds of slow clients, until all have timed out: a JSON line a kind.

python benchmarks/slow_clients.py [--connections 500] [--kinds idle,onebyte,headers,body] [--alone]

One worker with SSDlite's graph. The clients send a part of a request at the same moment, and then a byte
every two seconds; so they time out together. Beside them an honest client sends one image after the other,
but with ``--alone``, and a ping goes out every 20 ms over a connection of its own. Each of the three is a
process, which competes with the server for the cores: so ``server_…_ms`` is given beside what the pinging
client measures, from the moment before it sends the request to the one at which the kernel has the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
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
SO_TIMESTAMPNS = 35
"""Of Linux: when the kernel got what is received; Python has no name for it."""


def ping(port: int) -> tuple[float, float]:
    """Seconds until the client has 200, connection included, and those that are the server's."""
    started = time.time()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        asked = time.time()
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer, about, _, _ = connection.recvmsg(4096, 1024)
        answered = time.time()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"/ping says {answer[:100]!r}")
    ((_, _, stamp),) = about
    seconds, nanoseconds = struct.unpack("qq", stamp)
    return answered - started, seconds + nanoseconds / 1e9 - asked


def send_pings(port: int, seconds: float, result: Connection) -> None:
    """One after the other."""
    stamping = socket.socket()  # the kernel begins to stamp a moment after the first socket asks for it
    stamping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    time.sleep(0.5)
    result.send(None)
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(ping(port))
        time.sleep(0.02)
    result.send(times)


def be_slow(server: EndpointProcess, kind: str, connections: int, result: Connection) -> None:
    """Hold connections, with a byte on each every two seconds, until the server has closed them."""
    first, seconds = KINDS[kind]
    held = [server.connect(first) for _ in range(connections)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(2)
        for connection in held if kind != "idle" else ():
            with contextlib.suppress(OSError):
                connection.sendall(b"a")
    result.send(sum(map(still_open, held)))


def still_open(connection: socket.socket) -> bool:
    """Whether the server has not closed it."""
    connection.settimeout(0)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def ask(server: EndpointProcess, image: bytes, seconds: float, result: Connection) -> None:
    """One image after the other."""
    statuses = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        statuses.append(server.invoke(image)[0])
    result.send(statuses)


def in_process(work: Callable[..., None], *arguments: object) -> Connection:
    """Where the result of work in a process of its own will come."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    multiprocessing.Process(target=work, args=(*arguments, sending), daemon=True).start()
    return receiving


def measure(server: EndpointProcess, kind: str, connections: int, image: bytes | None) -> dict[str, Any]:
    """One kind's line."""
    seconds = KINDS[kind][1]
    pings = in_process(send_pings, server.port, seconds)
    pings.recv()
    slow = in_process(be_slow, server, kind, connections)
    honest = in_process(ask, server, image, seconds) if image else None
    answers = honest.recv() if honest else []
    unclosed, times = slow.recv(), pings.recv()
    client, served = (sorted(1000 * each[part] for each in times) for part in (0, 1))
    return {
        "kind": kind,
        "connections": connections,
        "pings": len(times),
        "p50_ms": round(client[len(times) // 2], 1),
        "p99_ms": round(client[int(0.99 * len(times))], 1),
        "slowest_ms": round(client[-1], 1),
        "server_p99_ms": round(served[int(0.99 * len(times))], 1),
        "server_slowest_ms": round(served[-1], 1),
        "honest_answers": len(answers),
        "honest_failures": sum(status != 200 for status in answers),
        "still_open": unclosed,
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
