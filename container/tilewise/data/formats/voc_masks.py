"""Masks of Pascal VOC's objects: PNG files whose values number an image's instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tilewise.arrays import Array
from tilewise.data.annotations import ChannelSource, RawExample
from tilewise.masks import MASKS, Masks, RunLengths

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
    changed, used = [], set()
    for xml, example in zip(xml_files, examples, strict=True):
        found = [each for each in by_stem.get(PurePosixPath(xml).stem, []) if each[1] != example.path]
        if example.problem or not found:
            changed.append(example)
            continue
        name, path = sorted(found, key=lambda each: "SegmentationObject" not in each[0])[0]
        used.add(path)
        try:
            fields = {MASKS: _read(path, len(example.targets))}
            changed.append(replace(example, targets=replace(example.targets, fields=fields)))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            problem = f"its masks in {name} cannot be used: {error}"
            changed.append(replace(example, unread_masks=(problem,) * max(1, len(example.targets))))
    return changed, frozenset(used)


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
