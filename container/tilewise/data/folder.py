"""What lies in a channel's folder, and which image an annotation means."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class Folder:
    """A folder and the files below it, listed once.

    Hidden files and folders are passed over: notebooks and archives leave copies in ``.ipynb_checkpoints``
    and as ``._name``. Links to files are followed, links to folders are not.
    """

    def __init__(self, root: Path):
        self.root = root

    @cached_property
    def files(self) -> dict[str, Path]:
        """Paths by names relative to the folder, in Unicode's composed form (macOS writes the other)."""
        return {_composed(name): self.root / name for name in sorted(_names_below(self.root, ""))}

    def with_suffix(self, *suffixes: str) -> dict[str, Path]:
        """The files whose names end so, in any case of letters."""
        return {name: path for name, path in self.files.items() if name.lower().endswith(suffixes)}

    @cached_property
    def images(self) -> dict[str, Path]:
        """The image files."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def _by_base_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self.images:
            names.setdefault(_base(name), []).append(name)
        return names

    @cached_property
    def _by_base_stem(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self.images:
            names.setdefault(_base(_stem(name)), []).append(name)
        return names

    def find_image(self, name: str) -> str | None:
        """The image that an annotation names, or None when there is none or no single one; never one outside.

        Tried as a path below the folder, then below ``images/``. Then one path may be the tail of the other:
        annotations name their files from another folder, or with no folder at all.
        """
        name = _composed(name)
        for candidate in (name, f"images/{name}"):
            if candidate in self.images:
                return candidate
        return _only([file for file in self._by_base_name.get(_base(name), []) if _is_tail(file, name)])

    def find_image_called(self, base_name: str) -> str | None:
        """The only image of a name, in whatever folder."""
        return _only(self._by_base_name.get(_composed(base_name), []))

    def find_image_like(self, name: str) -> str | None:
        """The same for the image that is called like another file but for its suffix."""
        stem = _stem(_composed(name))
        stems = {file: _stem(file) for file in self._by_base_stem.get(_base(stem), [])}
        exact = [file for file, its_stem in stems.items() if its_stem in (stem, f"images/{stem}")]
        return _only(exact or [file for file, its_stem in stems.items() if _is_tail(its_stem, stem)])


class OneFile(Folder):
    """A folder of which one file counts."""

    def __init__(self, path: Path):
        super().__init__(path.parent)
        self._path = path

    @cached_property
    def files(self) -> dict[str, Path]:
        """That file."""
        return {self._path.name: self._path}


def temporary_folder() -> Path:
    """A folder for images that no channel holds; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tilewise-images-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _names_below(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _names_below(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _is_tail(file: str, name: str) -> bool:
    """Whether one path ends with the other; a first folder ``images`` does not count."""
    return f"/{name}".endswith(f"/{file.removeprefix('images/')}") or f"/{file}".endswith(f"/{name}")


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None
