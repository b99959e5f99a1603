"""Masks of Pascal VOC's objects: PNG files whose values number an image's instances."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tilewise.arrays import Array
from tilewise.data.annotations import ChannelSource, RawExample
from tilewise.masks import MASKS, Masks, RunLengths

OBJECTS = "SegmentationObject"
"""VOC's folder of them."""

BORDER = 255
"""What VOC's files of eight bits have around objects, which is none of them."""


def add_instance_masks(
    examples: Sequence[RawExample], xml_files: Sequence[str], source: ChannelSource
) -> tuple[list[RawExample], frozenset[Path]]:
    """Examples with the masks of the PNG files beside them, and these files.

    Args:
        examples: of the XML files.
        xml_files: their names.
        source: the channel; PNG files lie in any of its folders, but those of ``SegmentationClass``, which
            number classes.

    """
    by_stem: dict[str, list[tuple[str, Path]]] = {}
    for folder in {id(each): each for each in (source.images, source.annotations)}.values():
        for name, path in folder.with_suffix(".png").items():
            if "SegmentationClass" not in PurePosixPath(name).parts:
                by_stem.setdefault(PurePosixPath(name).stem, []).append((name, path))
    changed, used, images = [], set(), {example.path for example in examples}
    for xml, example in zip(xml_files, examples, strict=True):
        alike = [each for each in by_stem.get(PurePosixPath(xml).stem, []) if each[1] not in images]
        found = _nearest(xml, alike)
        if example.problem or not found:
            changed.append(example)
            continue
        if len(found) > 1:
            problem = f"its masks may be in {' or '.join(sorted(name for name, _ in found))}"
            changed.append(replace(example, unread_masks=(problem,) * max(1, len(example.targets))))
            continue
        ((name, path),) = found
        used.add(path)
        try:
            fields = {MASKS: _read(path, len(example.targets))}
            changed.append(replace(example, targets=replace(example.targets, fields=fields)))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            problem = f"its masks in {name} cannot be used: {error}"
            changed.append(replace(example, unread_masks=(problem,) * max(1, len(example.targets))))
    return changed, frozenset(used)


def _nearest(xml: str, alike: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Of PNG files of an XML file's name those that are most likely its masks: one, unless several are alike.

    In the folder that VOC has for them first, beside the XML file next, then in any such folder.
    """
    own = PurePosixPath(xml).parent
    beside = PurePosixPath(re.sub(r"(^|/)Annotations(?=/|$)", rf"\1{OBJECTS}", str(own), flags=re.IGNORECASE))
    parents = [PurePosixPath(name).parent for name, _ in alike]
    for which in (
        [parent == beside and OBJECTS in parent.parts for parent in parents],
        [parent == own for parent in parents],
        [OBJECTS in parent.parts for parent in parents],
    ):
        if any(which):
            return list(compress(alike, which))
    return alike


def _read(path: Path, objects: int) -> Masks:
    with Image.open(path) as image:
        if image.mode not in ("P", "L", "I;16", "I"):
            raise ValueError(f"its pixels are {image.mode}, not one number each")
        pixels = np.asarray(image)
    height, width = pixels.shape
    values, positions = _by_value(pixels)
    if len(values) != objects:
        raise ValueError(f"it has {len(values)} instances, but the XML file {objects} objects")
    return Masks.of([RunLengths(width, height, _runs(each, height * width)) for each in positions])


def _by_value(pixels: Array) -> tuple[list[int], list[Array]]:
    """The instances' values, ascending, and where each one's pixels are, down the columns."""
    flat = pixels.T.reshape(-1)
    where = np.flatnonzero((flat != 0) & (flat != BORDER) if pixels.dtype == np.uint8 else flat)
    order = np.argsort(flat[where], kind="stable")
    values, starts = np.unique(flat[where][order], return_index=True)
    return values.tolist(), np.split(where[order], starts[1:]) if len(values) else []


def _runs(positions: Array, pixels: int) -> Array:
    """The run lengths of some ascending positions of a frame."""
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    starts = positions[np.concatenate([[0], breaks])]
    ends = positions[np.concatenate([breaks, [len(positions)]]) - 1] + 1
    changes = np.stack([starts, ends], axis=1).reshape(-1)
    return np.diff(np.concatenate([[0], changes, [pixels]]))
