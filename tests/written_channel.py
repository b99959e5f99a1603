"""A channel that a test writes in any format, and what Tilewise reads in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tilewise.data.annotations import ParsedChannel, RawExample
from tilewise.data.channel import ChannelFolder, DataSet, parse_channel, read_data_set
from tilewise.errors import UserError


class WrittenChannel:
    """The channel ``train`` below ``root``; its annotations lie in it unless ``annotations`` is set."""

    def __init__(self, root: Path) -> None:
        self.root = root / "train"
        self.root.mkdir(parents=True)
        self.annotations = self.root
        self.content_type = ""

    def image(self, name: str) -> Path:
        """Write a black image of 40 x 30 pixels."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
        return path

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of annotations."""
        path = self.annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def lines(self, *lines: Any, name: str = "train.jsonl", end: str = "\n") -> Path:
        """Write a file of JSON lines; a text is a line as it is."""
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        return self.write(name, "".join(text + end for text in texts))

    @property
    def folders(self) -> dict[str, ChannelFolder]:
        folders = {"train": ChannelFolder(self.root, self.content_type)}
        if self.annotations != self.root:
            folders["train_annotation"] = ChannelFolder(self.annotations)
        return folders

    def read(self) -> ParsedChannel:
        return parse_channel("train", self.folders)

    def data(self, num_classes: int | None = None) -> DataSet:
        return read_data_set(self.folders, num_classes, validates=False, seed=0)

    def only(self) -> RawExample:
        """The channel's one example."""
        (example,) = self.read().examples
        return example

    def message(self) -> str:
        """What the job that may not use the channel says."""
        with pytest.raises(UserError) as error:
            self.data()
        return str(error.value)


def data_with_yolo_validation(channel: WrittenChannel, folder: Path, class_name: str) -> DataSet:
    """The channel's data, validated on an image in YOLO's format with one object of the class."""
    other = WrittenChannel(folder / "other")
    other.image("b.jpg")
    other.write("b.txt", "0 0.5 0.5 0.5 0.5\n")
    other.write("classes.txt", f"{class_name}\n")
    folders = channel.folders | {"validation": ChannelFolder(other.root)}
    return read_data_set(folders, None, validates=True, seed=0)
