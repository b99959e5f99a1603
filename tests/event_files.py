"""Reads what TensorBoard would show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event


def read_values(folder: Path) -> Iterator[tuple[int, Any]]:
    """Step and value, from TFRecord files: length, checksum, event, checksum."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                yield event.step, value
            content = content[16 + length :]


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value by tag."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for step, value in read_values(folder):
        if value.HasField("simple_value"):
            scalars.setdefault(value.tag, []).append((step, value.simple_value))
    return scalars


def read_pictures(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Step and encoded image by tag."""
    pictures: dict[str, list[tuple[int, bytes]]] = {}
    for step, value in read_values(folder):
        if value.HasField("image"):
            pictures.setdefault(value.tag, []).append((step, value.image.encoded_image_string))
    return pictures
