"""Images with one JSON file each, as SageMaker's built-in Object Detection takes them.

Specification: the developer guide's "Object Detection", section "Train with the Image Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    require_different_images,
    unusable,
)
from tilewise.data.files.exports import has_json_export
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import MAX_CANDIDATES, PEEK, format_of_lines, largest_json
from tilewise.data.files.text_files import open_text, read_text
from tilewise.data.formats.coco import find_coco_file
from tilewise.data.ground_truth import parse_label
from tilewise.data.quoting import shortened, some
from tilewise.errors import UserError


@dataclass
class _Categories:
    """Names of class ids, from all files.

    They never number the classes, and name them only where every file lists the ids that it uses: a
    widespread notebook writes COCO's category ids here, but class ids counted from 0 at the objects.
    """

    names: dict[int, set[str]] = field(default_factory=dict)
    trusted: bool = True

    def add(self, categories: Any, used: set[int]) -> None:
        try:
            names = {int(category["class_id"]): str(category["name"]) for category in categories or []}
        except (KeyError, TypeError, ValueError):
            self.trusted = False
            return
        self.trusted &= not names or used <= set(names)
        for number, name in names.items():
            self.names.setdefault(number, set()).add(name)

    def agreed(self) -> dict[int, str]:
        if not self.trusted:
            return {}
        return {number: next(iter(names)) for number, names in self.names.items() if len(names) == 1}


def find_image_json(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds JSON files that annotate one image each: by their names, or by their keys.

    Other formats have JSON files too: one with all labels, or notes of the tool that wrote them.
    """
    if find_coco_file(source.annotations) or has_json_export(source.annotations):
        return None
    folder = source.annotations
    of_lines = {name for name, path in largest_json(folder).items() if folder.ask(format_of_lines, path)}
    json_files = folder.with_suffix(".json").items()
    files = {name: path for name, path in json_files if name not in of_lines}
    named = any(source.images.find_image_like(name) for name in files)
    if not named and not any(map(_looks_like_image_json, islice(files.values(), MAX_CANDIDATES))):
        return None
    read = partial(read_image_json, source.images, files)
    return DetectedFormat("images with one JSON file each", some(files), read)


def _looks_like_image_json(path: Path) -> bool:
    try:
        with open_text(path) as file:
            return b'"annotations"' in file.read(PEEK)
    except UserError:
        return False


def read_image_json(folder: Folder, files: Mapping[str, Path]) -> ParsedChannel:
    """Read images and their annotation files.

    Args:
        folder: holds the images.
        files: the JSON files by their names relative to their folder.

    Returns:
        Images without a JSON file among the examples, as problems; names of class ids from the ``categories``
        of the files where they agree with one another.

    Raises:
        UserError: two files annotate one image.

    """
    categories = _Categories()
    examples = [_read(path, key, folder, categories) for key, path in files.items()]
    examples += _without_json(examples, folder)
    return ParsedChannel(examples, names=categories.agreed())


def _without_json(examples: list[RawExample], folder: Folder) -> list[RawExample]:
    """Problems for images that no JSON file names; an image named by two files raises."""
    require_different_images(examples)
    named = {example.path for example in examples}
    hint = "no JSON file annotates it; an image without objects needs one with an empty list of annotations"
    return [unusable(name, path, hint) for name, path in folder.images.items() if path not in named]


def _read(path: Path, key: str, folder: Folder, categories: _Categories) -> RawExample:
    like = folder.find_image_like(key)
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise TypeError("it must hold one JSON object, {…}")
        image = _find_image(content, key, folder) if content.get("file") else like
        label = parse_label(content)
        used = set(label.targets.labels.tolist())
    except UserError as error:
        problem = str(error)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"not valid JSON: {error}"
    except (TypeError, ValueError) as error:
        problem = f"not an annotation file of the built-in's form: {error}"
    else:
        categories.add(content.get("categories"), used)
        if image is None:
            wanted = content.get("file") or f"{PurePosixPath(key).stem}.*"
            problem = f"its image {shortened(str(wanted))} is not in the image channel, or not only once"
            return unusable(key, None, problem)
        return RawExample(key, folder.files[image], label.size, label.targets, unread=label.unread)
    # With the image of its name, so that this one is not missed a second time.
    return unusable(key, folder.images[like] if like else None, problem)


def _find_image(content: dict[str, Any], key: str, folder: Folder) -> str | None:
    """By ``file``: a path in the image channel, or one beside the annotation."""
    name = str(content["file"])
    return folder.find_image(name) or folder.find_image((PurePosixPath(key).parent / name).as_posix())
