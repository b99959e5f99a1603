"""The forms of an endpoint's answer about objects, beside the built-in algorithm's two. Without torch.

This is the one place where pre-labels are rendered: what a model says, for tools in which people label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from tilewise.tasks.detection.answers import answer_detection

if TYPE_CHECKING:
    from tilewise.inference.detections import Prediction

MODEL_VERSION = "tilewise"


@dataclass(frozen=True)
class Answered:
    """One image of a request, and what the model says of it.

    Attributes:
        prediction: boxes in pixels of the upright image, best score first.
        classes: names by label.
        name: of the image, for the forms that have one.
        number: of the image in its request, from 1.

    """

    prediction: Prediction
    classes: tuple[str, ...] = ()
    name: str = ""
    number: int = 1

    @property
    def width(self) -> int:
        """Pixels of the upright image."""
        return self.prediction.width

    @property
    def height(self) -> int:
        """Pixels of the upright image."""
        return self.prediction.height

    @property
    def instances(self) -> Iterable[tuple[Sequence[float], float, int]]:
        """Box, score and label of each object."""
        return self.prediction.detections

    def class_name(self, label: int) -> str:
        """The label's name; the number where there is none."""
        return self.classes[label] if label < len(self.classes) else str(label)

    @property
    def file_name(self) -> str:
        """The image's name, or one from its number."""
        return self.name or f"image-{self.number}"


Render = Callable[[Sequence[Answered]], str]
"""A whole answer about all images of a request, as text."""


def choose(
    prediction: Prediction, *, threshold: float, labels: Container[int] | None, most: int | None
) -> Prediction:
    """A prediction with some of its objects.

    Args:
        prediction: of an image.
        threshold: the lowest score.
        labels: the classes; None for all.
        most: how many at most, the best ones.

    """
    chosen = [
        index
        for index, (_, score, label) in enumerate(prediction.detections)
        if score >= threshold and (labels is None or label in labels)
    ][:most]
    if len(chosen) == len(prediction.detections):
        return prediction
    indexes = np.array(chosen, dtype=np.int64)
    return replace(prediction, detections=prediction.detections.select(indexes))


def azure(images: Sequence[Answered]) -> str:
    """As an endpoint of Azure AutoML for images: an entry an image, corners as fractions, classes by name."""
    return _compact([_azure(answered) for answered in images])


def _azure(answered: Answered) -> dict[str, Any]:
    width, height = answered.width, answered.height
    boxes = []
    for (left, top, right, bottom), score, label in answered.instances:
        corners = (left / width, top / height, right / width, bottom / height)
        box = dict(zip(("topX", "topY", "bottomX", "bottomY"), map(_short, corners), strict=True))
        boxes.append({"box": box, "label": answered.class_name(label), "score": _short(score)})
    return {"boxes": boxes}


def coco_results(images: Sequence[Answered]) -> str:
    """COCO's results: ``pycocotools`` loads them with ``loadRes``.

    Categories count from 1, as ``tilewise convert`` writes them. An image's id is the number that it is named
    by, such as ``000000397133.jpg``, else its place in the request, from 1.
    """
    return _compact([result for answered in images for result in _coco_results(answered)])


def _coco_results(answered: Answered) -> Iterable[dict[str, Any]]:
    stem = PurePosixPath(answered.name).stem
    image = int(stem) if stem.isdecimal() and len(stem) <= 18 else answered.number
    for (left, top, right, bottom), score, label in answered.instances:
        yield {
            "image_id": image,
            "category_id": label + 1,
            "bbox": [_short(value) for value in (left, top, right - left, bottom - top)],
            "score": _short(score),
            "category_name": answered.class_name(label),
        }


def yolo_text(images: Sequence[Answered]) -> str:
    """YOLO's text of one image: class, centre and size as fractions, and the score, a line an object."""
    (answered,) = images
    lines = []
    for (left, top, right, bottom), score, label in answered.instances:
        centre = ((left + right) / 2 / answered.width, (top + bottom) / 2 / answered.height)
        size = ((right - left) / answered.width, (bottom - top) / answered.height)
        numbers = " ".join(f"{value:.9g}" for value in (*centre, *size, score))
        lines.append(f"{label} {numbers}\n")
    return "".join(lines)


def geojson(images: Sequence[Answered]) -> str:
    """A FeatureCollection (RFC 7946) whose coordinates are pixels, as QuPath reads it."""
    return _compact(
        {"type": "FeatureCollection", "features": [one for answered in images for one in _features(answered)]}
    )


def _features(answered: Answered) -> Iterable[dict[str, Any]]:
    for corners, score, label in answered.instances:
        left, top, right, bottom = map(_short, corners)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        name = answered.class_name(label)
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "image": answered.file_name,
                "class_id": label,
                "class": name,
                "score": _short(score),
                "objectType": "detection",
                "classification": {"name": name},
            },
        }


def manifest_lines(images: Sequence[Answered]) -> str:
    """Lines of an augmented manifest, as a Ground Truth job that labels boxes writes them.

    An image's name should be its ``s3://`` address. Boxes are whole pixels.
    """
    return "".join(json.dumps(_manifest_line(answered), ensure_ascii=False) + "\n" for answered in images)


def _manifest_line(answered: Answered) -> dict[str, Any]:
    label = answer_detection(answered.prediction, as_annotation=True)
    scores = [box.pop("score") for box in label["annotations"]]
    metadata = {
        "objects": [{"confidence": score} for score in scores],
        "class-map": {str(index): name for index, name in enumerate(answered.classes)},
        "type": "groundtruth/object-detection",
        "human-annotated": "no",
        "creation-date": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
        "job-name": "labeling-job/tilewise",
    }
    return {"source-ref": answered.file_name, "bounding-box": label, "bounding-box-metadata": metadata}


def label_studio(images: Sequence[Answered]) -> str:
    """Tasks with pre-annotations for Label Studio, with its template for boxes: percent of the image's sides.

    Specification: Label Studio's guide, "Import pre-annotated data". The project's labelling configuration
    has ``<RectangleLabels name="label" toName="image">``.
    """
    return _compact([_label_studio_task(answered) for answered in images])


def _label_studio_task(answered: Answered) -> dict[str, Any]:
    result = []
    for number, ((left, top, right, bottom), score, label) in enumerate(answered.instances, start=1):
        value = {
            "x": _short(100 * left / answered.width),
            "y": _short(100 * top / answered.height),
            "width": _short(100 * (right - left) / answered.width),
            "height": _short(100 * (bottom - top) / answered.height),
            "rotation": 0,
            "rectanglelabels": [answered.class_name(label)],
        }
        result.append(
            {
                "id": f"box-{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": answered.width,
                "original_height": answered.height,
                "image_rotation": 0,
                "value": value,
                "score": _short(score),
            }
        )
    scores = [score for _, score, _ in answered.instances]
    mean = sum(scores) / max(1, len(scores))
    prediction = {"model_version": MODEL_VERSION, "score": _short(mean), "result": result}
    return {"data": {"image": answered.file_name}, "predictions": [prediction]}


def cvat(images: Sequence[Answered]) -> str:
    """Annotations for CVAT, as its XML 1.1 for images has them; they are to be uploaded to a task."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    for answered in images:
        size = {"width": str(answered.width), "height": str(answered.height)}
        attributes = {"id": str(answered.number - 1), "name": answered.file_name} | size
        image = SubElement(root, "image", attributes)
        for corners, _, label in answered.instances:
            sides = zip(("xtl", "ytl", "xbr", "ybr"), (f"{value:.2f}" for value in corners), strict=True)
            kind = {"label": answered.class_name(label), "source": "auto", "occluded": "0", "z_order": "0"}
            SubElement(image, "box", kind | dict(sides))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _short(value: float) -> float:
    """Without the digits that a float32 does not have: nine are enough to read the same float32 back."""
    return float(f"{value:.9g}")


FORMS: Mapping[str, tuple[str, Render]] = {
    "azure": ("application/json", azure),
    "coco": ("application/json", coco_results),
    "yolo": ("text/plain", yolo_text),
    "geojson": ("application/geo+json", geojson),
    "manifest": ("application/jsonlines", manifest_lines),
    "label-studio": ("application/json", label_studio),
    "cvat": ("application/xml", cvat),
}
"""Media type and rendering of each form, by its name."""
