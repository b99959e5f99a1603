"""What was found in the channels, as one table that a user reads before an hour of training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

import numpy as np

from tilewise.arrays import Bool, Int64
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.image_labels import shown_classes
from tilewise.data.plausibility import spelt_alike
from tilewise.data.quoting import some
from tilewise.data.records import Record, Records, open_encoded
from tilewise.masks import masks_in

SIZE_LIMITS = (8, 16, 32, 96)
"""√area in pixels of the image where one size class ends: tiny ones after AI-TOD, the others COCO's."""

SIZE_NAMES = ("very tiny, < 8", "tiny, 8 to 16", "small, 16 to 32", "medium, 32 to 96", "large, ≥ 96")

_Rows = dict[str, list[str]]


def size_histogram(records: Records) -> Int64:
    """(5,) how many objects there are of each of the :data:`SIZE_NAMES`."""
    classes = np.digitize(records.object_sizes, SIZE_LIMITS)
    return np.bincount(classes, minlength=len(SIZE_NAMES)).astype(np.int64)


def duplicates(records: Records, others: Records) -> list[tuple[str, str]]:
    """The keys of images that are byte for byte the same in both.

    Only images of the same size and length are read.
    """
    common = _sizes_and_lengths(records) & _sizes_and_lengths(others)
    if not common:
        return []
    hashes: dict[bytes, str] = {}
    for record in _with(records, common):
        hashes.setdefault(_hash(record), record.key)
    pairs = ((hashes.get(_hash(record)), record.key) for record in _with(others, common))
    return [(first, second) for first, second in pairs if first is not None]


def _sizes_and_lengths(records: Records) -> set[tuple[int, ...]]:
    return set(map(tuple, np.column_stack([records.sizes, records.lengths]).tolist()))


def _with(records: Records, common: set[tuple[int, ...]]) -> list[Record]:
    rows = np.column_stack([records.sizes, records.lengths]).tolist()
    return [records[index] for index, row in enumerate(rows) if tuple(row) in common]


def _hash(record: Record) -> bytes:
    with open_encoded(record.path, record.offset, record.encoded) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.digest()


def table(
    channels: Mapping[str, tuple[Records, ChannelIssues]],
    classes: tuple[str, ...],
    streams: frozenset[str] = frozenset(),
) -> str:
    """The facts of some channels side by side.

    Args:
        channels: name -> records and what became of those that are not among them; ``train`` first.
        classes: names by label.
        streams: the channels of which these are the first records only, as they come through pipes.

    """
    both = channels.values()
    (first, (records, _)), *others = channels.items()
    same = {} if streams else {name: duplicates(records, theirs) for name, (theirs, _) in others}
    counts = [
        shown_classes(records, len(classes)).sum(axis=0)
        if issues.image_labels
        else _class_counts(records, classes)
        for records, issues in both
    ]
    rows: _Rows = {
        "images": [f"{len(records)}" for records, _ in both],
        "  without objects": [f"{int((records.object_counts == 0).sum())}" for records, _ in both],
        "  left out, unusable": [f"{len(issues.left_out)}" for _, issues in both],
        **({f"  also in {first}": ["", *(f"{len(pairs)}" for pairs in same.values())]} if same else {}),
    }
    if any(issues.image_labels for _, issues in both):
        rows["  without a class"] = rows.pop("  without objects")
        rows |= _count_rows("class:", classes, counts)
    else:
        rows |= _object_rows(channels) | _count_rows("class:", classes, counts) | _size_rows(channels)
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {name:>10}" for name in channels)]
    lines += [name.ljust(width) + "".join(f"  {cell:>10}" for cell in cells) for name, cells in rows.items()]
    lines += [line for name, (_, issues) in channels.items() for line in _reasons(name, issues)]
    lines += spelt_alike(classes)
    for name in channels:
        if name in streams:
            lines.append(f"{name}: these are the first images of its pipe; the others stream")
    for name, pairs in same.items():
        if pairs:
            keys = some([key if key == its else f"{key} = {its}" for key, its in pairs])
            lines.append(f"{name}: {len(pairs)} images are in {first} too, so its figures flatter: {keys}")
    return "\n".join(lines)


def _object_rows(channels: Mapping[str, tuple[Records, ChannelIssues]]) -> _Rows:
    """What became of the boxes."""
    both = channels.values()
    return {
        "boxes": [f"{len(records.targets)}" for records, _ in both],
        "  ignored (crowd, difficult)": [f"{int(records.targets.ignored.sum())}" for records, _ in both],
        "  clipped to their image": [f"{issues.clipped}" for _, issues in both],
        **_mask_rows(channels),
        "  dropped": [f"{len(issues.dropped)}" for _, issues in both],
        "    exact repetitions": [f"{issues.repeated}" for _, issues in both],
    }


def _size_rows(channels: Mapping[str, tuple[Records, ChannelIssues]]) -> _Rows:
    return _count_rows(
        "√area in px:", SIZE_NAMES, [size_histogram(records) for records, _ in channels.values()]
    )


def _mask_rows(channels: Mapping[str, tuple[Records, ChannelIssues]]) -> _Rows:
    """Where masks are read: how many objects have one. Those without teach boxes only."""
    counts = [(records, issues, masks_of(records)) for records, issues in channels.values()]
    if not any(known is not None and (known.any() or issues.masks) for _, issues, known in counts):
        return {}
    found = [(issues, np.zeros(0, np.bool_) if known is None else known) for _, issues, known in counts]
    return {
        "  with a mask": [f"{int(known.sum())}" for _, known in found],
        "  without, for boxes only": [f"{int((~known).sum())}" for _, known in found],
        "  masks dropped": [f"{len(issues.masks_dropped)}" for issues, _ in found],
    }


def masks_of(records: Records) -> Bool | None:
    """(N,) which objects have a mask; None where masks have not been read."""
    masks = masks_in(records.targets.fields)
    return None if masks is None else masks.known


def _class_counts(records: Records, classes: tuple[str, ...]) -> Int64:
    return np.bincount(records.targets.labels, minlength=len(classes)).astype(np.int64)


def _count_rows(title: str, names: tuple[str, ...], counts: list[Int64]) -> _Rows:
    return {
        f"  {title} {name}": [f"{column[index]}" for column in counts] for index, name in enumerate(names)
    }


def _reasons(channel: str, issues: ChannelIssues) -> list[str]:
    """Why images and boxes cannot be used, a line each."""
    reasons = Counter(issues.left_out.values()).most_common(5)
    lines = [f"{channel}: {count} images left out: {reason}" for reason, count in reasons]
    lines += [f"{channel}: boxes dropped: {some(issues.dropped)}"] if issues.dropped else []
    lines += [f"{channel}: masks dropped: {some(issues.masks_dropped)}"] if issues.masks_dropped else []
    return lines + [f"{channel}: {doubt}" for doubt in (*issues.faults, *issues.doubts)]
