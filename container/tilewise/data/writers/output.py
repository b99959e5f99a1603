"""What the writers of every format share: a folder that appears whole or not at all, file names, counts."""

from __future__ import annotations

import io
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image

from tilewise.data.decoding.decode import decode_image, read_header
from tilewise.data.files.folder import IMAGE_SUFFIXES
from tilewise.data.records import WHOLE_FILE, Record
from tilewise.errors import UserError
from tilewise.masks import Shape, masks_in

DEPTH = 3
"""Channels that annotations state: what an image has once it is decoded."""

_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "WEBP": ".webp",
}
_IMAGE_FOLDERS = re.compile(r"(images|JPEGImages)/")
_MAX_STEM = 180  # bytes; file systems take 255 for a name, and suffixes and numbers follow

Box = tuple[int, float, float, float, float, bool]
"""Label, xmin, ymin, xmax, ymax in pixels, and whether it is ignored."""


class Output:
    """A folder that a writer fills, and what it has put there.

    Attributes:
        folder: the folder.
        images, boxes, masks, bytes: how many were written; bytes are those of the images.
        notes: what was left out or changed -> how often.

    """

    def __init__(self, folder: Path, root: Path | None = None):
        """Names are taken from the images' paths below ``root``, the folder that they come from."""
        self.folder = folder
        self.images = self.boxes = self.masks = self.bytes = 0
        self.notes: Counter[str] = Counter()
        self._root = root
        self._taken: set[str] = set()
        self._repeated: Counter[str] = Counter()

    def count(self, size: int) -> None:
        """Note that an image of so many bytes was written."""
        self.images += 1
        self.bytes += size

    def put_image(self, record: Record, folder: str) -> str:
        """Write an image below ``folder`` under a name of its own, which is returned.

        The bytes stay what they are. Only what has no usual suffix (PPM, JPEG 2000, from RecordIO files) is
        decoded and written as PNG, since no reader of folders would look for it.
        """
        if record.offset == WHOLE_FILE and record.path.suffix.lower() in IMAGE_SUFFIXES:
            name = self.name(record, record.path.suffix)
            shutil.copyfile(record.path, self.folder / folder / name)  # it may be larger than memory
            self.count((self.folder / folder / name).stat().st_size)
            return name
        content = record.read()
        suffix = self.suffix(record, content)
        if not suffix:
            content, suffix = _as_png(content), ".png"
            self.notes["images in formats without a usual suffix (PPM, JPEG 2000), converted to PNG"] += 1
        name = self.name(record, suffix)
        (self.folder / folder / name).write_bytes(content)
        self.count(len(content))
        return name

    def name(self, record: Record, suffix: str) -> str:
        """A file name for a record's image.

        No two have the same stem, whatever the case of their letters, so that annotation files may be named
        alike. An image in a folder has the folder's name before its own.
        """
        stem = _safe(self._source_name(record))
        unique = stem
        while unique.casefold() in self._taken:
            self._repeated[stem.casefold()] += 1
            unique = f"{stem}-{self._repeated[stem.casefold()] + 1}"
        self._taken.add(unique.casefold())
        return unique + suffix

    def _source_name(self, record: Record) -> str:
        if record.offset != WHOLE_FILE:
            return record.key
        path = record.path
        inside = self._root is not None and path.is_relative_to(self._root)
        name = path.relative_to(self._root).as_posix() if inside and self._root else path.name
        return PurePosixPath(_IMAGE_FOLDERS.sub("", name, count=1)).with_suffix("").as_posix()

    def suffix(self, record: Record, content: bytes) -> str:
        """The suffix of a record's image: its file's, or by its bytes; "" where there is no usual one."""
        if record.offset == WHOLE_FILE and record.path.suffix.lower() in IMAGE_SUFFIXES:
            return record.path.suffix
        return _SUFFIXES.get(read_header(content).format, "")

    def boxes_of(self, record: Record, *, holds_ignored: bool) -> list[Box]:
        """A record's boxes as Python's numbers, for the format that is written.

        Args:
            record: whose.
            holds_ignored: whether the format can mark a box as ignored; if not, such boxes are left out, and
                counted among the notes.

        """
        truth = record.targets
        rows = zip(truth.labels.tolist(), truth.boxes.tolist(), truth.ignored.tolist(), strict=True)
        boxes = [(label, *box, ignored) for label, box, ignored in rows if holds_ignored or not ignored]
        if len(boxes) < len(truth):
            self.notes[
                "ignored boxes (crowds, difficult objects) left out: the format cannot mark them, and what "
                "they cover becomes background"
            ] += len(truth) - len(boxes)
        self.boxes += len(boxes)
        return boxes

    def masks_of(self, record: Record, *, holds_ignored: bool) -> list[Shape | None]:
        """The masks of what :meth:`boxes_of` gives, in its order."""
        masks, truth = masks_in(record.targets.fields), record.targets
        shapes: list[Shape | None] = [None] * len(truth) if masks is None else list(masks.shapes())
        kept = [
            shape
            for shape, ignored in zip(shapes, truth.ignored.tolist(), strict=True)
            if holds_ignored or not ignored
        ]
        self.masks += sum(shape is not None for shape in kept)
        return kept


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name ``path`` when all is written; after an error nothing is left.

    Until then it is hidden beside ``path``.

    Raises:
        UserError: ``path`` is there and not an empty folder.

    """
    if path.is_symlink() or path.exists():
        if not path.is_dir() or any(path.iterdir()):
            raise UserError(f"{path} is there already: give a new folder, or an empty one")
        if path.is_symlink() or path.is_mount():
            raise UserError(f"{path} is a link or a mounted volume: give a new folder below it")
    unfinished = path.parent / f".{path.name}.unfinished-{os.getpid()}"
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def number(value: float) -> int | float:
    """A whole number as an int: annotations are shorter, and as other programs write them."""
    return int(value) if value.is_integer() else value


def corner_and_size(box: Box) -> tuple[float, float, float, float]:
    """``left, top, width, height``: exact, so that adding them up gives the same float32 corners again."""
    _, xmin, ymin, xmax, ymax, _ = box
    return number(xmin), number(ymin), number(xmax - xmin), number(ymax - ymin)


def check_class_names(classes: tuple[str, ...], form: str) -> None:
    """Refuse names that a format cannot hold.

    Raises:
        UserError: a name is empty, has a character that cannot be printed, or a blank at an end.

    """
    for name in classes:
        if not name or not name.isprintable() or name != name.strip():
            raise UserError(
                f"the class name {name!r} is empty, or has a line break, a character that cannot be printed "
                f"or a blank at an end, which {form} cannot hold: give other names with --classes"
            )


def check_s3_prefix(prefix: str) -> str:
    """What stands before a file's name there, "" for none.

    Raises:
        UserError: the prefix is no S3 URI.

    """
    if prefix and not (prefix.startswith("s3://") and len(prefix) > len("s3://")):
        raise UserError(f"--s3-prefix is {prefix}: it must be of the form s3://bucket/path")
    return prefix.rstrip("/") + "/" if prefix else ""


def _safe(name: str) -> str:
    """A stem that every file system, URL, JSON and XML takes; never hidden."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(letter if letter.isprintable() else "_" for letter in name)
    name = re.sub(r'[\\/:*?"<>|#()\s]+', "_", name).strip("._ ")
    return name.encode()[:_MAX_STEM].decode(errors="ignore") or "image"


def _as_png(content: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(decode_image(content).permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()
