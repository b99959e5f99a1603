"""The forms of an endpoint's answer about objects, beside the built-in algorithm's two. Without torch.

This is the one place where pre-labels are rendered: what a model says, for tools in which people label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from tilewise.instances import Instances
from tilewise.tasks.answers import Answered, AnswerForm
from tilewise.tasks.detection.builtin import as_annotations

MODEL_VERSION = "tilewise"


def azure(images: Sequence[Answered]) -> str:
    """As an endpoint of Azure AutoML for images: an entry an image, corners as fractions, classes by name."""
    return compact([azure_entry(answered) for answered in images])


def azure_entry(answered: Answered) -> dict[str, Any]:
    """One image's part of it."""
    width, height = answered.width, answered.height
    boxes = []
    for (left, top, right, bottom), score, label in _instances(answered):
        corners = (left / width, top / height, right / width, bottom / height)
        box = dict(zip(("topX", "topY", "bottomX", "bottomY"), map(short, corners), strict=True))
        boxes.append({"box": box, "label": answered.class_name(label), "score": short(score)})
    return {"boxes": boxes}


def coco_results(images: Sequence[Answered]) -> str:
    """COCO's results: ``pycocotools`` loads them with ``loadRes``.

    Categories count from 1, as ``tilewise convert`` writes them. An image's id is the number that it is named
    by, such as ``000000397133.jpg``, else its place in the request, from 1.
    """
    return compact([result for answered in images for result in coco_rows(answered)])


def coco_rows(answered: Answered) -> Iterable[dict[str, Any]]:
    """One image's part of it."""
    stem = PurePosixPath(answered.name).stem
    image = int(stem) if stem.isdecimal() and len(stem) <= 18 else answered.number
    for (left, top, right, bottom), score, label in _instances(answered):
        yield {
            "image_id": image,
            "category_id": label + 1,
            "bbox": [short(value) for value in (left, top, right - left, bottom - top)],
            "score": short(score),
            "category_name": answered.class_name(label),
        }


def yolo_text(images: Sequence[Answered]) -> str:
    """YOLO's text of one image: class, centre and size as fractions, and the score, a line an object."""
    (answered,) = images
    lines = []
    for (left, top, right, bottom), score, label in _instances(answered):
        centre = ((left + right) / 2 / answered.width, (top + bottom) / 2 / answered.height)
        size = ((right - left) / answered.width, (bottom - top) / answered.height)
        numbers = " ".join(f"{value:.9g}" for value in (*centre, *size, score))
        lines.append(f"{label} {numbers}\n")
    return "".join(lines)


def geojson(images: Sequence[Answered]) -> str:
    """A FeatureCollection (RFC 7946) whose coordinates are pixels, as QuPath reads it."""
    return compact(
        {"type": "FeatureCollection", "features": [one for answered in images for one in features(answered)]}
    )


def features(answered: Answered) -> Iterable[dict[str, Any]]:
    """One image's part of it."""
    for corners, score, label in _instances(answered):
        left, top, right, bottom = map(short, corners)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        name = answered.class_name(label)
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "image": answered.file_name,
                "class_id": label,
                "class": name,
                "score": short(score),
                "objectType": "detection",
                "classification": {"name": name},
            },
        }


def manifest_lines(images: Sequence[Answered]) -> str:
    """Lines of an augmented manifest, as a Ground Truth job that labels boxes writes them.

    An image's name should be its ``s3://`` address. Boxes are whole pixels.
    """
    return "".join(json_line(manifest_line(answered)) for answered in images)


def manifest_line(answered: Answered) -> dict[str, Any]:
    """One image's part of it."""
    label = as_annotations(answered.prediction)
    scores = [box.pop("score") for box in label["annotations"]]
    metadata = label_metadata(answered, scores, "groundtruth/object-detection")
    return {"source-ref": answered.file_name, "bounding-box": label, "bounding-box-metadata": metadata}


def label_metadata(answered: Answered, scores: Sequence[float], kind: str) -> dict[str, Any]:
    """What a manifest says beside a label of that type, with the scores of its objects."""
    return {
        "objects": [{"confidence": score} for score in scores],
        "class-map": {str(index): name for index, name in enumerate(answered.classes)},
        "type": kind,
        "human-annotated": "no",
        "creation-date": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
        "job-name": "labeling-job/tilewise",
    }


def json_line(content: Any) -> str:
    """JSON and a newline."""
    return json.dumps(content, ensure_ascii=False) + "\n"


def label_studio(images: Sequence[Answered]) -> str:
    """Tasks with pre-annotations for Label Studio, with its template for boxes: percent of the image's sides.

    Specification: Label Studio's guide, "Import pre-annotated data". The project's labelling configuration
    has ``<RectangleLabels name="label" toName="image">``.
    """
    return compact([label_studio_task(answered, "rectangle", _percents(answered)) for answered in images])


def label_studio_task(answered: Answered, kind: str, places: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One image's part of it.

    Args:
        answered: the image.
        kind: of its regions, ``rectangle`` or ``polygon``.
        places: where each object is, in percent of the image's sides, as Label Studio's regions have it.

    """
    result = [
        {
            "id": f"{kind}-{number}",
            "type": f"{kind}labels",
            "from_name": "label",
            "to_name": "image",
            "original_width": answered.width,
            "original_height": answered.height,
            "image_rotation": 0,
            "value": {**place, f"{kind}labels": [answered.class_name(label)]},
            "score": short(score),
        }
        for number, (place, (_, score, label)) in enumerate(
            zip(places, _instances(answered), strict=True), start=1
        )
    ]
    mean = sum(score for _, score, _ in _instances(answered)) / max(1, len(result))
    prediction = {"model_version": MODEL_VERSION, "score": short(mean), "result": result}
    return {"data": {"image": answered.file_name}, "predictions": [prediction]}


def _percents(answered: Answered) -> Iterable[dict[str, float]]:
    for (left, top, right, bottom), _, _ in _instances(answered):
        yield {
            "x": short(100 * left / answered.width),
            "y": short(100 * top / answered.height),
            "width": short(100 * (right - left) / answered.width),
            "height": short(100 * (bottom - top) / answered.height),
            "rotation": 0,
        }


def cvat(images: Sequence[Answered]) -> str:
    """Annotations for CVAT, as its XML 1.1 for images has them; they are to be uploaded to a task."""
    return cvat_xml(images, lambda answered: [cvat_box(corners) for corners, _, _ in _instances(answered)])


def cvat_xml(
    images: Sequence[Answered], shapes: Callable[[Answered], Iterable[tuple[str, Mapping[str, str]]]]
) -> str:
    """The same, of the shapes of each image's objects: the element's name, and where it lies."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")  # CVAT can do without it, Datumaro cannot
    names = dict.fromkeys(name for answered in images for name in answered.classes)
    for answered in images:
        size = {"width": str(answered.width), "height": str(answered.height)}
        attributes = {"id": str(answered.number - 1), "name": answered.file_name} | size
        image = SubElement(root, "image", attributes)
        for (tag, place), (_, _, label) in zip(shapes(answered), _instances(answered), strict=True):
            name = answered.class_name(label)
            names[name] = None
            kind = {"label": name, "source": "auto", "occluded": "0", "z_order": "0"}
            SubElement(image, tag, kind | dict(place))
    labels = SubElement(task, "labels")
    for name in names:
        SubElement(SubElement(labels, "label"), "name").text = name
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def cvat_box(corners: Iterable[float]) -> tuple[str, dict[str, str]]:
    """A shape for :func:`cvat_xml`."""
    sides = zip(("xtl", "ytl", "xbr", "ybr"), (f"{value:.2f}" for value in corners), strict=True)
    return "box", dict(sides)


def _instances(answered: Answered) -> Instances:
    """Box, score and label of each object."""
    instances: Instances = answered.prediction.detections
    return instances


def compact(content: Any) -> str:
    """JSON without blanks."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def short(value: float) -> float:
    """Without the digits that a float32 does not have: nine are enough to read the same float32 back."""
    return float(f"{value:.9g}")


FORMS: Mapping[str, AnswerForm] = {
    "azure": AnswerForm("application/json", azure),
    "coco": AnswerForm("application/json", coco_results),
    "yolo": AnswerForm("text/plain", yolo_text, one_image=True),
    "geojson": AnswerForm("application/geo+json", geojson),
    "manifest": AnswerForm("application/jsonlines", manifest_lines),
    "label-studio": AnswerForm("application/json", label_studio),
    "cvat": AnswerForm("application/xml", cvat),
}
"""By name."""
