"""Images that are of a class by their colour, in the forms that jobs for classification take."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 30, 40)}


def write_image(path: Path, colours: Iterable[str], seed: int) -> None:
    """Noise, with a stripe of each colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (48, 64, 3), dtype=np.uint8)
    for place, colour in enumerate(sorted(COLOURS)):
        if colour in colours:
            pixels[:, 20 * place : 20 * place + 20] = COLOURS[colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folders(folder: Path, count: int, seed: int = 0, classes: Sequence[str] = tuple(COLOURS)) -> None:
    """So many images of each class, in a folder of its name."""
    for label, name in enumerate(classes):
        for index in range(count):
            write_image(folder / name / f"{index}.png", [name], seed + 100 * label + index)


def several_labels(folder: Path, count: int, seed: int = 0) -> list[list[str]]:
    """Images with any number of the colours, and Azure's JSON lines of them."""
    rng = np.random.default_rng(seed)
    names = sorted(COLOURS)
    labels = [[name for name in names if rng.random() < 0.5] for _ in range(count)]
    lines = []
    for index, own in enumerate(labels):
        write_image(folder / f"{index}.png", own, seed + index)
        lines.append(json.dumps({"image_url": f"azureml://datastores/d/paths/{index}.png", "label": own}))
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return labels


def record_file(path: Path, images: Sequence[tuple[Path, Sequence[float]]]) -> None:
    """A RecordIO file as im2rec writes it: one label in the header, several after it."""
    content = b""
    for number, (image, labels) in enumerate(images):
        several = len(labels) > 1
        header = struct.pack(
            f"<IfQQ{len(labels) if several else 0}f",
            len(labels) if several else 0,
            0 if several else labels[0],
            number,
            0,
            *(labels if several else ()),
        )
        record = header + image.read_bytes()
        content += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    path.write_bytes(content)
