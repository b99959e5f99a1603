"""Requests a second that an endpoint answers, beside eager PyTorch's and TorchServe's: a JSON line for each.

python benchmarks/serving_speed.py [--seconds 8] [--clients 1,4,16] [--busy] [--torchserve VENV]

SSDlite at 320 px, in which a server's overhead shows most, with random weights, and a JPEG of 640x480 pixels.
The servers stand one after the other: ours as it is by default, and in eager PyTorch with one worker of all
cores' threads and with a worker of one thread a core. ``bare`` is what one request takes without a server:
decoding, scaling, the network and suppression. ``--busy``: also beside a process that computes all the time.
``--torchserve``: a virtual environment with torchserve, torch-model-archiver and captum, and ``java`` on the
PATH; it serves the same network of torchvision's with its own handler ``object_detector``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "benchmarks")]

MODEL, SIDE = "ssdlite_mobilenet_v3_large", 320
CLASSES = ("a", "b", "c", "d")
PREPARE = """
import sys
sys.path[:0] = {path!r}
import torch
from pathlib import Path
from models import make_spec
from tilewise.inference.artifact import Artifact
from tilewise.inference.export import add_graph
from tilewise.models.build import build_detector
torch.manual_seed(0)
spec = make_spec({model!r}, 4, {side})
folder = Path({folder!r})
Artifact(build_detector(spec).eval(), spec, {classes!r}, {{}}, {{}}).save(folder, "model-0000")
add_graph(folder)
"""
TORCHSERVE_NET = """
from torchvision.models import detection


class Net(detection.ssd.SSD):
    def __new__(cls):
        return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
"""


def prepare(folder: Path) -> None:
    """Make the model's folder, in a process of its own."""
    folder.mkdir()
    paths = [str(ROOT / "container"), str(ROOT / "benchmarks")]
    code = PREPARE.format(path=paths, model=MODEL, side=SIDE, folder=str(folder), classes=CLASSES)
    subprocess.run([sys.executable, "-c", code], check=True)


def photograph(width: int, height: int) -> bytes:
    """A JPEG of coarse patches."""
    import numpy as np
    from PIL import Image

    patches = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize((width, height)).save(stream, "jpeg")
    return stream.getvalue()


class Client(threading.Thread):
    """Asks again and again over one connection, until the time is over."""

    def __init__(self, port: int, request: bytes, end: float):
        super().__init__()
        self.port, self.request, self.end = port, request, end
        self.times: list[float] = []
        self.refused = 0

    def run(self) -> None:
        """Note the seconds of each answer."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.perf_counter() < self.end:
                started = time.perf_counter()
                connection.sendall(self.request)
                self.refused += not self._answered(connection)
                self.times.append(time.perf_counter() - started)

    @staticmethod
    def _answered(connection: socket.socket) -> bool:
        received = b""
        while (place := received.find(b"\r\n\r\n")) < 0:
            received += connection.recv(65536)
        head = received[:place].lower()
        length = int(head.partition(b"content-length:")[2].split(None, 1)[0])
        left = length - (len(received) - place - 4)
        while left > 0:
            left -= len(connection.recv(65536))
        return head.split()[1] == b"200"


def load(port: int, path: str, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients measure."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}"
    )
    request = f"{head}\r\n\r\n".encode() + image
    started = time.perf_counter()
    all_clients = [Client(port, request, started + seconds) for _ in range(clients)]
    for client in all_clients:
        client.start()
    for client in all_clients:
        client.join()
    times = sorted(each for client in all_clients for each in client.times)
    return {
        "clients": clients,
        "requests_s": round(len(times) / (time.perf_counter() - started), 1),
        "p50_ms": round(1000 * statistics.median(times), 1),
        "p99_ms": round(1000 * times[int(0.99 * len(times))], 1),
        "refused": sum(client.refused for client in all_clients),
    }


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def tilewise(base: Path, environ: dict[str, str]) -> Iterator[int]:
    """Our server; its port."""
    port = free_port()
    settings = {
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "error",
    }
    with running([sys.executable, str(ROOT / "serve")], settings | environ):
        yield port


@contextlib.contextmanager
def torchserve(venv: Path, folder: Path) -> Iterator[int]:
    """TorchServe with a worker of one thread a core, its best setting; its port."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    torch.save(net.state_dict(), folder / "weights.pt")
    (folder / "net.py").write_text(TORCHSERVE_NET)
    (folder / "index_to_name.json").write_text(json.dumps({str(index): str(index) for index in range(5)}))
    (folder / "store").mkdir()
    port, cores = free_port(), os.cpu_count()
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{free_port()}\n"
        f"metrics_address=http://127.0.0.1:{free_port()}\ngrpc_inference_port={free_port()}\n"
        f"grpc_management_port={free_port()}\ndisable_token_authorization=true\nenable_model_api=false\n"
        f"job_queue_size=1000\ndefault_workers_per_model={cores}\n"
    )
    binaries = venv / "bin"
    folders = dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION", "TEMP"), str(folder))
    environ = folders | {"PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    archive = [
        str(binaries / "torch-model-archiver"),
        "--model-name",
        "net",
        "--version",
        "1",
        "--model-file",
    ]
    archive += [str(folder / "net.py"), "--serialized-file", str(folder / "weights.pt"), "--handler"]
    archive += ["object_detector", "--extra-files", str(folder / "index_to_name.json")]
    subprocess.run([*archive, "--export-path", str(folder / "store")], check=True, env=os.environ | environ)
    command = [str(binaries / "torchserve"), "--foreground", "--ncs", "--model-store", str(folder / "store")]
    command += ["--models", "net=net.mar", "--ts-config", str(folder / "config.properties")]
    with running(command, environ):
        yield port


@contextlib.contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[None]:
    """A server, and all that it starts, for as long as it is needed."""
    process = subprocess.Popen(
        command,
        env=os.environ | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_it_answers(port: int, path: str, image: bytes) -> float:
    """Seconds."""
    started = time.perf_counter()
    while True:
        try:
            request = Request(f"http://127.0.0.1:{port}{path}", image, {"Content-Type": "image/jpeg"})
            with urlopen(request, timeout=60):
                return time.perf_counter() - started
        except OSError:
            if time.perf_counter() - started > 120:
                raise
            time.sleep(0.05)


def bare(folder: Path, image: bytes, backend: str) -> float:
    """Milliseconds of a prediction without a server, in a process of its own with one thread."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "container")!r})
from pathlib import Path
from tilewise.inference.predictor import Predictor
predictor = Predictor.load({str(folder)!r}, backend={backend!r})
image = Path({str(folder / "image.jpg")!r}).read_bytes()
times = []
for _ in range(60):
    started = time.perf_counter()
    predictor.predict(image)
    times.append(time.perf_counter() - started)
print(1000 * sorted(times[10:])[25])
"""
    (folder / "image.jpg").write_bytes(image)
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environ, capture_output=True, text=True
    )
    (folder / "image.jpg").unlink()
    return float(found.stdout)


def compute() -> None:
    """For ever."""
    while True:
        sum(range(10**6))


def main() -> None:
    """Measure all servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--torchserve", type=Path)
    arguments = parser.parse_args()
    image, cores = photograph(640, 480), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "model"
        prepare(folder)
        for backend in ("onnx", "eager"):
            print(json.dumps({"bare": backend, "ms": round(bare(folder, image, backend), 1)}), flush=True)
        eager = {"TILEWISE_BACKEND": "eager"}
        one = {"SAGEMAKER_MODEL_SERVER_WORKERS": "1"}
        each = {"SAGEMAKER_MODEL_SERVER_WORKERS": str(cores)}
        servers: dict[str, Any] = {
            "tilewise": lambda: tilewise(Path(base), {}),
            f"eager, 1 x {cores}": lambda: tilewise(Path(base), eager | one),
            f"eager, {cores} x 1": lambda: tilewise(Path(base), eager | each),
        }
        if arguments.torchserve:
            servers["torchserve"] = lambda: torchserve(arguments.torchserve, Path(base))
        for name, server in servers.items():
            path = "/predictions/net" if name == "torchserve" else "/invocations"
            with server() as port:
                ready = round(wait_until_it_answers(port, path, image), 1)
                time.sleep(3)  # for workers that are not the first
                for clients in map(int, arguments.clients.split(",")):
                    load(port, path, image, clients, 1)
                    line = {
                        "server": name,
                        "ready_s": ready,
                        **load(port, path, image, clients, arguments.seconds),
                    }
                    print(json.dumps(line), flush=True)
                if arguments.busy and name == "tilewise":
                    neighbour = multiprocessing.Process(target=compute, daemon=True)
                    neighbour.start()
                    figures = load(port, path, image, 16, arguments.seconds)
                    neighbour.kill()
                    print(json.dumps({"server": f"{name}, beside a busy process", **figures}), flush=True)


if __name__ == "__main__":
    main()
