"""What the readers of every format have in common: raw examples in, clean packed Records and a report out."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from tilewise.data.decode import DecodeError, ImageHeader, read_header
from tilewise.data.records import WHOLE_FILE, Bool, Float32, Int64, Record, Records, open_encoded
from tilewise.errors import UserError

log = logging.getLogger(__name__)

MAX_LEFT_OUT = 0.05
"""A channel may lose this share of its images to damage before the job stops."""

MAX_WARNINGS = 100
"""So many images left out, and so many boxes dropped, are named in the log of a channel."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Example:
    """One annotated image as a reader found it, not yet checked against the image itself.

    Attributes:
        key: names it in messages.
        path: the image file, or the RecordIO file that holds it; None when the reader could not find it.
        size: (width, height) that the annotation states, or None.
        boxes: (N, 4) float32 ``xmin, ymin, xmax, ymax`` in pixels, or as fractions of the image's sides.
        labels: (N,) int64, 0-based.
        ignored: (N,) bool.
        problem: why this example cannot be used, "" when it can.
        offset: where the image's record begins in a RecordIO file.
        fractions: whether the boxes are fractions.

    """

    key: str
    path: Path | None
    size: tuple[int, int] | None
    boxes: Float32
    labels: Int64
    ignored: Bool
    problem: str = ""
    offset: int = WHOLE_FILE
    fractions: bool = False


@dataclass
class Report:
    """What became of a channel's images and boxes.

    Attributes:
        channel: its name.
        images: how many the annotations name.
        left_out: key -> reason, for the images that cannot be used.
        clipped: boxes that reached beyond their image and were cut at its border.
        dropped: record and reason of each box that could not be used.

    """

    channel: str
    images: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    dropped: list[str] = field(default_factory=list)

    def leave_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used, and stop the job when there are too many.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used.

        """
        self.note_left_out(key, reason)
        self.check()

    def note_left_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used."""
        if key not in self.left_out:
            self.left_out[key] = reason
            self._warn(len(self.left_out), f"{key} is left out: {reason}")

    def note_dropped(self, key: str, reason: str) -> None:
        """Note a box that cannot be used."""
        self.dropped.append(f"{key}: {reason}")
        self._warn(len(self.dropped), f"{key}: {reason}; it is dropped")

    def _warn(self, count: int, message: str) -> None:
        if count <= MAX_WARNINGS:
            more = "; further ones are only counted" if count == MAX_WARNINGS else ""
            log.warning("channel %s: %s%s", self.channel, message, more)

    def check(self) -> None:
        """Stop the job when too many images cannot be used.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used.

        """
        if len(self.left_out) > MAX_LEFT_OUT * self.images:
            first = "; ".join(f"{key}: {reason}" for key, reason in list(self.left_out.items())[:3])
            raise UserError(
                f"channel {self.channel}: {len(self.left_out)} of {self.images} images cannot be used, more "
                f"than {MAX_LEFT_OUT:.0%}; mend or remove them, beginning with: {first}"
            )

    def summary(self) -> str:
        """One line, for the log."""
        parts = [f"{self.images} images"]
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out")
        if self.clipped:
            parts.append(f"{self.clipped} boxes clipped to their image")
        if self.dropped:
            parts.append(f"{len(self.dropped)} boxes dropped ({'; '.join(self.dropped[:3])})")
        return ", ".join(parts)


def make_records(examples: Sequence[Example], report: Report) -> Records:
    """Check examples against their images and pack them.

    The images' headers are read, not their pixels. Boxes are clipped to the image; those with nothing left
    are dropped. Images that cannot be used are noted in the report.

    Raises:
        UserError: too many images cannot be used, or none is left.

    """
    report.images = len(examples)
    with ThreadPoolExecutor(8) as pool:
        headers = pool.map(_header, examples)
        records = Records(_checked(zip(examples, headers, strict=True), report))
    report.check()
    if not len(records):
        raise UserError(f"channel {report.channel} holds no image that can be used")
    return records


def _header(example: Example) -> ImageHeader | str:
    if example.problem or example.path is None:
        return example.problem or "its image file is not in the channel"
    try:
        with open_encoded(example.path, example.offset) as file:
            return read_header(file)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    except DecodeError as error:
        return str(error)


def _checked(pairs: Iterable[tuple[Example, ImageHeader | str]], report: Report) -> Iterable[Record]:
    for example, header in pairs:
        if isinstance(header, str):
            report.note_left_out(example.key, header)
            continue
        if example.size is not None and example.size != (header.width, header.height):
            report.note_left_out(
                example.key,
                f"its annotation says {example.size[0]} x {example.size[1]} pixels, but the image "
                f"{'(turned upright as its EXIF says) ' if header.orientation != 1 else ''}"
                f"has {header.width} x {header.height}",
            )
            continue
        assert example.path is not None
        boxes, usable = _clean(example, header, report)
        yield Record(
            key=example.key,
            path=example.path,
            width=header.width,
            height=header.height,
            boxes=boxes[usable],
            labels=example.labels[usable],
            ignored=example.ignored[usable],
            offset=example.offset,
        )


def _clean(example: Example, header: ImageHeader, report: Report) -> tuple[Float32, Bool]:
    """Boxes clipped to the image, and which of them are left."""
    sides = np.asarray([header.width, header.height] * 2, np.float32)
    boxes = example.boxes * sides if example.fractions else example.boxes
    finite = np.isfinite(boxes).all(axis=1)
    clipped = np.clip(np.nan_to_num(boxes), 0, sides)
    usable = finite & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    # Half a pixel beyond the border is rounding, not worth a line in the report.
    report.clipped += int((usable & (np.abs(clipped - boxes) > 0.5).any(axis=1)).sum())
    for box in boxes[~usable].tolist():
        report.note_dropped(example.key, _fault(box))
    return clipped, usable


def _fault(box: Sequence[float]) -> str:
    x0, y0, x1, y1 = box
    corners = f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if not np.isfinite(box).all():
        return f"{corners} is not finite"
    return f"{corners} {'has no area' if x1 <= x0 or y1 <= y0 else 'lies outside the image'}"


def boxes_from_corner_and_size(rows: Sequence[Sequence[float]]) -> Float32:
    """``left, top, width, height`` -> (N, 4) float32 ``xmin, ymin, xmax, ymax``."""
    boxes = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped, and named, later
        boxes[:, 2:] += boxes[:, :2]
        return boxes.astype(np.float32)


def files_below(root: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Files by their names relative to a folder, in Unicode's composed form (macOS writes the other).

    Hidden files and folders are passed over: notebooks and archives leave copies in ``.ipynb_checkpoints``
    and as ``._name``.
    """
    paths = [path for path in root.rglob("*") if path.suffix.lower() in suffixes]
    names = {_composed(path.relative_to(root).as_posix()): path for path in sorted(paths)}
    return {
        name: path
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/")) and path.is_file()
    }


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class ImageFinder:
    """Finds image files below a folder by the names that annotations give them; it never leads out of it.

    Attributes:
        files: name relative to the folder -> path.

    """

    def __init__(self, root: Path):
        self.files = files_below(root, IMAGE_SUFFIXES)
        self._by_base_name: dict[str, list[str]] = {}
        self._by_base_stem: dict[str, list[str]] = {}
        for name in self.files:
            self._by_base_name.setdefault(PurePosixPath(name).name, []).append(name)
            self._by_base_stem.setdefault(PurePosixPath(name).stem, []).append(name)

    def find(self, name: str) -> str | None:
        """The file that an annotation names, or None when there is none or no single one.

        Tried as a path below the folder, then below ``images/``. Then one path may be the tail of the other:
        annotations name their files from another folder, or with no folder at all.
        """
        name = _composed(name)
        for candidate in (name, f"images/{name}"):
            if candidate in self.files:
                return candidate
        return _only([file for file in self._by_base_name.get(_base(name), []) if _is_tail(file, name)])

    def find_like(self, name: str) -> str | None:
        """The same for the file that is called like another one but for its suffix."""
        stem = _stem(_composed(name))
        stems = {file: _stem(file) for file in self._by_base_stem.get(_base(stem), [])}
        exact = [file for file, its_stem in stems.items() if its_stem in (stem, f"images/{stem}")]
        return _only(exact or [file for file, its_stem in stems.items() if _is_tail(its_stem, stem)])


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _is_tail(file: str, name: str) -> bool:
    """Whether one path ends with the other; a first folder ``images`` does not count."""
    return f"/{name}".endswith(f"/{file.removeprefix('images/')}") or f"/{file}".endswith(f"/{name}")


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None
