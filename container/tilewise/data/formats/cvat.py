"""Images and CVAT's XML, "CVAT for images 1.1" and "CVAT for video 1.1".

Specification: CVAT's documentation, "XML annotation format", and its ``dataset_manager/formats/cvat.py``. The
file is read element by element: it may be larger than memory.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    require_different_images,
    unusable,
)
from tilewise.data.files.addresses import find_addressed
from tilewise.data.files.exports import CVAT, files_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.safe_xml import ERRORS, children_of_root
from tilewise.data.outlines import (
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around_ellipse,
    box_around_line,
    box_around_outline,
    box_around_rotated,
    drawn_example,
    joined,
    known_size,
    name_of_class,
    number_at,
)
from tilewise.data.quoting import quoted, shortened, some
from tilewise.errors import UserError
from tilewise.fields import Corners

log = logging.getLogger(__name__)

_SHAPES = ("box", "polygon", "ellipse", "mask", "cuboid", "polyline", "points", "skeleton")
_WITHOUT_AREA = ("points", "skeleton")
_LABELS_WITHOUT_AREA = ("polyline", "points", "skeleton", "tag")
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_IGNORED = ("difficult", "is_crowd", "iscrowd")
"""Attributes by which CVAT's own exports to VOC and COCO mark such objects."""

_ADVICE = "export the task with its images, or write them as frame_000000.png, frame_000001.png, …"
_FRAME = re.compile(r"(\d+)\D*$")


@dataclass
class _CvatTask:
    """What the files' heads say, and what has been read so far."""

    channel: str
    folder: Folder
    numbers: ClassNumbers = field(default_factory=ClassNumbers)
    counts: OutlineCounts = field(default_factory=OutlineCounts)
    examples: list[RawExample] = field(default_factory=list)


@dataclass
class _CvatVideo:
    """The frames of one file.

    Attributes:
        images: frame -> the name and path of its image; ``frames`` are their numbers in order.
        objects: frame -> what its image shows.
        unread: frame -> why some of its objects could not be read.
        interpolated: how many boxes the file does not have itself.
        size: of all frames, where the file says so.
        last: the number of the last frame, where the file says so.
        tasks: those that tracks are of, in the export of a project.

    """

    images: dict[int, tuple[str, Path]] = field(default_factory=dict)
    frames: list[int] = field(default_factory=list)
    objects: dict[int, list[DrawnObject]] = field(default_factory=lambda: defaultdict(list))
    unread: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    interpolated: int = 0
    size: tuple[int, int] | None = None
    last: int | None = None
    tasks: set[str] = field(default_factory=set)


def find_cvat(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds CVAT's XML, one file or several."""
    files = files_of(source.annotations, CVAT, ".xml")
    if not files:
        return None
    read = partial(read_cvat, files, source.images, source.name)
    return DetectedFormat(CVAT, some(files), read, empty_image="an <image> without shapes")


def read_cvat(files: Mapping[str, Path], folder: Folder, channel: str) -> ParsedChannel:
    """Read them all; classes are the labels of boxes and areas in the order of the task.

    Of polygons, ellipses, masks, cuboids and rotated boxes the upright boxes around them are taken. An object
    with the attribute ``difficult`` or ``is_crowd`` is ignored.

    Of a video's tracks, the frames count whose images are in the channel: those that are ``outside`` have no
    object, and between two keyframes without the frames in between boxes are interpolated as CVAT does.

    Args:
        files: CVAT's, by their names.
        folder: holds the images, of a video its frames as CVAT writes them: ``frame_000000.png``, ….
        channel: whose they are, for messages.

    Raises:
        UserError: a file is not CVAT's, frames and images do not match, or an image is annotated twice.

    """
    task = _CvatTask(channel, folder)
    for name, path in files.items():
        try:
            _read(name, path, task)
        except ERRORS as error:
            raise UserError(f"{name} is not XML of CVAT: {error}") from None
    require_different_images(task.examples)
    task.counts.tell(channel)
    return ParsedChannel(task.examples, tuple(task.numbers))


def _read(name: str, path: Path, task: _CvatTask) -> None:
    video = _CvatVideo()
    elements = children_of_root(path)
    root = next(elements, None)
    if root is None or root.tag != "annotations":
        raise ValueError(f"it begins with <{'' if root is None else root.tag}>, not <annotations>")
    for element in elements:
        if element.tag == "meta":
            _read_head(element, task, video)
        elif element.tag == "image":
            task.examples.append(_image(element, name, task))
        elif element.tag == "track":
            if not video.tasks:
                _number_images(task.folder, video)
            _read_track(element, video, task)
    if video.tasks:
        task.examples += _frames(video, name, task)


def _read_head(meta: Element, task: _CvatTask, video: _CvatVideo) -> None:
    """The classes, and of a video the size and number of its frames."""
    for label in meta.iter("label"):
        named = (label.findtext("name") or "").strip()
        if named and label.findtext("type") not in _LABELS_WITHOUT_AREA and label.find("parent") is None:
            task.numbers[named]  # gives it the next number
    sizes = [(one.findtext("width"), one.findtext("height")) for one in meta.iter("original_size")]
    video.size = known_size(*sizes[0]) if len(sizes) == 1 else None
    last = [one.text or "" for one in meta.iter("stop_frame")]
    video.last = int(last[0]) if len(last) == 1 and last[0].isdecimal() else None


def _image(element: Element, file: str, task: _CvatTask) -> RawExample:
    name, subset = element.get("name", ""), element.get("subset", "")
    key = f"{shortened(name)} ({file})" if name else f"image {element.get('id')} ({file})"
    if not name:
        return unusable(key, None, "it has no name")
    path = (
        (find_addressed(task.folder, f"{subset}/{name}") if subset else None)
        or find_addressed(task.folder, name)
        or _like(task.folder, name)
    )
    if path is None:
        return unusable(key, None, f"its image {shortened(name)} is not in the channel, or not only once")
    try:
        size = known_size(element.get("width"), element.get("height"))
    except ValueError as error:
        return unusable(key, path, str(error))
    objects, unread = _objects(element, task)
    return drawn_example(key, path, size, objects=objects, numbers=task.numbers, unread=unread)


def _objects(image: Element, task: _CvatTask) -> tuple[list[DrawnObject], list[str]]:
    """One for each shape, but for outlines of one label and one group, which CVAT takes for one object.

    And what is wrong with others.
    """
    objects: dict[object, DrawnObject] = {}
    unread: list[str] = []
    for index, shape in enumerate(image):
        if shape.tag in _SHAPES:
            try:
                found = _object(shape, shape.get("label"), task)
            except ValueError as error:
                unread.append(str(error))
                continue
            group = shape.get("group_id", "0") if shape.tag in ("polygon", "mask") else "0"
            part_of = (found.name, group) if group != "0" else index
            objects[part_of] = joined(objects.get(part_of), found)
    return list(objects.values()), unread


def _like(folder: Folder, name: str) -> Path | None:
    """Images of a video are named without a suffix: ``frame_000017``."""
    found = folder.find_image_like(f"{name}.x") if "." not in PurePosixPath(name).name else None
    return folder.files[found] if found else None


def _object(shape: Element, label: str | None, task: _CvatTask) -> DrawnObject:
    try:
        name, box = name_of_class(label), _box(shape, task.counts)
    except ValueError as error:
        raise ValueError(f"a {shape.tag} of the label {shortened(str(label))}: {error}") from None
    ignored = any(
        (one.text or "").strip().lower() == "true" for one in shape if one.get("name", "").lower() in _IGNORED
    )
    return DrawnObject(name, box, ignored)


def _box(shape: Element, counts: OutlineCounts) -> Corners:
    values = shape.attrib
    degrees = number_at(values, "rotation", 0)
    if shape.tag == "box":
        x0, y0, x1, y1 = (number_at(values, corner) for corner in _CORNERS)
        if not degrees:
            return x0, y0, x1, y1
        counts["rotated boxes"] += 1
        return box_around_rotated((x0, y0, x1, y1), degrees)
    if shape.tag in _WITHOUT_AREA:
        raise ValueError("it has no area: draw a box or a polygon, or delete it")
    if shape.tag == "polyline":
        box = box_around_line(_points(values), "polyline")
        counts["closed lines"] += 1
        return box
    counts["boxes" if shape.tag == "box" else f"{shape.tag}s"] += 1
    if shape.tag == "ellipse":
        centre = number_at(values, "cx"), number_at(values, "cy")
        return box_around_ellipse(centre, (number_at(values, "rx"), number_at(values, "ry")), degrees)
    if shape.tag == "mask":
        left, top = number_at(values, "left"), number_at(values, "top")
        return left, top, left + number_at(values, "width"), top + number_at(values, "height")
    if shape.tag == "cuboid":
        corners = [f"{{}}{down}{across}{face}" for down in "tb" for across in "lr" for face in "12"]
        points = [tuple(number_at(values, corner.format(axis)) for axis in "xy") for corner in corners]
        return box_around_outline(points, "cuboid")
    return box_around_outline(_points(values), "polygon")


def _points(values: Mapping[str, str]) -> list[list[str]]:
    """``1,2;3,4``."""
    return [pair.split(",") for pair in values.get("points", "").split(";")]


def _read_track(track: Element, video: _CvatVideo, task: _CvatTask) -> None:
    """Add a track's objects to the frames that have an image."""
    who = f"track {track.get('id')}"
    video.tasks |= {track.get("task_id", "")}
    shapes: dict[int, Element] = {}
    for shape in track:
        number = shape.get("frame", "")
        if shape.tag in _SHAPES and not number.isdecimal():
            raise ValueError(f"a {shape.tag} of {who} has the frame {quoted(number)}, not a number")
        if shape.tag in _SHAPES:
            shapes.setdefault(int(number), shape)
    before: tuple[int, DrawnObject] | None = None
    for frame in sorted(shapes):
        is_seen = shapes[frame].get("outside") != "1"
        try:
            found = _object(shapes[frame], track.get("label"), task)
        except ValueError as error:
            video.unread[frame] += [f"{who}: {error}"] if is_seen else []
            before = None
            continue
        if before:
            _interpolate(before, (frame, found), video)
        if is_seen and frame in video.images:
            video.objects[frame].append(found)
        before = (frame, found) if is_seen else None


def _interpolate(start: tuple[int, DrawnObject], end: tuple[int, DrawnObject], video: _CvatVideo) -> None:
    """The object between two frames of its track that do not follow one another, as CVAT shows it."""
    (first, one), (last, other) = start, end
    for frame in video.frames[bisect_right(video.frames, first) : bisect_left(video.frames, last)]:
        share = (frame - first) / (last - first)
        x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(one.box, other.box, strict=True))
        video.objects[frame].append(one._replace(box=(x0, y0, x1, y1)))
        video.interpolated += 1


def _number_images(folder: Folder, video: _CvatVideo) -> None:
    """Find the frame that each image is: the last number in its name."""
    for name, path in folder.images.items():
        number = _FRAME.search(PurePosixPath(name).stem)
        if number is None:
            raise UserError(
                f"{name} is no frame of a video, whose images have their numbers in their names: {_ADVICE}"
            )
        other = video.images.setdefault(int(number[1]), (name, path))[0]
        if other != name:
            raise UserError(f"{other} and {name} are both frame {int(number[1])} of a video: {_ADVICE}")
    video.frames = sorted(video.images)


def _frames(video: _CvatVideo, file: str, task: _CvatTask) -> list[RawExample]:
    """An example for each image that is a frame."""
    if len(video.tasks) > 1:
        raise UserError(
            f"{file} has the tracks of several tasks, whose frames have the same numbers: export each alone"
        )
    if not video.images:
        raise UserError(
            f"{file} has tracks of a video, but the channel {task.channel} holds no image: {_ADVICE}"
        )
    if video.last is not None and video.frames[-1] > video.last:
        raise UserError(
            f"{video.images[video.frames[-1]][0]} would be frame {video.frames[-1]}, but the video of {file} "
            f"ends with frame {video.last}, since frames count from 0: {_ADVICE}"
        )
    first = video.frames[0]
    log.info(
        "channel %s: %s is of a video; %d images are its frames, the first one %s as frame %d%s",
        task.channel,
        file,
        len(video.frames),
        video.images[first][0],
        first,
        f"; {video.interpolated:,} boxes between two keyframes are interpolated"
        if video.interpolated
        else "",
    )
    return [
        drawn_example(
            f"{name} ({file})",
            path,
            video.size,
            objects=video.objects.pop(frame, []),
            numbers=task.numbers,
            unread=video.unread.get(frame, ()),
        )
        for frame, (name, path) in sorted(video.images.items())
    ]
