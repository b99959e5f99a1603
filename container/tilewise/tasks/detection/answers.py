from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewise.inference.detections import Prediction


def answer_detection(prediction: Prediction, as_annotation: bool) -> dict[str, Any]:  # noqa: FBT001  # an Answer
    """The objects in the forms of SageMaker's built-in Object Detection algorithm.

    Follows the developer guide's "Object Detection Request and Response Formats": rows of
    ``[class, score, xmin, ymin, xmax, ymax]``, all floats, corners as fractions of the upright image's own
    size, best score first; or as the annotations have them, its size and integer
    ``left, top, width, height``.
    """
    return _annotations(prediction) if as_annotation else _rows(prediction)


def _rows(prediction: Prediction) -> dict[str, Any]:
    width, height = prediction.width, prediction.height
    rows = []
    for (left, top, right, bottom), score, label in prediction.detections:
        corners = (left / width, top / height, right / width, bottom / height)
        rows.append([float(label), _short(score), *map(_short, corners)])
    return {"prediction": rows}


def _annotations(prediction: Prediction) -> dict[str, Any]:
    annotations = []
    for corners, score, label in prediction.detections:
        left, top, right, bottom = map(round, corners)
        annotations.append(
            {
                "class_id": label,
                "score": _short(score),
                "left": left,
                "top": top,
                "width": right - left,
                "height": bottom - top,
            }
        )
    size = {"width": prediction.width, "height": prediction.height, "depth": 3}
    return {"image_size": [size], "annotations": annotations}


def _short(value: float) -> float:
    """Without the digits that a float32 does not have: nine are enough to read the same float32 back."""
    return float(f"{value:.9g}")
