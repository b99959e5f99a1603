"""What an endpoint answers about objects with masks. Without torch."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from tilewise.arrays import Array, Float64
from tilewise.masks import Masks, masks_in
from tilewise.rasters import joined, outline, runs_of, text_of
from tilewise.tasks.answers import Answered, AnswerForm
from tilewise.tasks.detection.answers import DetectionAnswers
from tilewise.tasks.detection.forms import (
    FORMS,
    azure_entry,
    coco_rows,
    compact,
    cvat_box,
    cvat_xml,
    features,
    json_line,
    label_metadata,
    label_studio_task,
    manifest_line,
    short,
)
from tilewise.tasks.segmentation.prediction import SegmentedPrediction, with_pictures

if TYPE_CHECKING:
    from PIL.Image import Image


def _masks(answered: Answered) -> Masks | None:
    return masks_in(answered.prediction.detections.fields)


def rings_of(answered: Answered) -> list[list[Float64]]:
    """Of each instance the rings along the edges of its mask's pixels, in pixels of the image.

    A place inside of two of them is outside. All rings of an instance together have at most as many points as
    the model says.
    """
    masks, prediction = _masks(answered), answered.prediction
    most = prediction.most_points if isinstance(prediction, SegmentedPrediction) else None
    if masks is None:
        return [[] for _ in range(len(prediction.detections))]
    found = []
    for index in range(len(masks)):
        grid, (left, top, _, _) = masks.grid(index)
        place = np.array([left, top])
        found.append([ring + place for ring in outline(grid, most)] if grid.any() else [])
    return found


def polygons_of(answered: Answered) -> list[list[list[float]]]:
    """The same as ``x1, y1, x2, y2, …``, fractions of the image's sides."""
    size = np.array([answered.width, answered.height])
    return [
        [[short(value) for value in (ring / size).reshape(-1).tolist()] for ring in rings]
        for rings in rings_of(answered)
    ]


def azure(images: Sequence[Answered]) -> str:
    """As an endpoint of Azure AutoML for images: boxes, and each one's polygon as fractions.

    Where the model exports masks as images, ``mask`` has the picture of what is inside the box, base64, and
    where it begins.
    """
    return compact([_azure(answered) for answered in images])


def _azure(answered: Answered) -> dict[str, Any]:
    entry = azure_entry(answered)
    for box, polygon in zip(entry["boxes"], polygons_of(answered), strict=True):
        box["polygon"] = polygon
    for box, picture in zip(entry["boxes"], _pictures(answered), strict=False):
        box["mask"] = picture
    return entry


def _pictures(answered: Answered) -> Iterator[dict[str, Any]]:
    masks, prediction = _masks(answered), answered.prediction
    if masks is None or not isinstance(prediction, SegmentedPrediction) or not prediction.export_as_image:
        return
    kind = prediction.image_type
    for index in range(len(masks)):
        grid, (left, top, _, _) = masks.grid(index)
        pixels = 255 * grid if grid.size else np.zeros((1, 1), np.uint8)
        _, encoded = cv2.imencode(f".{kind}", pixels)
        image = base64.b64encode(encoded.tobytes()).decode()
        yield {"image": image, "type": kind, "left": int(left), "top": int(top)}


def coco_results(images: Sequence[Answered]) -> str:
    """COCO's results with ``segmentation``: ``pycocotools`` loads them with ``loadRes``."""
    return compact(
        [
            row | ({"segmentation": mask} if mask else {})
            for answered in images
            for row, mask in zip(coco_rows(answered), _run_lengths(answered), strict=True)
        ]
    )


def _run_lengths(answered: Answered) -> list[dict[str, Any] | None]:
    """COCO's compressed run lengths as JSON has them."""
    masks = _masks(answered)
    if masks is None:
        return [None] * len(answered.prediction.detections)
    return [text_of(each) for each in masks.encoded(answered.width, answered.height)]


def _polygons(answered: Answered) -> Iterator[Array]:
    """One ring of each instance, in pixels of the image, for forms that have no more: (P, 2).

    The parts and holes of an object are joined by lines there and back; one without a mask has its box's.
    """
    for (box, _, _), rings in zip(answered.prediction.detections, rings_of(answered), strict=True):
        x0, y0, x1, y1 = box
        yield joined(rings) if rings else np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def yolo_text(images: Sequence[Answered]) -> str:
    """YOLO's text of one image: class, polygon as fractions, and the score, a line an object."""
    (answered,) = images
    size = np.array([answered.width, answered.height])
    lines = []
    for ring, (_, score, label) in zip(_polygons(answered), answered.prediction.detections, strict=True):
        numbers = " ".join(f"{value:.9g}" for value in (*(ring / size).reshape(-1).tolist(), score))
        lines.append(f"{label} {numbers}\n")
    return "".join(lines)


def manifest_lines(images: Sequence[Answered]) -> str:
    """A detector's lines of an augmented manifest, with a label attribute ``polygon`` beside the boxes.

    It has what ``crowd-polygon``, the element of a custom labelling task, writes: ``polygons`` is what its
    ``initial-value`` takes. They are in the order of the boxes.
    """
    return "".join(json_line(_manifest_line(answered)) for answered in images)


def _manifest_line(answered: Answered) -> dict[str, Any]:
    found = answered.prediction.detections
    polygons = [
        {
            "label": answered.class_name(label),
            "vertices": [{"x": short(x), "y": short(y)} for x, y in ring.tolist()],
        }
        for ring, (_, _, label) in zip(_polygons(answered), found, strict=True)
    ]
    size = {"height": answered.height, "width": answered.width}
    metadata = label_metadata(answered, [short(score) for _, score, _ in found], "groundtruth/custom")
    return {
        **manifest_line(answered),
        "polygon": {"inputImageProperties": size, "polygons": polygons},
        "polygon-metadata": metadata,
    }


def label_studio(images: Sequence[Answered]) -> str:
    """Tasks with pre-annotations for Label Studio, with its template for polygons.

    The project's labelling configuration has ``<PolygonLabels name="label" toName="image">``.
    """
    return compact([label_studio_task(answered, "polygon", _percents(answered)) for answered in images])


def _percents(answered: Answered) -> Iterator[dict[str, Any]]:
    size = np.array([answered.width, answered.height])
    for ring in _polygons(answered):
        points = [[short(value) for value in point] for point in (100 * ring / size).tolist()]
        yield {"points": points, "closed": True}


def cvat(images: Sequence[Answered]) -> str:
    """Annotations for CVAT, as its XML 1.1 for images has them, with each object's pixels as a ``mask``."""
    return cvat_xml(images, _cvat_masks)


def _cvat_masks(answered: Answered) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Of each object run lengths along the rows of the box around it; one without a mask is a box."""
    masks = _masks(answered)
    for index, (corners, _, _) in enumerate(answered.prediction.detections):
        grid, (left, top, _, _) = masks.grid(index) if masks else (np.zeros((0, 0), np.uint8), (0, 0, 0, 0))
        if not grid.any():
            yield cvat_box(corners)
            continue
        height, width = grid.shape
        place = {"left": left, "top": top, "width": width, "height": height}
        runs = ", ".join(map(str, runs_of(grid.T).tolist()))
        yield "mask", {"rle": runs, **{name: str(int(value)) for name, value in place.items()}}


def geojson(images: Sequence[Answered]) -> str:
    """A FeatureCollection (RFC 7946) whose coordinates are pixels, as QuPath reads it."""
    found = []
    for answered in images:
        for feature, rings in zip(features(answered), rings_of(answered), strict=True):
            if rings:
                feature["geometry"] = geometry_of(rings)
            found.append(feature)
    return compact({"type": "FeatureCollection", "features": found})


def geometry_of(rings: Sequence[Float64]) -> dict[str, Any]:
    """GeoJSON of the rings of a mask, largest first.

    A polygon with its holes, or several: a ring belongs to the smallest one before it that holds it.
    """
    outer: list[list[Any]] = []
    for ring in rings:  # largest first, and holes turn the other way
        closed = [*ring.tolist(), ring[0].tolist()]
        inside = [
            each
            for each in outer
            if _turns_right(ring) != _turns_right(np.array(each[0][:-1]))
            and cv2.pointPolygonTest(np.array(each[0], np.float32), ring[0].tolist(), measureDist=False) >= 0
        ]
        if inside:
            inside[-1].append(closed)
        else:
            outer.append([closed])
    if len(outer) == 1:
        return {"type": "Polygon", "coordinates": outer[0]}
    return {"type": "MultiPolygon", "coordinates": outer}


def _turns_right(ring: Float64) -> bool:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) > 0


class SegmentationAnswers(DetectionAnswers):
    """Of boxes and masks; the built-in algorithm's rows stay six numbers each."""

    forms: ClassVar[Mapping[str, AnswerForm]] = {
        **FORMS,
        "azure": replace(FORMS["azure"], render=azure, with_pictures=with_pictures),
        "coco": replace(FORMS["coco"], render=coco_results),
        "yolo": replace(FORMS["yolo"], render=yolo_text),
        "geojson": replace(FORMS["geojson"], render=geojson),
        "manifest": replace(FORMS["manifest"], render=manifest_lines),
        "label-studio": replace(FORMS["label-studio"], render=label_studio),
        "cvat": replace(FORMS["cvat"], render=cvat),
    }
    schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            **DetectionAnswers.schema["properties"],
            "polygons": {
                "type": "array",
                "description": "of each object its rings x1, y1, x2, y2, … as fractions; by even-odd they are"
                " its mask",
                "items": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}, "minItems": 6},
                },
            },
        },
    }

    def content(self, answered: Answered, *, as_annotation: bool) -> dict[str, Any]:
        """A detector's, with ``polygons`` beside the rows, or COCO's ``segmentation`` in the annotations."""
        content = super().content(answered, as_annotation=as_annotation)
        if as_annotation:
            for one, mask in zip(content["annotations"], _run_lengths(answered), strict=True):
                one["segmentation"] = mask
            return content
        return content | {"polygons": polygons_of(answered)}

    def draw(self, pixels: Array, answered: Answered) -> Image:
        """Masks and boxes, one colour a class, and a legend with counts."""
        # Imported here: few requests ask for it.
        from tilewise.evaluation.draw import draw_detections

        return draw_detections(pixels, answered.prediction.detections, answered.classes)
