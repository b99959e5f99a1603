"""Convert a channel to another format."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from tilewise.commands.channels import (
    add_task,
    check_seed,
    checked_records,
    chosen_classes,
    label_fields,
    say_what_is_read,
)
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.choice import DataChoice, OtherClasses
from tilewise.data.image_labels import SEVERAL_LABELS
from tilewise.data.read import read_annotated
from tilewise.data.records import Record, Records
from tilewise.data.writers.azure_jsonl import write_azure_jsonl
from tilewise.data.writers.coco import write_coco
from tilewise.data.writers.cvat import write_cvat
from tilewise.data.writers.image_json import write_image_json
from tilewise.data.writers.image_labels import (
    write_class_folders,
    write_label_csv,
    write_label_lines,
    write_label_lst,
    write_label_manifest,
    write_label_records,
)
from tilewise.data.writers.label_studio import write_label_studio
from tilewise.data.writers.labelme import write_labelme
from tilewise.data.writers.manifest import write_manifest
from tilewise.data.writers.output import Output, new_folder
from tilewise.data.writers.polygons import MaskForm
from tilewise.data.writers.recordio import write_recordio
from tilewise.data.writers.via import write_via
from tilewise.data.writers.voc import write_voc
from tilewise.data.writers.yolo import write_yolo
from tilewise.errors import UserError
from tilewise.masks import MASKS, masks_in

FORMATS = (
    "recordio",
    "image-json",
    "coco",
    "azure-jsonl",
    "manifest",
    "yolo",
    "yolo-seg",
    "voc",
    "label-studio",
    "cvat",
    "labelme",
    "via",
)
"""Formats of objects."""

HOLD_LABELS = ("folders", "azure-jsonl", "csv", "lst", "manifest", "recordio")
"""Formats of images that have classes."""

HOLD_MASKS = ("coco", "azure-jsonl", "yolo-seg")
"""Formats of objects that hold their masks."""

SECONDS_BETWEEN_LINES = 10
"""How often a line says how far it is, where no terminal shows a bar."""

_Write = Callable[[Iterable[Record], tuple[str, ...], Output], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``convert``."""
    parser.add_argument("source", metavar="SRC", type=Path, help="the channel's folder, in any format")
    parser.add_argument("target", metavar="DST", type=Path, help="a folder that is not there yet, or empty")
    parser.add_argument("--to", required=True, choices=list(dict.fromkeys((*FORMATS, *HOLD_LABELS))))
    add_task(parser)
    parser.add_argument(
        "--annotations",
        type=Path,
        help="the folder of the annotations, or one file with all, if it is not SRC",
    )
    parser.add_argument(
        "--name",
        default="train",
        help="the channel's name, and that of its .rec, .manifest, .jsonl, .csv or .lst",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the classes' names in the order of their ids"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these classes only")
    parser.add_argument(
        "--other-classes",
        choices=get_args(OtherClasses),
        default="drop",
        help="what the objects of classes become that --only leaves out (drop)",
    )
    parser.add_argument("--max-images", type=int, metavar="N", help="at most N images, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument(
        "--label-attribute", metavar="NAME", help="the label attribute of a manifest that has several"
    )
    parser.add_argument("--with-size", action="store_true", help="recordio: labels hold the image's size too")
    parser.add_argument("--skip-empty", action="store_true", help="recordio: no images without objects")
    parser.add_argument(
        "--masks",
        choices=get_args(MaskForm),
        default="as-read",
        help="coco: how masks are written, as polygons, as run lengths or not at all (as-read); "
        "azure-jsonl: none for boxes only",
    )
    parser.add_argument(
        "--s3-prefix",
        default="",
        metavar="s3://BUCKET/PATH",
        help="manifest, label-studio: where DST will lie in S3",
    )


def run(arguments: argparse.Namespace) -> None:
    """Read the source, write the target, and say what became of it.

    Raises:
        UserError: the source cannot be read, or the target cannot be written.

    """
    say_what_is_read()
    started = time.monotonic()
    source, target, name = arguments.source.resolve(), arguments.target, arguments.name
    _check_options(arguments)
    labels = label_fields(arguments)
    reads_masks = arguments.masks != "none" and not labels
    choice = DataChoice(
        tuple(arguments.only),
        arguments.other_classes,
        arguments.max_images,
        arguments.seed,
        fields=labels or frozenset({MASKS} if reads_masks else ()),
        objects_as=arguments.objects_as,
    )
    with new_folder(target) as folder:
        channel = read_annotated(
            name,
            source,
            arguments.annotations,
            label_attribute=arguments.label_attribute,
            fields=choice.read_fields,
        )
        known = chosen_classes({name: channel}, arguments.classes)
        classes = choice.of_classes(known)
        issues = ChannelIssues(name, image_labels=choice.image_labels)
        records = checked_records(channel, known, issues, whose="--classes", choice=choice)
        records = choice.of_records(records, issues, classes)
        del channel  # the records hold all of it, packed
        output = Output(folder, source)
        if arguments.to not in HOLD_MASKS:
            output.notes[
                f"masks left out: --to {arguments.to} holds boxes alone; {', '.join(HOLD_MASKS)} hold masks"
            ] += _masks_of(records)
        _writer(arguments, records)(_progress(records, terminal=sys.stderr.isatty()), classes, output)
    written = f"{output.boxes:,} {'labels' if labels else 'boxes'}" + (
        f" and {output.masks:,} masks" if output.masks else ""
    )
    print(
        f"{target}: {output.images:,} images ({output.bytes:,} bytes) with {written} "
        f"as {arguments.to} in {time.monotonic() - started:.1f} s"
    )
    print("classes:", ", ".join(f"{index} {label}" for index, label in enumerate(classes)))
    for line in _left_out(issues, output):
        print(line)


def _check_options(arguments: argparse.Namespace) -> None:
    name = arguments.name
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"--name is {name!r}: it must be a plain name such as train")
    if arguments.target.resolve().is_relative_to(arguments.source.resolve()):
        raise UserError(
            f"{arguments.target} lies in {arguments.source}, which would then hold two formats: write it "
            "elsewhere"
        )
    check_seed(arguments.seed)
    if arguments.max_images is not None and arguments.max_images < 1:
        raise UserError(f"--max-images is {arguments.max_images}: it must be at least 1")
    formats_of = {
        "with_size": ("recordio",),
        "skip_empty": ("recordio",),
        "s3_prefix": ("manifest", "label-studio"),
    }
    labels = label_fields(arguments)
    if labels and arguments.to not in HOLD_LABELS:
        raise UserError(
            f"--to {arguments.to} holds objects: images with classes go to {', '.join(HOLD_LABELS)}"
        )
    if not labels and arguments.to not in FORMATS:
        raise UserError(
            f"--to {arguments.to} holds images with classes: say so with --task classification or "
            "multilabel_classification"
        )
    if arguments.masks != "as-read":
        takes = "coco or azure-jsonl" if arguments.masks == "none" else "coco"
        if arguments.to not in takes.split(" or "):
            raise UserError(f"--masks {arguments.masks} goes with --to {takes} only")
    for option, forms in formats_of.items():
        if getattr(arguments, option) and arguments.to not in forms:
            raise UserError(f"--{option.replace('_', '-')} goes with --to {' or '.join(forms)} only")


def _label_writer(arguments: argparse.Namespace) -> _Write:
    several = SEVERAL_LABELS in label_fields(arguments)
    if arguments.to == "manifest":
        return partial(
            write_label_manifest, name=arguments.name, several=several, s3_prefix=arguments.s3_prefix
        )
    writers: dict[str, Callable[..., None]] = {
        "azure-jsonl": write_label_lines,
        "csv": write_label_csv,
        "lst": write_label_lst,
        "recordio": write_label_records,
    }
    if arguments.to == "folders":
        return write_class_folders
    return partial(writers[arguments.to], name=arguments.name, several=several)


def _writer(arguments: argparse.Namespace, records: Records) -> _Write:
    if label_fields(arguments):
        return _label_writer(arguments)
    if arguments.to == "recordio":
        return partial(
            write_recordio,
            name=arguments.name,
            difficult=bool(records.targets.ignored.any()),
            with_size=arguments.with_size,
            skip_empty=arguments.skip_empty,
        )
    if arguments.to == "manifest":
        return partial(write_manifest, name=arguments.name, s3_prefix=arguments.s3_prefix)
    if arguments.to == "azure-jsonl":
        return partial(write_azure_jsonl, name=arguments.name)
    if arguments.to == "label-studio":
        return partial(write_label_studio, s3_prefix=arguments.s3_prefix)
    writers: dict[str, _Write] = {
        "image-json": write_image_json,
        "coco": partial(write_coco, masks=arguments.masks),
        "yolo": write_yolo,
        "yolo-seg": partial(write_yolo, masks=True),
        "voc": write_voc,
        "cvat": write_cvat,
        "labelme": write_labelme,
        "via": write_via,
    }
    return writers[arguments.to]


def _masks_of(records: Records) -> int:
    """How many objects have a mask."""
    masks = masks_in(records.targets.fields)
    return 0 if masks is None else int(masks.known.sum())


def _progress(records: Records, *, terminal: bool) -> Iterator[Record]:
    """The records, with a bar on a terminal, and a line now and then elsewhere."""
    said = time.monotonic()
    for number, record in enumerate(tqdm(records, unit=" images", disable=not terminal)):
        if not terminal and time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"{number:,} of {len(records):,} images", file=sys.stderr)
        yield record


def _left_out(issues: ChannelIssues, output: Output) -> list[str]:
    """What the target does not have as the source has it, a line each."""
    counts = {
        "images left out, unusable (named above)": len(issues.left_out),
        "boxes dropped (named above)": len(issues.dropped),
        "boxes clipped to their image": issues.clipped,
        "masks dropped (named above)": len(issues.masks_dropped),
        **output.notes,
    }
    return [f"{count:,} {what}" for what, count in counts.items() if count]
