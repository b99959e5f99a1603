"""Images in a folder for each class, whose name is the folder's."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from tilewise.data.annotations import ChannelSource, DetectedFormat, ParsedChannel, RawExample, by_name
from tilewise.data.files.folder import Folder, is_hidden
from tilewise.data.image_labels import whole_image_targets
from tilewise.data.quoting import some
from tilewise.errors import UserError

CLASS_FOLDERS = "a folder for each class"


def find_class_folders(source: ChannelSource) -> DetectedFormat | None:
    """Whether the channel's images lie in folders."""
    folders = dict.fromkeys(_class_of(name) for name in source.images.images if "/" in name)
    if not folders:
        return None
    return DetectedFormat(
        CLASS_FOLDERS, some(folders), partial(read_class_folders, source.images, source.name)
    )


def read_class_folders(folder: Folder, channel: str) -> ParsedChannel:
    """Read them; of nested folders the outermost is the class.

    Raises:
        UserError: a folder has no image, or an image lies in none.

    """
    loose = [name for name in folder.images if "/" not in name]
    if loose:
        raise UserError(
            f"channel {channel}: {some(loose)} lie{'s' if len(loose) == 1 else ''} in no folder, and the "
            "folder is an image's class: move each into the folder of its class"
        )
    names = sorted({_class_of(name) for name in folder.images})
    below = {each.name for each in folder.root.iterdir() if each.is_dir() and not is_hidden(each.name)}
    empty = sorted(below - set(names))
    if empty:
        raise UserError(
            f"channel {channel}: the class{'es' if len(empty) > 1 else ''} {some(empty)} "
            f"{'have' if len(empty) > 1 else 'has'} a folder without an image: add images, or remove it"
        )
    numbers = {name: number for number, name in enumerate(names)}
    examples = [
        RawExample(
            key=name,
            path=path,
            size=None,
            targets=whole_image_targets([numbers[_class_of(name)]]),
            fractions=True,
        )
        for name, path in folder.images.items()
    ]
    return by_name(examples, names)


def _class_of(name: str) -> str:
    return PurePosixPath(name).parts[0]
