from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tilewise.models.anchors import fit_anchor_sizes
from tilewise.models.detector import Detector
from tilewise.models.faster_rcnn import PUBLISHED_SIZES, build_faster_rcnn
from tilewise.models.one_stage import RETINANET_SIZES, build_fcos, build_retinanet
from tilewise.models.spec import DetectorSpec
from tilewise.models.ssd import VGG_SMALLEST_VIEWS, build_ssd, published_scales
from tilewise.views.view import Scaling

_BUILDERS: dict[str, Callable[[DetectorSpec], Detector]] = {
    "ssd": build_ssd,
    "ssdlite": build_ssd,
    "fasterrcnn": build_faster_rcnn,
    "retinanet": build_retinanet,
    "fcos": build_fcos,
}


def build_detector(spec: DetectorSpec) -> Detector:
    """The detector that ``spec`` describes, freshly initialised, on the CPU, in training mode."""
    return _BUILDERS[_family(spec.name)](spec)


def anchor_sizes_for(
    name: str, scaling: Scaling, object_sizes: npt.NDArray[np.floating]
) -> tuple[float, ...] | None:
    """Anchor sizes fitted to the data, or None where the published ones will do.

    Args:
        name: the model's name.
        scaling: how its views are scaled.
        object_sizes: (N,) √area of the objects in pixels of the view.

    """
    family = _family(name)
    if family == "fcos":
        return None
    if scaling.square is not None:
        side = scaling.square
        return fit_anchor_sizes(published_scales(name, side), object_sizes / side, smallest=4 / side)
    return fit_anchor_sizes(RETINANET_SIZES if family == "retinanet" else PUBLISHED_SIZES, object_sizes)


def resolved_size(name: str) -> float:
    """From how many pixels of a view (√area) on a detector resolves an object well.

    COCO calls objects below 32 px small, and detectors with a finest feature map of stride 8 lose most of
    them; Faster R-CNN's pyramid begins at stride 4.
    """
    return 24.0 if _family(name) == "fasterrcnn" and "resnet" in name else 32.0


def smallest_view(name: str, scaling: Scaling) -> int:
    """The shortest side in pixels of the views that a detector can take beside those of its nominal size."""
    if name == "ssd_vgg16" and scaling.square is not None:
        return VGG_SMALLEST_VIEWS[512 if scaling.square >= 512 else 300]
    return 32


def _family(name: str) -> str:
    return name.split("_")[0]
