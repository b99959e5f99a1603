from __future__ import annotations

from tilewise.arrays import Floats
from tilewise.models.anchors import fit_anchor_sizes
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of, load
from tilewise.views.view import Scaling


def build_detector(spec: DetectorSpec) -> Detector:
    """The detector that ``spec`` describes, freshly initialised, on the CPU, in training mode."""
    detector: Detector = load(family_of(spec.name).builder)(spec)
    return detector


def published_anchor_sizes(
    name: str, scaling: Scaling, *, stride_4_level: bool = False
) -> tuple[float, ...] | None:
    """√area of a model's anchors as published, one a feature map; None where it has no anchors to fit.

    They are pixels of the view, or for square views fractions of the side.
    """
    anchors = family_of(name).anchors
    return load(anchors)(name, scaling, stride_4_level=stride_4_level) if anchors else None


def anchor_sizes_for(
    name: str, scaling: Scaling, object_sizes: Floats, *, stride_4_level: bool = False
) -> tuple[float, ...] | None:
    """Anchor sizes fitted to the data, or None where the published ones will do.

    Args:
        name: the model's name.
        scaling: how its views are scaled.
        object_sizes: (N,) √area of the objects in pixels of the view.
        stride_4_level: whether the model has a feature map at stride 4.

    """
    published = published_anchor_sizes(name, scaling, stride_4_level=stride_4_level)
    if published is None:
        return None
    if scaling.square is not None:
        side = scaling.square
        return fit_anchor_sizes(published, object_sizes / side, smallest=4 / side)
    return fit_anchor_sizes(published, object_sizes)
