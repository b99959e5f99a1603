from __future__ import annotations

from collections.abc import Callable

from tilewise.arrays import Floats
from tilewise.models.anchors import fit_anchor_sizes
from tilewise.models.detector import Detector
from tilewise.models.faster_rcnn import PUBLISHED_SIZES, build_faster_rcnn
from tilewise.models.gfl import build_gfl
from tilewise.models.one_stage import build_fcos, build_retinanet, retinanet_sizes
from tilewise.models.spec import DetectorSpec
from tilewise.models.ssd import SMALLEST_VIEWS, build_ssd, published_scales
from tilewise.models.yolox import build_yolox
from tilewise.views.view import Scaling

_BUILDERS: dict[str, Callable[[DetectorSpec], Detector]] = {
    "ssd": build_ssd,
    "ssdlite": build_ssd,
    "fasterrcnn": build_faster_rcnn,
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "yolox": build_yolox,
    "gfl": build_gfl,
}

WITHOUT_ANCHORS = ("fcos", "yolox", "gfl")
"""They have points, with nothing to fit to the data: GFL's anchors only say which points are positive."""


def build_detector(spec: DetectorSpec) -> Detector:
    """The detector that ``spec`` describes, freshly initialised, on the CPU, in training mode."""
    return _BUILDERS[_family(spec.name)](spec)


def anchor_sizes_for(
    name: str, scaling: Scaling, object_sizes: Floats, stride_4_level: bool = False
) -> tuple[float, ...] | None:
    """Anchor sizes fitted to the data, or None where the published ones will do.

    Args:
        name: the model's name.
        scaling: how its views are scaled.
        object_sizes: (N,) √area of the objects in pixels of the view.
        stride_4_level: whether the model has a feature map at stride 4.

    """
    family = _family(name)
    if family in WITHOUT_ANCHORS:
        return None
    if scaling.square is not None:
        side = scaling.square
        return fit_anchor_sizes(published_scales(name, side), object_sizes / side, smallest=4 / side)
    published = retinanet_sizes(stride_4_level) if family == "retinanet" else PUBLISHED_SIZES
    return fit_anchor_sizes(published, object_sizes)


def resolved_size(name: str, stride_4_level: bool = False) -> float:
    """From how many pixels of a view (√area) on a detector resolves an object well.

    COCO calls objects below 32 px small, and detectors with a finest feature map of stride 8 lose most of
    them; Faster R-CNN's pyramid begins at stride 4, and others' may.
    """
    return 24.0 if stride_4_level or (_family(name) == "fasterrcnn" and "resnet" in name) else 32.0


def smallest_view(name: str, scaling: Scaling) -> int:
    """The shortest side in pixels of the views that a detector can take beside those of its nominal size."""
    return SMALLEST_VIEWS.get((name, (scaling.square or 0) >= 512), 32)


def _family(name: str) -> str:
    return name.split("_")[0]
