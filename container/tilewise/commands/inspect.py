"""Show what is in a channel: a table, and a picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.arrays import Array, Float64
from tilewise.commands.channels import (
    add_task,
    check_seed,
    checked_records,
    chosen_classes,
    label_fields,
    say_what_is_read,
)
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.channel_table import SIZE_NAMES, duplicates, masks_of, size_histogram, table
from tilewise.data.checks import check_objects
from tilewise.data.choice import DataChoice
from tilewise.data.image_labels import shown_classes
from tilewise.data.read import read_annotated
from tilewise.data.records import Records
from tilewise.errors import UserError
from tilewise.evaluation.channel_picture import draw_channels
from tilewise.evaluation.label_picture import draw_labels
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.hyperparameters.values import Bands, PixelRange, Values, shown
from tilewise.masks import MASKS
from tilewise.targets import Targets
from tilewise.views.rendering import Rendering

VIEWS = 12
"""So many training views are drawn."""


class _Patient(ChannelIssues):
    """Issues that do not stop the reading: all is to be seen first."""

    def check(self) -> None:
        """Nothing yet."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``inspect``."""
    parser.add_argument(
        "channels", nargs="+", type=Path, help="folders; the first one is train, whose classes count"
    )
    parser.add_argument(
        "--annotations", nargs="+", type=Path, help="for each of them its annotations' folder or file"
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for inspect.png")
    add_task(parser)
    parser.add_argument(
        "--scale", type=int, metavar="SIDE", help="objects' sizes in images scaled to SIDE x SIDE pixels"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the classes' names in the order of their ids"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the images that are shown at random")
    parser.add_argument("--bands", default="none", metavar="4,3,2", help="as the hyperparameter bands")
    parser.add_argument(
        "--pixel-range", default="none", metavar="LOW,HIGH", help="as the hyperparameter pixel_range"
    )
    parser.add_argument(
        "--augmented",
        nargs="*",
        metavar="NAME=VALUE",
        help="also draw training views of the first channel as the network gets them, in a job with these"
        " hyperparameters",
    )
    parser.add_argument(
        "--json", action="store_true", help="the facts as JSON; the table goes to standard error"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the table, write the pictures, and complain of what would stop a job.

    Raises:
        UserError: a channel cannot be read, or a job would stop because of it.

    """
    say_what_is_read()
    if arguments.scale is not None and arguments.scale < 1:
        raise UserError(f"--scale is {arguments.scale}: it must be the side of a square in pixels")
    check_seed(arguments.seed)
    folders = _folders(arguments.channels, arguments.annotations)
    labels = label_fields(arguments)
    if labels and (arguments.augmented is not None or arguments.scale is not None):
        option = "--scale" if arguments.augmented is None else "--augmented"
        raise UserError(f"{option} is of objects: it does not go with --task {arguments.task}")
    choice = DataChoice(fields=labels or frozenset({MASKS}), objects_as=arguments.objects_as)
    channels = {
        name: read_annotated(name, *places, fields=choice.read_fields) for name, places in folders.items()
    }
    classes = chosen_classes(channels, arguments.classes)
    rendering = Rendering(_read(arguments, "bands", Bands), _read(arguments, "pixel_range", PixelRange))
    issues_by_channel = {
        name: _Patient(name, rendering=rendering, image_labels=choice.image_labels) for name in channels
    }
    first = next(iter(channels))
    records = {
        name: checked_records(one, classes, issues_by_channel[name], whose=f"channel {first}")
        for name, one in channels.items()
    }
    records = {
        name: choice.of_records(one, issues_by_channel[name], classes) for name, one in records.items()
    }
    scaled = {name: _scaled(one, arguments.scale) for name, one in records.items()}
    data_by_channel = {name: (scaled[name], issues_by_channel[name]) for name in records}
    pixels = (
        f"pixels of images scaled to {arguments.scale} x {arguments.scale}" if arguments.scale else "pixels"
    )
    text = table(data_by_channel, classes)
    text += f"\n√area is in {pixels}" if arguments.scale else ""
    print(text, file=sys.stderr if arguments.json else sys.stdout)
    arguments.out.mkdir(parents=True, exist_ok=True)
    picture = arguments.out / "inspect.png"
    if labels:
        damaged = draw_labels(records, classes, path=picture, seed=arguments.seed, rendering=rendering)
    else:
        sides = {name: one.object_sizes for name, one in scaled.items()}
        damaged = draw_channels(
            records, sides, classes, title=pixels, path=picture, seed=arguments.seed, rendering=rendering
        )
    print(f"the picture: {picture}", file=sys.stderr if arguments.json else sys.stdout)
    for key, reason in damaged.items():
        print(f"{key} cannot be decoded: {reason}", file=sys.stderr)
    if arguments.json:
        facts = _as_json(data_by_channel, classes, damaged, labels=bool(labels))
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    for issues in issues_by_channel.values():
        ChannelIssues.check(issues)
    check_objects(first, not records[first].targets.ignored.all())
    if arguments.augmented is not None:
        path = arguments.out / "augmented.png"
        _draw_augmented(Split(records[first], issues_by_channel[first]), classes, arguments.augmented, path)
        print(f"training views: {path}", file=sys.stderr if arguments.json else sys.stdout)


def _draw_augmented(split: Split, classes: tuple[str, ...], given: list[str], path: Path) -> None:
    """Draw the first training views of a job.

    Raises:
        UserError: a hyperparameter is wrong, or all views that were to be drawn are of damaged images.

    """
    # Imported here: a table of what there is needs no PyTorch.
    from tilewise.evaluation.draw import draw_training_views
    from tilewise.tasks.registry import make_task
    from tilewise.training.job.preview import training_views

    unclear = [text for text in given if "=" not in text]
    if unclear:
        raise UserError(f"--augmented {unclear[0]}: give hyperparameters as NAME=VALUE, such as copy_paste=1")
    hp = parse_hyperparameters(dict(text.split("=", 1) for text in given))
    targets, wanted = split.records.targets, make_task(hp).target_fields
    own = {name: field for name, field in targets.fields.items() if name in wanted}
    split = replace(split, records=split.records.with_targets(replace(targets, fields=own)))
    samples = training_views(hp, DataSet(classes, split, None), VIEWS)
    if not samples:
        raise UserError("--augmented: none of the images that were to be drawn can be decoded")
    draw_training_views(samples, classes).save(path)


def _read(arguments: argparse.Namespace, name: str, kind: Any) -> Any:
    text = getattr(arguments, name)
    try:
        return Values(kind).read(text)
    except ValueError as error:
        raise UserError(f"--{name.replace('_', '-')}={shown(text)}: {error}") from None


def _folders(channels: list[Path], annotations: list[Path] | None) -> dict[str, tuple[Path, Path | None]]:
    """Channels by the first names that tell them apart: folders, annotation files, whole paths."""
    places: list[Path | None] = [*annotations] if annotations else [None] * len(channels)
    if len(places) != len(channels):
        raise UserError(
            f"--annotations names {len(places)} places for {len(channels)} channels: give one for each"
        )
    names = (
        [path.resolve().name for path in channels],
        [place.stem if place else "" for place in places],
        [str(path) for path in channels],
        [f"{path} with {place}" for path, place in zip(channels, places, strict=True)],
    )
    for some in names:
        if len(set(some)) == len(channels):
            return dict(zip(some, zip(channels, places, strict=True), strict=True))
    raise UserError("the same channel is given twice: give each once")


def _scaled(records: Records, side: int | None) -> Records:
    """The records with boxes as they are in images scaled to a square; all else as it was."""
    if side is None:
        return records

    def scale(targets: Targets[Array], factor: Float64) -> Targets[Array]:
        return replace(targets, boxes=(targets.boxes * [*factor, *factor]).astype(np.float32))

    return Records(
        replace(record, targets=scale(record.targets, factor))
        for record, factor in zip(records, side / records.sizes, strict=True)
    )


def _as_json(
    channels: Mapping[str, tuple[Records, ChannelIssues]],
    classes: tuple[str, ...],
    damaged: Mapping[str, str],
    *,
    labels: bool,
) -> dict[str, Any]:
    first, *others = channels
    also_in_first = {
        name: {f"images_also_in_{first}": duplicates(channels[first][0], channels[name][0])}
        for name in others
    }
    of_targets = _images_as_json if labels else _boxes_as_json
    return {
        "classes": classes,
        "channels": {
            name: {
                "images": len(records),
                f"images_without_{'class' if labels else 'objects'}": int((records.object_counts == 0).sum()),
                "images_left_out": issues.left_out,
                **also_in_first.get(name, {}),
                **of_targets(records, issues, classes),
            }
            for name, (records, issues) in channels.items()
        },
        "cannot_be_decoded": dict(damaged),
    }


def _boxes_as_json(records: Records, issues: ChannelIssues, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "boxes": len(records.targets),
        "boxes_ignored": int(records.targets.ignored.sum()),
        "boxes_clipped": issues.clipped,
        "boxes_dropped": issues.dropped,
        "boxes_repeated": issues.repeated,
        "masks": int(known.sum()) if (known := masks_of(records)) is not None else 0,
        "masks_dropped": issues.masks_dropped,
        "boxes_by_class": _by_class(records, classes),
        "boxes_by_size": dict(zip(SIZE_NAMES, size_histogram(records).tolist(), strict=True)),
        "doubts": issues.faults + issues.doubts,
        "most_objects_in_an_image": int(records.object_counts.max(initial=0)),
    }


def _images_as_json(records: Records, issues: ChannelIssues, classes: tuple[str, ...]) -> dict[str, Any]:
    shown = shown_classes(records, len(classes)).sum(axis=0).tolist()
    return {"images_by_class": dict(zip(classes, shown, strict=True))}


def _by_class(records: Records, classes: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(records.targets.labels.tolist())
    return {name: counts[label] for label, name in enumerate(classes)}
