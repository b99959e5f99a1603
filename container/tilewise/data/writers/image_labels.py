"""Images that have classes, in the forms that jobs for classification take."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from tilewise.data.records import Record
from tilewise.data.writers.manifest import WITHOUT_S3
from tilewise.data.writers.output import Output, check_class_names, check_s3_prefix
from tilewise.data.writers.recordio import write_image_records
from tilewise.errors import UserError

LABEL = "class"
"""The attribute of a manifest that holds an image's classes."""


def labels_of(record: Record, output: Output) -> list[int]:
    """A record's labels, which are counted."""
    labels = sorted(set(record.targets.labels.tolist()))
    output.boxes += len(labels)
    return labels


def write_class_folders(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write a folder for each class, of images that have one.

    Raises:
        UserError: an image has several classes, or none, or a class's name cannot be that of a folder.

    """
    check_class_names(classes, "a folder's name")
    for name in classes:
        if "/" in name or name.startswith("."):
            raise UserError(
                f"the class {name} cannot be the name of a folder: give other names with --classes"
            )
    for record in records:
        labels = labels_of(record, output)
        if len(labels) != 1:
            raise UserError(
                f"{record.key} has {len(labels)} classes, and a folder holds images of one: give --to "
                "azure-jsonl, csv, lst, manifest or recordio"
            )
        (output.folder / classes[labels[0]]).mkdir(exist_ok=True)
        output.put_image(record, classes[labels[0]])


def write_label_lines(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, name: str, several: bool
) -> None:
    """Write ``images/`` and ``<name>.jsonl``, Azure's: ``label`` is a name, or of several a list of names."""
    with _beside_images(output, f"{name}.jsonl") as file:
        for record in records:
            names = [classes[label] for label in labels_of(record, output)]
            label = names if several else names[0]
            line = {"image_url": f"images/{output.put_image(record, 'images')}", "label": label}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_label_csv(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, name: str, several: bool
) -> None:
    """Write ``images/`` and ``<name>.csv`` with a title; of several, names with spaces between them.

    Raises:
        UserError: of several, a class's name has a space, or a mark that readers take for one between names.

    """
    unclear = [each for each in classes if several and re.search(r"[\s,;|]", each)]
    if unclear:
        raise UserError(
            f"the class {unclear[0]} has a space in its name, or a comma, semicolon or bar, which separates "
            "the names of several: give --to azure-jsonl, or other names with --classes"
        )
    with _beside_images(output, f"{name}.csv") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["filename", "label"])
        for record in records:
            names = [classes[label] for label in labels_of(record, output)]
            rows.writerow([f"images/{output.put_image(record, 'images')}", " ".join(names)])


def write_label_lst(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, name: str, several: bool
) -> None:
    """Write ``images/`` and ``<name>.lst``: index, class id or 0 and 1 for each class, and path."""
    with _beside_images(output, f"{name}.lst") as file:
        for number, record in enumerate(records):
            cells = _numbers(labels_of(record, output), len(classes), several=several)
            row = [number, *cells, f"images/{output.put_image(record, 'images')}"]
            file.write("\t".join(map(str, row)) + "\n")


def write_label_manifest(
    records: Iterable[Record],
    classes: tuple[str, ...],
    output: Output,
    *,
    name: str,
    several: bool,
    s3_prefix: str = "",
) -> None:
    """Write ``images/`` and ``<name>.manifest``, as Ground Truth's jobs for image classification do.

    Raises:
        UserError: the prefix is no S3 URI.

    """
    prefix = check_s3_prefix(s3_prefix)
    kind = "image-classification-multilabel" if several else "image-classification"
    fixed = {
        "type": f"groundtruth/{kind}",
        "human-annotated": "yes",
        "creation-date": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
        "job-name": "labeling-job/tilewise-convert",
    }
    with _beside_images(output, f"{name}.manifest") as file:
        for record in records:
            labels = labels_of(record, output)
            names = {str(label): classes[label] for label in labels}
            own = (
                {"class-map": names, "confidence-map": dict.fromkeys(names, 1)}
                if several
                else {"class-name": classes[labels[0]], "confidence": 1}
            )
            line = {
                "source-ref": f"{prefix}images/{output.put_image(record, 'images')}",
                LABEL: labels if several else labels[0],
                f"{LABEL}-metadata": {**own, **fixed},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not s3_prefix:
        output.notes[WITHOUT_S3] += output.images


def write_label_records(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, name: str, several: bool
) -> None:
    """Write ``<name>.rec``, ``.idx`` and ``.lst``: a class id for each image, or 0 and 1 for each class.

    Raises:
        UserError: an image is too large for a record.

    """

    def labelled() -> Iterator[tuple[Record, list[int] | int]]:
        for record in records:
            numbers = _numbers(labels_of(record, output), len(classes), several=several)
            yield record, numbers if several else numbers[0]

    write_image_records(labelled(), output, name=name)


@contextmanager
def _beside_images(output: Output, name: str) -> Iterator[IO[str]]:
    (output.folder / "images").mkdir()
    with (output.folder / name).open("x", encoding="utf-8", newline="\n") as file:
        yield file


def _numbers(labels: list[int], classes: int, *, several: bool) -> list[int]:
    return [int(label in labels) for label in range(classes)] if several else labels
