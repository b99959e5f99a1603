"""The forms of SageMaker's built-in Object Detection algorithm, as JSON types.

They follow the developer guide's "Object Detection Request and Response Formats".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewise.inference.detections import Prediction


def as_rows(prediction: Prediction) -> dict[str, Any]:
    """Rows of ``[class, score, xmin, ymin, xmax, ymax]``, best score first.

    All are floats, and corners are fractions of the upright image's own size.
    """
    width, height = prediction.width, prediction.height
    found = []
    for (left, top, right, bottom), score, label in prediction.detections:
        corners = (left / width, top / height, right / width, bottom / height)
        found.append([float(label), _short(score), *map(_short, corners)])
    return {"prediction": found}


def as_annotations(prediction: Prediction) -> dict[str, Any]:
    """As training annotations: the image's size, and integer ``left, top, width, height``."""
    found = []
    for corners, score, label in prediction.detections:
        left, top, right, bottom = map(round, corners)
        found.append(
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
    return {"image_size": [size], "annotations": found}


def _short(value: float) -> float:
    """Without the digits that a float32 does not have: nine are enough to read the same float32 back."""
    return float(f"{value:.9g}")
