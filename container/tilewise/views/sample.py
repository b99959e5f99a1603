from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from tilewise.arrays import Array
from tilewise.boxes import object_size
from tilewise.fields import Rows
from tilewise.targets import Targets
from tilewise.views.view import ANY_SIZE, View

MIN_VISIBILITY = 0.4
"""A box of which the view shows a smaller share of its area is ignored, unless the job says otherwise."""


@dataclass(frozen=True)
class Sample:
    """A view's pixels, and its targets in the view's own frame.

    Attributes:
        pixels: (3, h, w) uint8.
        targets: tensors; boxes lie inside the view.

    """

    pixels: Tensor
    targets: Targets[Tensor]


IMAGE_SIZE = "image_size"
"""The field of targets that has each object's √area in pixels of the upright image, whatever a view shows."""


def with_image_sizes(targets: Targets[Array]) -> Targets[Array]:
    """An image's targets with the sizes that its objects have there, which views do not tell."""
    fields = {**targets.fields, IMAGE_SIZE: Rows(object_size(targets.boxes))}
    return Targets(targets.boxes, targets.labels, targets.ignored, fields)


def make_sample(
    image: Tensor,
    targets: Targets[Array],
    view: View,
    *,
    min_visibility: float = MIN_VISIBILITY,
    factor: int = 1,
) -> Sample:
    """Look at an image and its ground truth through a view.

    A box is kept when it is an object of the view, by the rule of
    :func:`tilewise.views.view.objects_shown`; else ignored, neither an object nor background. It is dropped
    when none of it is in the view, or when less than a pixel of the view is left of a side.

    Args:
        image: (3, H, W) uint8.
        targets: in pixels of the image.
        view: the window and the size to scale it to.
        min_visibility: share of a box's area.
        factor: by how much the image has been reduced; see :meth:`View.pixels_from_image`.

    """
    if view.object_sizes != ANY_SIZE:
        targets = replace(targets, ignored=targets.ignored | ~view.answers_for(targets.boxes))
    seen = targets.crop(view.window, view.size, min_visibility)
    return Sample(view.pixels_from_image(image, factor), seen.to("cpu"))
