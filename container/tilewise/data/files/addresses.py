"""Which image of a folder a labelling tool means by a path of another machine, a URL or its own address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tilewise.data.files.folder import Folder

STUDIO_ADDRESS = "/data/"
"""How Label Studio's own addresses of images begin."""

# Label Studio puts eight hexadecimal digits and a hyphen before the names of files that were uploaded.
_UPLOADED = re.compile(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)")


def find_addressed(folder: Folder, address: str) -> Path | None:
    """The image that an address means: by its path, or where only one has it by its name; None for none."""
    for path in _paths(address):
        found = folder.find_image(path) or folder.find_image_called(path)
        if found:
            return folder.files[found]
    return None


def _paths(address: str) -> Iterator[str]:
    """The paths that it may mean, the most literal first."""
    yield address.removeprefix("/")
    try:
        parts = urlsplit(address.replace("\\", "/"))
        local = parse_qs(parts.query).get("d", [""])[0]  # Label Studio's /data/local-files/?d=folder/a.jpg
    except ValueError:  # such as brackets where a host should be
        return
    plain = unquote(parts.path).removeprefix("/")
    yield from filter(None, (local.replace("\\", "/").removeprefix("/"), plain))
    if plain.startswith("data/upload/") or "/" not in plain:
        yield _UPLOADED.sub(r"\1", plain)
