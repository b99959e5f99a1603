"""An endpoint's memory over thousands of requests of which many hold broken or very large images.

python benchmarks/broken_images.py [--requests 3000] [--cases DIR]

Serves an untrained SSDlite on one worker and sends it, in turn, good JPEG, PNG, WebP and 16-bit TIFF images,
JPEG images of 12 million pixels that end early, and damaged ones of the other formats. Prints the worker's
resident memory as it goes. ``--cases`` sends each image below a folder, as it lies there, before.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests")]

from endpoint_process import EndpointProcess  # noqa: E402


def make_model(folder: Path) -> None:
    """An untrained model, in a process of its own: this one stays small."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tilewise.inference.artifact import Artifact\n"
        "from tilewise.models.build import build_detector\n"
        "from tilewise.models.spec import DetectorSpec\n"
        "from tilewise.views.view import Scaling\n"
        "spec = DetectorSpec('ssdlite_mobilenet_v3_large', 2, Scaling(square=320), None, 0.4, 0.45, 100)\n"
        "Artifact(build_detector(spec), spec, ('a', 'b'), {}, {}).save(Path(sys.argv[1]), 'model')\n"
    )
    folder.mkdir(parents=True)
    environ = {"PYTHONPATH": str(ROOT / "container")}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environ)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def bodies() -> list[tuple[str, bytes]]:
    """Names and images: two good ones for each broken one."""
    small = Image.effect_noise((640, 480), 60).convert("RGB")
    large = encoded(Image.effect_noise((1000, 750), 60).convert("RGB").resize((4000, 3000)), "JPEG")
    deep = io.BytesIO()
    tifffile.imwrite(deep, np.asarray(small).astype(np.uint16) * 9, photometric="rgb", compression="lzw")
    good = {
        "JPEG": encoded(small, "JPEG"),
        "PNG": encoded(small, "PNG", compress_level=1),
        "WebP": encoded(small, "WEBP"),
        "TIFF": deep.getvalue(),
    }
    ends_early = ("JPEG of 12 million pixels, ends early", large[: len(large) * 95 // 100])
    order = []
    for name, data in good.items():
        damaged = bytearray(data)
        damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = bytes(64)
        broken = ends_early if name in ("JPEG", "PNG") else (f"{name}, damaged", bytes(damaged[:-200]))
        order += [(name, data), ("JPEG", good["JPEG"]), broken]
    return order


def resident(server: EndpointProcess) -> float:
    """MB of a server's worker."""
    (worker,) = server.workers
    status = Path(f"/proc/{worker}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def main() -> None:
    """Print how the worker's memory goes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--cases", type=Path)
    arguments = parser.parse_args()
    order = bodies()
    statuses: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "ml" / "model")
        server = EndpointProcess(folder, TILEWISE_MAX_REQUESTS="0", SAGEMAKER_CONTAINER_LOG_LEVEL="error")
        try:
            server.wait_until_ready()
            for path in sorted(arguments.cases.glob("*/*.*")) if arguments.cases else []:
                if path.suffix in (".png", ".jpg", ".webp", ".gif", ".tif") and path.parent.name in path.name:
                    status, _, answer = server.invoke(path.read_bytes())
                    size = resident(server)
                    reason = "" if status == 200 else json.loads(answer).get("error", "")
                    print(f"{path.name:36} {status}  {size:5.0f} MB  {reason}", flush=True)
            start = 0.0
            for number in range(arguments.requests):
                body, data = order[number % len(order)]
                statuses[f"{body}: {server.invoke(data)[0]}"] += 1
                if number + 1 in (100, 300) or not (number + 1) % 500:
                    size = resident(server)
                    start = start or size
                    print(f"after {number + 1:5} requests {size:6.1f} MB", flush=True)
            grown = resident(server) - start
        finally:
            server.close()
    print(json.dumps({"MB grown after the first 100": round(grown, 1), "answers": dict(statuses)}))


if __name__ == "__main__":
    main()
