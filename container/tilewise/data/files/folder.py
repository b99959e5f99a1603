"""What lies in a channel's folder, and which image an annotation means."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_plus

from tilewise.data.decoding.signatures import starts_like_image

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".heic", ".heif"),  # not decoded, but their message says how to convert them
)
"""How the names of images end; files of other names are looked into."""

_NO_IMAGES = (
    *(".json", ".jsonl", ".ndjson", ".manifest", ".xml", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".names"),
    *(".rec", ".idx", ".lst", ".tfrecord", ".parquet", ".zip", ".tar", ".tgz", ".md", ".html", ".log"),
    *(".py", ".ipynb", ".npy", ".npz", ".mat", ".h5", ".pkl", ".pdf", ".cfg", ".ini", ".db", ".cache"),
)
_START = 32

Answer = TypeVar("Answer")


class Folder:
    """A folder and the files below it, listed once.

    Hidden files and folders are passed over: notebooks and archives leave copies in ``.ipynb_checkpoints``,
    as ``._name`` and in ``__MACOSX``. Links are followed, but for those to a folder that they lie in.
    """

    def __init__(self, root: Path):
        self.root = root
        self._answers: dict[tuple[Any, Path], Any] = {}

    def ask(self, question: Callable[[Path], Answer], path: Path) -> Answer:
        """What a question to one of the files brings; each is put once, however many formats want to know."""
        key = question, path
        if key not in self._answers:
            self._answers[key] = question(path)
        answer: Answer = self._answers[key]
        return answer

    def largest(self, files: Mapping[str, Path], count: int) -> dict[str, Path]:
        """The largest few of its files, the largest last."""
        return dict(sorted(files.items(), key=lambda pair: self.ask(_size, pair[1]))[-count:])

    @cached_property
    def files(self) -> dict[str, Path]:
        """Paths by names relative to the folder, in Unicode's composed form (macOS writes the other)."""
        return {_composed(name): self.root / name for name in sorted(_names_below(self.root, ""))}

    def with_suffix(self, *suffixes: str) -> dict[str, Path]:
        """The files whose names end so, in any case of letters."""
        return {name: path for name, path in self.files.items() if name.lower().endswith(suffixes)}

    @cached_property
    def images(self) -> dict[str, Path]:
        """The image files: by their names, or with an unusual name or none by how they begin."""
        unusual = self._unusual
        return {
            name: path
            for name, path in self.files.items()
            if unusual.get(name, name.lower().endswith(IMAGE_SUFFIXES))
        }

    @cached_property
    def unnamed(self) -> dict[str, Path]:
        """The files that are no images, and whose names do not say what else they are."""
        return {name: self.files[name] for name, is_image in self._unusual.items() if not is_image}

    @cached_property
    def _unusual(self) -> dict[str, bool]:
        """Of the files whose names do not say what they are, whether they are images."""
        known = IMAGE_SUFFIXES + _NO_IMAGES
        return {
            name: _begins_like_image(path)
            for name, path in self.files.items()
            if not name.lower().endswith(known)
        }

    @cached_property
    def _by_base_name(self) -> dict[str, list[str]]:
        return _grouped(self.images, _base)

    @cached_property
    def _by_base_stem(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _base(_image_stem(name)))

    def find_image(self, name: str, beside: str = "") -> str | None:
        """The image that an annotation names, or None when there is none or no single one; never one outside.

        Tried as a path below the folder, then below ``images/``. Then one path may be the tail of the other:
        annotations name their files from another folder, or with no folder at all. What is not found so may
        be a path on Windows, an address with a query (``?…``), URL-encoded, or in other letter case.

        Args:
            name: as the annotation has it.
            beside: the folder of the annotation, relative to this one; an image there comes first.

        """
        for spelling in _spellings(_composed(name)):
            found = self._find(spelling, beside)
            if found is not None:
                return found
        return None

    def _find(self, name: str, beside: str) -> str | None:
        near = [f"{beside}/{name}"] if beside else []
        for candidate in (*near, name, f"images/{name}"):
            if candidate in self.files:
                return candidate
        alike = self._by_base_name.get(_base(name).casefold(), [])
        exact = [file for file in alike if _is_tail(file, name)]
        return _only(exact or [file for file in alike if _is_tail(file.casefold(), name.casefold())])

    def find_image_called(self, name: str) -> str | None:
        """The only image of a name, in whatever folder; of a path its last part counts."""
        for spelling in _spellings(_composed(name)):
            base = _base(spelling)
            alike = self._by_base_name.get(base.casefold(), [])
            exact = [file for file in alike if _base(file) == base]
            if alike:
                return _only(exact or alike)
        return None

    def find_image_like(self, name: str) -> str | None:
        """The same for the image that is called like another file but for its suffix."""
        return _only(self.images_like(name))

    def images_like(self, name: str) -> list[str]:
        """All images that :meth:`find_image_like` may mean."""
        stem = _stem(_composed(name))
        alike = {file: _image_stem(file) for file in self._by_base_stem.get(_base(stem).casefold(), [])}
        for same in (str, str.casefold):
            stems = {file: same(its_stem) for file, its_stem in alike.items()}
            wanted = same(stem)
            exact = [file for file, its_stem in stems.items() if its_stem in (wanted, f"images/{wanted}")]
            found = exact or [file for file, its_stem in stems.items() if _is_tail(its_stem, wanted)]
            if found:
                return found
        return []


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


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over: it is hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def _names_below(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                if entry.is_symlink() and _leads_back(entry.path):
                    continue
                yield from _names_below(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name


def _leads_back(link: str) -> bool:
    """Whether a link is to one of the folders that it lies in: there is nothing new, but without an end."""
    target = os.path.realpath(link)
    return any(os.path.realpath(above) == target for above in Path(link).absolute().parents)


def _size(path: Path) -> int:
    return path.stat().st_size


def _begins_like_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return starts_like_image(file.read(_START))
    except OSError:
        return False


def _grouped(names: dict[str, Path], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Names by a key, in whatever letter case."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name).casefold(), []).append(name)
    return groups


def _spellings(name: str) -> list[str]:
    """What a name may mean, nearest first: itself, a path on Windows, an address, something URL-encoded."""
    path = name.replace("\\", "/")
    without_query = path.partition("?")[0]
    return list(
        dict.fromkeys([name, path, without_query, unquote(without_query), unquote_plus(without_query)])
    )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _image_stem(name: str) -> str:
    """Without its suffix; of a name that has none, what follows a dot belongs to it."""
    return _stem(name) if name.lower().endswith(IMAGE_SUFFIXES) else name


def _is_tail(file: str, name: str) -> bool:
    """Whether one path ends with the other; a first folder ``images`` does not count."""
    return f"/{name}".endswith(f"/{file.removeprefix('images/')}") or f"/{file}".endswith(f"/{name}")


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None
