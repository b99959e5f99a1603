"""Channels -> Records: which format a channel holds, which classes there are, and what was found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.annotations import ChannelSource, DetectedFormat, ParsedChannel, read_format
from tilewise.data.channel_issues import MAX_NAMED, ChannelIssues
from tilewise.data.channel_table import table
from tilewise.data.checks import make_records
from tilewise.data.choice import EVERYTHING_OF_IT, DataChoice
from tilewise.data.classes import ClassIds, ClassMap, agreed_classes, in_classes
from tilewise.data.files.exports import name_foreign
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import AZURE, MANIFEST
from tilewise.data.files.text_files import fault_of_text
from tilewise.data.formats.azure_jsonl import find_azure_jsonl
from tilewise.data.formats.box_csv import find_box_csv
from tilewise.data.formats.class_folders import find_class_folders
from tilewise.data.formats.coco import find_coco
from tilewise.data.formats.cvat import find_cvat
from tilewise.data.formats.drone_text import find_dota, find_visdrone
from tilewise.data.formats.image_json import find_image_json
from tilewise.data.formats.label_lists import find_label_csv, find_lst
from tilewise.data.formats.label_studio import find_label_studio
from tilewise.data.formats.labelme import find_labelme
from tilewise.data.formats.labelme_xml import find_labelme_xml
from tilewise.data.formats.manifest import find_manifest
from tilewise.data.formats.recordio import find_recordio
from tilewise.data.formats.via import find_via
from tilewise.data.formats.voc import find_voc
from tilewise.data.formats.yolo import find_yolo
from tilewise.data.label_numbers import has_class_ids, media_type
from tilewise.data.pipe.channel import ChannelPipe, check_pipe, open_pipe, read_head
from tilewise.data.pipe.stream import Stream, StreamElsewhere
from tilewise.data.quoting import some
from tilewise.data.records import Record, Records
from tilewise.data.shard import EVERYTHING, Shard
from tilewise.data.source import Batches_co, BatchMaker, RecordSource
from tilewise.errors import UserError
from tilewise.masks import MASKS
from tilewise.stop import NEVER, StopToken
from tilewise.views.rendering import AS_STORED, Rendering

log = logging.getLogger(__name__)

FORMATS: tuple[Callable[[ChannelSource], DetectedFormat | None], ...] = (
    find_recordio,
    find_manifest,
    find_azure_jsonl,
    find_coco,
    find_image_json,
    find_voc,
    find_yolo,
    find_labelme,
    find_labelme_xml,
    find_dota,
    find_visdrone,
    find_cvat,
    find_label_studio,
    find_via,
    find_box_csv,
)
"""Each looks for one format in a channel."""

LABEL_FORMATS: tuple[Callable[[ChannelSource], DetectedFormat | None], ...] = (
    find_recordio,
    find_manifest,
    find_azure_jsonl,
    find_lst,
    find_label_csv,
)
"""The same where images have labels; without any of these, their folders are their classes."""

CONTENT_TYPES: Mapping[str, tuple[str, ...]] = {
    "application/x-recordio": ("RecordIO", MANIFEST),
    "application/jsonlines": (MANIFEST, AZURE),
    "application/x-jsonlines": (MANIFEST, AZURE),
}
"""What a channel of a content type may hold; of other types, whatever lies there.

A manifest has RecordIO's too: in pipe mode its images and labels arrive as records.
"""

_TEXTS = (".json", ".jsonl", ".manifest", ".csv", ".xml", ".txt", ".lst")

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split(RecordSource):
    """The records of one channel's files, and what became of its images and boxes.

    Attributes:
        records: all that lie in this host's channel.
        issues: what became of the others.
        shard: which of their batches, or images where they validate, are for this process.

    """

    records: Records
    issues: ChannelIssues
    shard: Shard = EVERYTHING

    known_length = supports_random_access = True

    @property
    def sample(self) -> Records:  # type: ignore[override]  # nobody sets it
        """All records."""
        return self.records

    @property
    def expected_images(self) -> int:
        """How many records there are."""
        return len(self.records)

    def batches(self, maker: BatchMaker[Batches_co]) -> Batches_co:
        """Those of this process's shard."""
        return maker.from_files(self.records, self.shard)

    def one_pass(self) -> Iterable[Record]:
        """Each record once."""
        return self.records

    def part(self) -> Iterable[Record]:
        """The records of this process's shard."""
        return islice(self.records, self.shard.index, None, self.shard.count)

    def relabel(self, labels: Int64) -> Self:
        """These records, with other labels."""
        return replace(self, records=self.records.relabel(labels))


@dataclass(frozen=True)
class DataSet:
    """What a job trains, validates and tests on; labels are indices into ``classes``."""

    classes: tuple[str, ...]
    train: RecordSource
    validation: RecordSource | None
    test: RecordSource | None = None

    def close(self) -> None:
        """Close the pipes, where there are any."""
        for split in (self.train, self.validation, self.test):
            if split is not None:
                split.close()


@dataclass(frozen=True)
class ChannelFolder:
    """A channel's folder.

    Attributes:
        path: the folder.
        content_type: as the job states it, "" for none.
        shard: the part of it that is for this process.

    """

    path: Path
    content_type: str = ""
    shard: Shard = EVERYTHING


Channels = Mapping[str, ChannelFolder | ChannelPipe]


def read_data_set(  # noqa: PLR0913  # each is a fact of the job of its own, given by name
    channels: Channels,
    num_classes: int | None,
    *,
    validates: bool,
    seed: int,
    validation_share: float | None = None,
    class_map: ClassMap | None = None,
    rendering: Rendering = AS_STORED,
    stop: StopToken = NEVER,
    reads_pipes: bool = True,
    choice: DataChoice = EVERYTHING_OF_IT,
) -> DataSet:
    """Read ``train``, ``validation`` and ``test`` with their annotation channels, where they have any.

    Of a channel in Pipe mode only the first images are read; close the data set in the end.

    Args:
        channels: by name.
        num_classes: how many classes the job says there are; None to take it from the data.
        validates: whether the job validates at all.
        seed: draws what is set aside.
        validation_share: of the training images, which validate where there is no validation channel; None
            where none may.
        class_map: which class ids there are and what they are called, where the job says so.
        rendering: of the images, for what is said of those with more bands.
        stop: looked at while a pipe has to be waited for.
        reads_pipes: whether this process reads the channels in Pipe mode; one of each host does.
        choice: which of the data is used.

    Raises:
        UserError: a channel is missing or empty, holds no known format, or the classes do not agree.
        StopWaiting: ``stop`` said so.

    """
    _check_channels(channels, may_split=validation_share is not None, validates=validates)
    folders = {name: channel for name, channel in channels.items() if isinstance(channel, ChannelFolder)}
    piped = {name: channel for name, channel in channels.items() if isinstance(channel, ChannelPipe)}
    for name, channel in piped.items():
        check_pipe(name, channel, knows_classes=bool(num_classes or class_map), max_images=choice.max_images)
        if MASKS in choice.fields:
            raise UserError(
                f"channel {name} is in input mode Pipe, whose formats hold boxes only: give it in mode File "
                "or FastFile, since instance segmentation learns from masks"
            )
        if choice.objects_as:
            raise UserError(
                f"channel {name} is in input mode Pipe, which does not go with objects_as: give it in mode "
                "File or FastFile"
            )
    with ExitStack() as stack:
        pipes = {
            name: stack.enter_context(
                closing(open_pipe(name, channel, stop, choice.labels(channel.content_type)))
            )
            for name, channel in piped.items()
            if reads_pipes
        }
        parsed_channels = {
            name: parse_channel(name, folders, choice.label_attribute, fields=choice.read_fields)
            if name in folders
            else read_head(name, pipes[name])
            if reads_pipes
            else ParsedChannel([], names={})
            for name in SPLITS
            if name in channels
        }
        if class_map or not piped:  # what comes through a pipe does not say how many there are
            num_classes = choice.num_classes_of_data(num_classes)
        known = agreed_classes(parsed_channels, num_classes, class_map)
        classes = choice.of_classes(known)
        ids = ClassIds(len(known), class_map or {})
        splits = _splits(parsed_channels, known, ids, piped, choice, rendering)
        streams: dict[str, RecordSource] = {
            name: Stream(
                name,
                pipes[name],
                ids,
                expected=channel.images,
                choose=partial(choice.of_objects, known=known),
                image_labels=choice.image_labels,
            )
            if reads_pipes
            else StreamElsewhere(name, channel.images)
            for name, channel in piped.items()
        }
        if validates and "validation" not in channels:  # then ``train`` is no pipe
            assert validation_share is not None
            log.info("no validation channel: %g %% of the training images validate", 100 * validation_share)
            splits |= _divide(splits["train"], validation_share, seed)
        splits = {
            name: replace(split, records=choice.of_records(split.records, split.issues, classes))
            for name, split in splits.items()
        }
        sources = streams | {name: _sharded(name, split, folders) for name, split in splits.items()}
        data_by_channel = {
            name: (sources[name].sample, sources[name].issues) for name in SPLITS if name in sources
        }
        log.info("the data:\n%s", table(data_by_channel, classes, streams=frozenset(piped)))
        stack.pop_all()
    return DataSet(classes, sources["train"], sources.get("validation"), sources.get("test"))


def _check_channels(channels: Channels, *, may_split: bool, validates: bool) -> None:
    if "train" not in channels:
        have = ", ".join(sorted(channels)) or "none"
        raise UserError(
            f"the channel train is missing (channels given: {have}); it must hold the training images"
        )
    if not validates or "validation" in channels:
        return
    if not may_split:
        raise UserError(
            "the channel validation is missing: a job with the built-in algorithm's hyperparameters needs one"
        )
    if isinstance(channels["train"], ChannelPipe):
        raise UserError(
            "the channel validation is missing: no training images can be set aside for it in input mode "
            "Pipe; give one, or validation_metric_type=none"
        )


def _splits(
    parsed_channels: Mapping[str, ParsedChannel],
    classes: tuple[str, ...],
    ids: ClassIds,
    pipes: Collection[str],
    choice: DataChoice,
    rendering: Rendering,
) -> dict[str, Split]:
    """Of the channels that are no pipes."""
    examples = {
        name: [ids.to_labels(example, name) for example in channel.examples]
        if channel.classes is None
        else in_classes(channel, classes, f"channel {name}", whose="channel train")
        for name, channel in parsed_channels.items()
        if name not in pipes
    }
    issues_by_channel = {
        name: ChannelIssues(
            name,
            rendering=rendering,
            image_files=parsed_channels[name].image_files,
            image_labels=choice.image_labels,
        )
        for name in examples
    }
    return {
        name: Split(make_records(choice.of_examples(examples[name], classes, name), issues), issues)
        for name, issues in issues_by_channel.items()
    }


def parse_channel(
    name: str,
    folders: Channels,
    label_attribute: str | None = None,
    *,
    fields: frozenset[str] = frozenset(),
) -> ParsedChannel:
    """Find out which format a channel holds, and read it.

    Args:
        name: the channel's; ``<name>_annotation`` among the folders is its annotation channel.
        folders: channel name -> folder and content type.
        label_attribute: the one of augmented manifests to read, where the job says which.
        fields: the optional fields of the ground truth to read.

    Raises:
        UserError: it holds no format, or several.

    """
    content_type = folders[name].content_type
    other = f"{name}_lst" if f"{name}_lst" in folders else f"{name}_annotation"
    for part in (name, other):
        if part in folders and not folders[part].path.is_dir():
            raise UserError(f"the folder of channel {part} is not there: {folders[part].path}")
    images = Folder(folders[name].path)
    annotations, annotation_name = (
        (Folder(folders[other].path), other) if other in folders else (images, name)
    )
    source = ChannelSource(
        name,
        images,
        annotations,
        annotation_name,
        label_attribute,
        fields,
        class_ids=has_class_ids(content_type),
    )
    detected_format = _only_format(source, media_type(content_type))
    log.info("channel %s holds %s (%s)", name, detected_format.format, detected_format.where)
    parsed = read_format(detected_format, source)
    return replace(parsed, image_files=tuple(islice(images.images, MAX_NAMED + 1)))


def _only_format(source: ChannelSource, content_type: str) -> DetectedFormat:
    formats = [one for find in (LABEL_FORMATS if source.image_labels else FORMATS) if (one := find(source))]
    if source.image_labels and not formats and not any(find(source) for find in FORMATS):
        formats = [folders] if (folders := find_class_folders(source)) else []
    expected_formats = CONTENT_TYPES.get(content_type)
    if expected_formats and not any(one.format in expected_formats for one in formats):
        instead = f"{formats[0].format} ({formats[0].where})" if formats else "no annotations of a known form"
        raise UserError(
            f"channel {source.name}: its content type is {content_type}, which stands for "
            f"{' or '.join(expected_formats)}, but it holds {instead}: correct the content type or the files"
        )
    if not formats:
        raise UserError(_nothing(source))
    holds = [f"{one.format} ({one.where})" for one in formats]
    if len(formats) == 1 and formats[0].format == "RecordIO":
        # Its images and boxes are in it: what lies beside it would be forgotten.
        holds += [f"image files ({some(source.images.images)})"] if source.images.images else []
        if source.annotations is not source.images and source.annotations.files:
            holds.append(f"annotations in the channel {source.annotation_name}")
    if len(holds) > 1:
        raise UserError(f"channel {source.name} holds {' and '.join(holds)}: keep one format")
    return formats[0]


def _nothing(source: ChannelSource) -> str:
    images = source.images.images
    what = f"{len(images)} images ({some(images)}), but" if images else "no images, and"
    if source.image_labels:
        return _no_labels(source, what)
    where = "" if source.annotations is source.images else f" (nor does {source.annotation_name})"
    start = f"channel {source.name} holds {what} no annotations of a known form{where}"
    if foreign := name_foreign(source.annotations):
        return f"{start}: {foreign}"
    folders = {id(one): one for one in (source.images, source.annotations)}.values()
    others = {
        name: path for folder in folders for name, path in folder.files.items() if name not in folder.images
    }
    beside = f"; the other files are {some(others, MAX_NAMED)}" if others else ""
    first_texts = islice((path for name, path in others.items() if name.lower().endswith(_TEXTS)), MAX_NAMED)
    beside += "".join(f"; {fault}" for path in first_texts if (fault := fault_of_text(path)))
    return (
        f"{start}{beside}: give RecordIO files (.rec), or images and a COCO JSON file, an augmented "
        "manifest, Azure JSON lines, a CSV file of boxes, or for each image one JSON file (in the channel "
        f"{source.name}_annotation), Pascal VOC XML or YOLO's, DOTA's or VisDrone's text file, or an export "
        "of CVAT, Label Studio, LabelMe or the VGG Image Annotator; docs/data_formats.md shows each"
    )


def _no_labels(source: ChannelSource, what: str) -> str:
    objects = [one.format for find in FORMATS if (one := find(source))]
    known = (
        f": {' and '.join(objects)} is of objects, for task=detection or with objects_as=labels or crops"
        if objects
        else ""
    )
    return (
        f"channel {source.name} holds {what} no labels of images of a known form{known}: give a folder of "
        "images for each class, Azure JSON lines, an augmented manifest, a CSV file with a title line, a "
        f".lst file (in the channel {source.name}_lst), or RecordIO files (.rec)"
    )


def _sharded(name: str, split: Split, folders: Mapping[str, ChannelFolder]) -> Split:
    """With the shard of its folder; what was set aside from ``train`` has that one's."""
    return replace(split, shard=folders[name if name in folders else "train"].shard)


def _divide(split: Split, share: float, seed: int) -> dict[str, Split]:
    order = np.random.default_rng(seed).permutation(len(split.records))
    count = round(share * len(order))
    if not 0 < count < len(order):
        raise UserError(
            f"channel train holds {len(order)} images, of which validation_data_size={share:g} sets {count} "
            "aside: give a channel validation, or another share"
        )
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return {
        "train": Split(split.records.select(kept.tolist()), split.issues),
        "validation": Split(
            split.records.select(held.tolist()),
            ChannelIssues("validation", images=count, image_labels=split.issues.image_labels),
        ),
    }
