"""Images with one XML file each, as the first LabelMe (version 3, on the web) wrote them, and CVAT does.

Specification: LabelMe's ``annotationTools/README.md``; CVAT's documentation, "LabelMe".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.exports import LABELME_XML, some_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.safe_xml import ERRORS, parse_xml
from tilewise.data.outlines import (
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around,
    box_around_outline,
    drawn_example,
    known_size,
    name_of_class,
)
from tilewise.data.quoting import some
from tilewise.fields import Corners


def find_labelme_xml(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds such XML files: in its annotation channel, or with its images."""
    of_labelme = some_of(source.annotations, LABELME_XML, ".xml")
    if not of_labelme:
        return None
    files = source.annotations.with_suffix(".xml")
    return DetectedFormat(
        LABELME_XML, some(of_labelme), partial(read_labelme_xml, files, source.images, source.name)
    )


def read_labelme_xml(files: Mapping[str, Path], folder: Folder, channel: str) -> ParsedChannel:
    """Read images and their XML files; classes are the objects' names in alphabetical order.

    Of polygons and masks the boxes around them are taken. Objects that are marked as deleted are none.

    Args:
        files: XML files by their names relative to their folder; those of another form that stand for no
            image are passed over.
        folder: holds the images.
        channel: whose they are, for messages.

    Returns:
        Images without an XML file among the examples, as problems.

    Raises:
        UserError: two files annotate one image.

    """
    numbers, counts = ClassNumbers(), OutlineCounts()
    read = (_example(key, path, folder, numbers, counts) for key, path in files.items())
    examples = [example for example in read if example]
    require_different_images(examples)
    counts.tell(channel)
    named = {example.path for example in examples}
    photos = {name: path for name, path in folder.images.items() if "/Masks/" not in f"/{name}"}
    hint = "no XML file annotates it; an image without objects needs one without any object"
    examples += [unusable(name, path, hint) for name, path in photos.items() if path not in named]
    return by_name(examples, list(numbers))


def _example(
    key: str, path: Path, folder: Folder, numbers: ClassNumbers, counts: OutlineCounts
) -> RawExample | None:
    """An example; None for a file of another form that stands for no image."""
    try:
        root = parse_xml(path.read_bytes())
    except ERRORS as error:
        return unusable(key, _find_image(key, "", folder), f"not valid XML: {error}")
    filename = (root.findtext("filename") or "").strip()
    image = _find_image(key, filename, folder)
    if image is None and root.tag != "annotation":
        return None
    if image is None:
        what = f"{PurePosixPath(key).stem}.*" + (f" or {filename}" if filename else "")
        return unusable(key, None, f"its image {what} is not in the channel, or not only once")
    try:
        size = known_size(root.findtext("imagesize/ncols"), root.findtext("imagesize/nrows"))
        objects, unread = _objects(root, counts)
        return drawn_example(key, image, size, objects=objects, numbers=numbers, unread=unread)
    except ValueError as error:
        return unusable(key, image, str(error))


def _find_image(key: str, filename: str, folder: Folder) -> Path | None:
    """By the XML file's own name first, with ``Images/…`` for ``Annotations/…``."""
    swapped = re.sub(r"(^|/)Annotations/", r"\1Images/", key, flags=re.IGNORECASE)
    found = folder.find_image_like(swapped) or folder.find_image_like(key)
    if not found and filename:
        parent = PurePosixPath(swapped).parent
        found = folder.find_image((parent / filename).as_posix()) or folder.find_image(filename)
    return folder.files[found] if found else None


def _objects(root: Element, counts: OutlineCounts) -> tuple[list[DrawnObject], list[str]]:
    """The objects, and what is wrong with others."""
    objects, unread = [], []
    for index, item in enumerate(root.iterfind("object"), 1):
        try:
            if (item.findtext("deleted") or "").strip() != "1":
                objects.append(DrawnObject(name_of_class(item.findtext("name"), "name"), _box(item, counts)))
        except ValueError as error:
            unread.append(f"object {index}: {error}")
    return objects, unread


def _box(item: Element, counts: OutlineCounts) -> Corners:
    polygon, mask = item.find("polygon"), item.find("segm/box")
    if polygon is not None:
        points = [(one.findtext("x"), one.findtext("y")) for one in polygon.iterfind("pt")]
        if item.findtext("type") == "bounding_box":
            return box_around(points)
        counts["polygons"] += 1
        return box_around_outline(points, "polygon")
    if mask is not None:
        counts["masks"] += 1
        corners = [(mask.findtext(f"x{end}"), mask.findtext(f"y{end}")) for end in ("min", "max")]
        return box_around(corners)
    raise ValueError("it has no polygon")
