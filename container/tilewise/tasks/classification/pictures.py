from __future__ import annotations

import numpy as np

from tilewise.arrays import Array
from tilewise.data.decoding.decode import DecodeError, decode_reduced
from tilewise.data.records import Record
from tilewise.evaluation.beside_truth import MAX_PIXELS
from tilewise.views.rendering import Rendering
from tilewise.views.view import View


def small_picture(record: Record, side: int, rendering: Rendering) -> Array | None:
    """An image, (3, h, w) uint8, reduced to so many pixels of its longer side.

    None where it has more than :data:`MAX_PIXELS`, whose decoding would hold the job up, or cannot be had
    again: it came through a pipe, or is damaged, which is told where it is validated.
    """
    if record.width * record.height > MAX_PIXELS or not record.path.is_file():
        return None
    scale = min(1.0, side / max(record.width, record.height))
    size = max(1, round(scale * record.width)), max(1, round(scale * record.height))
    view = View((0, 0, record.width, record.height), size)
    try:
        image = decode_reduced(record.source, lambda *_: view.reduction, rendering=rendering)
        return np.ascontiguousarray(np.moveaxis(image.show(view), 2, 0))
    except (DecodeError, OSError):
        return None
