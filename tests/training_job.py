"""A training job as SageMaker starts it: a folder like /opt/ml, and the real ``train`` executable on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from forked import Forked
from PIL import Image
from pipe_platform import PipePlatform, record_bytes

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "train"
COLOURS = {"red": (200, 30, 40), "blue": (30, 60, 200)}
QUICK = {
    "model_name": "ssdlite_mobilenet_v3_large",
    "image_size": "128",
    "number_of_epochs": "2",
    "training_batch_size": "4",
    "box_score_threshold": "0.01",
    "use_pretrained_model": "0",
    "num_workers": "0",
}


class Job:
    """A folder like /opt/ml with a small data set of squares, as images with one JSON each."""

    def __init__(self, base: Path):
        self.base = base
        self.content_type = "image/jpeg"
        self.input_mode = "File"
        self.distribution = "FullyReplicated"
        self.piped: dict[str, bytes] = {}
        for folder in ("model", "output/data", "input/config"):
            (base / folder).mkdir(parents=True)

    def channel(self, name: str) -> Path:
        folder = self.base / "input" / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add_images(self, channel: str, count: int, empty: int = 1) -> None:
        rng = np.random.default_rng(len(channel))
        for index in range(count):
            pixels = rng.integers(90, 150, (96, 128, 3), dtype=np.uint8)
            boxes = [] if index < empty else rng.integers((90, 60, 2), size=(3, 3)).tolist()
            for x, y, c in boxes:
                pixels[y : y + 30, x : x + 30] = list(COLOURS.values())[c]
            name = f"image {index:02}.jpg"
            Image.fromarray(pixels).save(self.channel(channel) / name, quality=90)
            self.annotate(channel, name, [(x, y, 30, 30, c) for x, y, c in boxes])

    def annotate(self, channel: str, name: str, boxes: list[tuple[int, int, int, int, int]]) -> Path:
        sides = ("left", "top", "width", "height", "class_id")
        content = {
            "file": name,
            "image_size": [{"width": 128, "height": 96, "depth": 3}],
            "annotations": [dict(zip(sides, box, strict=True)) for box in boxes],
            "categories": [{"class_id": index, "name": colour} for index, colour in enumerate(COLOURS)],
        }
        path = self.channel(f"{channel}_annotation") / Path(name).with_suffix(".json").name
        path.write_text(json.dumps(content))
        return path

    def pack(self, channel: str) -> None:
        """Replace a channel's images and annotations by one RecordIO file, as im2rec writes it."""
        content = b""
        images = sorted(self.channel(channel).iterdir())
        for number, image in enumerate(images):
            annotation = self.channel(f"{channel}_annotation") / image.with_suffix(".json").name
            label = [4.0, 5.0, 128, 96]
            for box in json.loads(annotation.read_text())["annotations"]:
                x0, y0 = box["left"] / 128, box["top"] / 96
                label += [box["class_id"], x0, y0, x0 + box["width"] / 128, y0 + box["height"] / 96]
            header = struct.pack(f"<IfQQ{len(label)}f", len(label), 0, number, 0, *label)
            record = header + image.read_bytes()
            content += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
            image.unlink()
            annotation.unlink()
        self.channel(f"{channel}_annotation").rmdir()
        (self.channel(channel) / f"{channel}.rec").write_bytes(content)
        self.content_type = "application/x-recordio"

    def pipe(self, channel: str, as_manifest: bool = False) -> None:
        """Replace a channel's images and annotations by what a pipe brings."""
        if as_manifest:
            images = sorted(self.channel(channel).iterdir())
            annotations = self.channel(f"{channel}_annotation")
            texts = [(annotations / image.with_suffix(".json").name).read_bytes() for image in images]
            self.piped[channel] = b"".join(
                record_bytes(image.read_bytes()) + record_bytes(text)
                for image, text in zip(images, texts, strict=True)
            )
            shutil.rmtree(annotations)
        else:
            self.pack(channel)
            self.piped[channel] = (self.channel(channel) / f"{channel}.rec").read_bytes()
        shutil.rmtree(self.channel(channel))
        self.content_type = "application/x-recordio"

    def platform(self, channel: str, passes: int, **options: Any) -> PipePlatform:
        return PipePlatform(self.base / "input/data" / channel, [self.piped[channel]] * passes, **options)

    def start(
        self,
        hyperparameters: dict[str, str],
        fresh: bool = False,
        host: str = "algo-1",
        hosts: Sequence[str] = ("algo-1",),
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> Forked | subprocess.Popen[str]:
        """Start ``train`` on one of the hosts, by a command that runs another one if need be.

        Only ``fresh``, or with such a command, it is the executable that runs; else it runs in a process
        that has imported PyTorch already.
        """
        config = self.base / "input" / "config"
        data = self.base / "input" / "data"
        facts = {
            "ContentType": self.content_type,
            "TrainingInputMode": self.input_mode,
            "S3DistributionType": self.distribution,
        }
        channels = {path.name: facts for path in data.iterdir() if path.is_dir()} if data.is_dir() else {}
        channels |= {name: {**facts, "TrainingInputMode": "Pipe"} for name in self.piped}
        resources = {"current_host": host, "hosts": list(hosts), "network_interface_name": "eth0"}
        for name, content in (
            ("hyperparameters", hyperparameters),
            ("inputdataconfig", channels),
            ("resourceconfig", resources),
        ):
            (config / f"{name}.json").write_text(json.dumps(content))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = os.environ | {"SAGEMAKER_BASE_DIR": str(self.base), "PATH": path} | dict(environ or {})
        if not (fresh or command):
            return Forked(TRAIN, variables, self.base)
        return subprocess.Popen(
            [*command, str(TRAIN)],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.base,
            # which a shell's background jobs ignore, and their children with them
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, hyperparameters: dict[str, str], **options: Any) -> tuple[int | None, str]:
        with self.start(hyperparameters, **options) as process:
            output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def write_failure(self, sentence: str) -> None:
        (self.base / "output" / "failure").write_text(sentence)

    @property
    def failure(self) -> str:
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""


def wait_for(process: Forked | subprocess.Popen[str], text: str) -> str:
    """Read a process's output until a text comes."""
    assert process.stdout is not None
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, f"the process ended before it said {text!r}:\n{seen}"
        seen += line
    return seen


def without_graph(model_dir: Path) -> set[str]:
    """The names of a model's files but its graph's, which is kept only where it is fast on this machine."""
    return {path.name for path in model_dir.iterdir() if path.suffix != ".onnx"}
