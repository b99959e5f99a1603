"""An endpoint's memory and errors over thousands of mixed requests, some broken; it goes on where it stopped.

python benchmarks/soak.py FIGURES.json [--requests 20000] [--broken 5] [--seconds 400]

Serves a small SSDlite as a graph on one worker, which is never recycled, and sends it from four connections
images of 48 to 4,000 pixels a side, more small than large ones, as JPEG, PNG, WebP and 16-bit TIFF;
``--broken`` percent of them end early, are damaged, are none, or claim to be far larger than they are.
After ``--seconds`` it leaves the server running and writes where it is; the same command goes on with that
server, until all requests are answered. Each image is sent once before they count. The worker's resident
memory is read after each 5 % of them, at rest: when all have been answered and one more small image, too,
since what is being decoded and computed at a moment is no leak.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests")]

from endpoint_process import EndpointProcess  # noqa: E402

CONNECTIONS, STEPS = 4, 20
REST_S = 1.5
"""Longer than a worker waits until it gives memory back again."""
MAKE_MODEL = """
import sys
from pathlib import Path
import torch
from tilewise.inference.artifact import Artifact
from tilewise.inference.export import write_onnx
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.views.view import Scaling
torch.manual_seed(0)
sizes = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
spec = DetectorSpec("ssdlite_mobilenet_v3_large", 2, Scaling(square=96), sizes, 0.4, 0.45, 100)
folder, detector = Path(sys.argv[1]), build_detector(spec).eval()
Artifact(detector, spec, ("a", "b"), {}, {}).save(folder, "model")
write_onnx(detector, spec.scaling, folder / "model.onnx")
"""

Body = tuple[str, bytes]
"""What an image is, in words, and the image."""
SIDES = {48: 30, 96: 25, 160: 20, 320: 15, 640: 10, 1280: 5}
"""Pixels of an image's width -> how often it comes."""
LARGE, LARGE_WEIGHT = (4000, 3000), 1


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def as_tiff(image: Image.Image) -> bytes:
    """In 16 bits."""
    file = io.BytesIO()
    pixels = np.asarray(image).astype(np.uint16) * 9
    tifffile.imwrite(file, pixels, photometric="rgb", compression="lzw")
    return file.getvalue()


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded(image, "JPEG"),
    "PNG": lambda image: encoded(image, "PNG", compress_level=1),
    "WebP": lambda image: encoded(image, "WEBP", method=0),
    "16-bit TIFF": as_tiff,
}


def good_bodies() -> tuple[list[Body], list[int]]:
    """Six sizes of each format, JPEG also of 12 million pixels; and how often each comes."""
    noise = Image.effect_noise((640, 640), 60).convert("RGB")
    bodies, often = [("JPEG", FORMS["JPEG"](noise.resize(LARGE)))], [LARGE_WEIGHT]
    for number, (form, encode) in enumerate(FORMS.items()):
        for side, weight in SIDES.items():
            bodies.append((form, encode(noise.resize((side, side * (3 + number) // 6)))))
            often.append(weight)
    return bodies, often


def broken_bodies(good: list[Body]) -> list[Body]:
    """Each good one without its end and with a hole, text, and small files that claim to be huge."""
    bodies = [("text", b"xmin,ymin,xmax,ymax"), ("nothing but a PNG's signature", b"\x89PNG\r\n\x1a\n")]
    for form, data in good:
        bodies.append((f"{form}, ends early", data[: len(data) * 9 // 10]))
        hole = bytearray(data[: len(data) * 95 // 100])
        hole[len(hole) // 2 : len(hole) // 2 + 64] = bytes(64)
        bodies.append((f"{form}, damaged", bytes(hole)))
    blank = encoded(Image.new("L", (16, 16)), "PNG")
    bodies.append(
        ("PNG of 60,000 x 60,000 pixels", blank[:16] + 2 * (60_000).to_bytes(4, "big") + blank[24:])
    )
    return bodies


class Soak:
    """The requests, and what came of them so far.

    Args:
        path: of the file of figures, which says where a run has stopped.
        requests: how many in all.
        broken: percent of them.

    """

    def __init__(self, path: Path, requests: int, broken: float):
        self.path, self.requests, self.broken = path, requests, broken
        self.state: dict[str, Any] = {"done": 0, "answers": {}, "unexpected": {}, "resident_MB": {}}
        if path.exists():
            self.state |= json.loads(path.read_text())
        good, often = good_bodies()
        broken_ones = broken_bodies(good)
        self.bodies = {True: (good, often), False: (broken_ones, [1] * len(broken_ones))}
        self.lock = threading.Lock()
        self.answers = Counter(self.state["answers"])
        self.unexpected = Counter(self.state["unexpected"])

    def connect(self) -> None:
        """Find the server that an earlier run has left, or start one."""
        server = self.state.get("server")
        if server and Path(f"/proc/{server['worker']}").exists():
            return
        if self.state["done"]:
            raise SystemExit(f"the server of the first {self.state['done']} requests has ended: {self.path}")
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        (folder / "ml" / "model").mkdir(parents=True)
        environ = os.environ | {"PYTHONPATH": str(ROOT / "container")}
        subprocess.run([sys.executable, "-c", MAKE_MODEL, folder / "ml" / "model"], check=True, env=environ)
        variables = {"TILEWISE_MAX_REQUESTS": "0", "SAGEMAKER_CONTAINER_LOG_LEVEL": "error"}
        started = EndpointProcess(folder, **variables)
        started.wait_until_ready()
        (worker,) = started.workers
        self.state["server"] = {"port": started.port, "process": started.process.pid, "worker": worker}
        for bodies, _ in self.bodies.values():
            for _, body in bodies:
                started.invoke(body)

    def run(self, seconds: float) -> bool:
        """Ask for so long; returns whether all requests have been answered."""
        self.connect()
        end = time.monotonic() + seconds
        step = max(1, self.requests // STEPS)
        while self.state["done"] < self.requests and time.monotonic() < end:
            until = min(self.requests, (self.state["done"] // step + 1) * step)
            threads = [threading.Thread(target=self._ask, args=(until, end)) for _ in range(CONNECTIONS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self.state["done"] == until:
                self.state["resident_MB"][str(until)] = self._resident_at_rest()
        finished: bool = self.state["done"] >= self.requests
        if finished:
            os.kill(self.state.pop("server")["process"], signal.SIGTERM)
        self._write()
        return finished

    def _resident_at_rest(self) -> float:
        """Megabytes that the worker holds when no request is on its way."""
        time.sleep(REST_S)
        _, smallest = self.bodies[True][0][1]
        with closing(self._connection()) as connection:
            self._send(connection, smallest)
        status = Path(f"/proc/{self.state['server']['worker']}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)
        return round(kilobytes / 1024, 1)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.state["server"]["port"], timeout=60)

    @staticmethod
    def _send(connection: http.client.HTTPConnection, body: bytes) -> int:
        connection.request("POST", "/invocations", body, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        response.read()
        return response.status

    def _ask(self, until: int, end: float) -> None:
        connection = self._connection()
        while time.monotonic() < end:
            with self.lock:
                number = self.state["done"]
                if number >= until:
                    break
                self.state["done"] += 1
            draw = random.Random(number)
            is_good = draw.random() * 100 >= self.broken
            bodies, often = self.bodies[is_good]
            ((name, body),) = draw.choices(bodies, often)
            status = self._send(connection, body)
            with self.lock:
                self._note(name, status, is_good=is_good)
        connection.close()

    def _note(self, name: str, status: int, *, is_good: bool) -> None:
        self.answers[f"{'good' if is_good else 'broken'}: {status}"] += 1
        if (status == 200) != is_good or status >= 500:
            self.unexpected[f"{name}: {status}"] += 1

    def _write(self) -> None:
        self.state |= {"answers": dict(self.answers), "unexpected": dict(self.unexpected)}
        sizes = list(self.state["resident_MB"].values())
        self.state["grown_MB"] = round(sizes[-1] - sizes[0], 1) if sizes else None
        self.path.write_text(json.dumps(self.state, indent=1) + "\n")


def main() -> None:
    """Ask, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--broken", type=float, default=5, metavar="PERCENT")
    parser.add_argument("--seconds", type=float, default=400)
    arguments = parser.parse_args()
    soak = Soak(arguments.figures, arguments.requests, arguments.broken)
    finished = soak.run(arguments.seconds)
    print(json.dumps({"finished": finished} | soak.state))


if __name__ == "__main__":
    main()
