"""Images and an augmented manifest, as SageMaker Ground Truth writes them.

Specification: the developer guide's "Augmented manifest files" and "Bounding box job output".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from tilewise.data.records import Record
from tilewise.data.writers.image_json import label_content
from tilewise.data.writers.output import Output, check_s3_prefix

LABEL = "bounding-box"
"""The attribute that holds an image's boxes: the second of a job's ``AttributeNames``."""

WITHOUT_S3 = "source-refs name images without S3: a SageMaker job needs --s3-prefix"


def write_manifest(
    records: Iterable[Record],
    classes: tuple[str, ...],
    output: Output,
    *,
    name: str = "train",
    s3_prefix: str = "",
) -> None:
    """Write ``images/`` and ``<name>.manifest``.

    Args:
        records: what to write.
        classes: names by label.
        output: where to.
        name: of the manifest.
        s3_prefix: where the folder will lie in S3; without it the images are named as they lie in the folder,
            which a File channel takes, but not a job with an augmented manifest.

    Raises:
        UserError: the prefix is no S3 URI.

    """
    prefix = check_s3_prefix(s3_prefix)
    (output.folder / "images").mkdir()
    metadata = {
        "class-map": {str(index): name for index, name in enumerate(classes)},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
        "job-name": "labeling-job/tilewise-convert",
    }
    with (output.folder / f"{name}.manifest").open("x", encoding="utf-8", newline="\n") as file:
        for record in records:
            source = f"{prefix}images/{output.put_image(record, 'images')}"
            label = label_content(record, output)
            objects = [{"confidence": 1} for _ in label["annotations"]]
            line = {
                "source-ref": source,
                LABEL: label,
                f"{LABEL}-metadata": {"objects": objects, **metadata},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not s3_prefix:
        output.notes[WITHOUT_S3] += output.images
