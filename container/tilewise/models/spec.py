from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from tilewise.errors import UserError
from tilewise.suppression import Limits
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import Scaling

IMAGE_TYPES = ("jpg", "png", "bmp")
"""In which masks can be shown."""


class ModelSpec(Protocol):
    """All that is needed to build a model again, whatever its task; ``model.json`` keeps it.

    The names and the values of its dataclass are the task's own; these four are asked for everywhere.
    """

    @property
    def name(self) -> str:
        """The hyperparameter ``model_name``."""

    @property
    def scaling(self) -> Scaling:
        """How views are scaled for it."""

    @property
    def tiling(self) -> Tiling:
        """The views of an image that it looks at, and how what it says of them becomes one answer."""

    @property
    def rendering(self) -> Rendering:
        """Which bands of its images it sees, and over which range of values."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; the task's ``spec_from_json`` is the inverse."""


@dataclass(frozen=True)
class DetectorSpec:
    """All that is needed to build a detector again; ``model.json`` keeps it.

    Attributes:
        name: the hyperparameter ``model_name``.
        num_classes: object classes, background not counted.
        scaling: how views are scaled for it.
        anchor_sizes: √area of the anchors of each feature map, smallest first: pixels of the view, for SSD as
            a fraction of its side; None for the published ones.
        score_threshold: detections below it are not returned.
        nms_iou_threshold: of two overlapping detections of a class the lower is dropped above this IoU.
        detections_per_view: how many detections of a view are kept at most.
        detections_per_image: how many of an image are, when those of its views are merged; None for all.
        tiling: the views of an image that it looks at, and how what it finds there is merged.
        stride_4_level: whether a one-stage model with a feature pyramid has a map at stride 4.
        rendering: which bands of its images it sees, and over which range of values.
        object_size: the mean √area of the objects that it was fitted to, in pixels of a view; None if
            unknown.

    """

    name: str
    num_classes: int
    scaling: Scaling
    anchor_sizes: tuple[float, ...] | None
    score_threshold: float
    nms_iou_threshold: float
    detections_per_view: int
    tiling: Tiling = WHOLE_IMAGE
    stride_4_level: bool = False
    detections_per_image: int | None = None
    rendering: Rendering = AS_STORED
    object_size: float | None = None

    def limits(self, candidates: int = 0) -> Limits:
        """What is kept of a view's candidates, of which there are to be so many."""
        return Limits(self.score_threshold, self.nms_iou_threshold, candidates, self.detections_per_view)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        sizes, tiling = content["anchor_sizes"], content.get("tiling")
        rendering = content.get("rendering")
        return cls(
            **{
                **content,
                "scaling": Scaling(**content["scaling"]),
                "anchor_sizes": None if sizes is None else tuple(sizes),
                "tiling": Tiling.from_json(tiling) if tiling else WHOLE_IMAGE,
                "rendering": Rendering.from_json(rendering) if rendering else AS_STORED,
            }
        )


@dataclass(frozen=True)
class SegmenterSpec(DetectorSpec):
    """The same of a detector that gives each instance its mask, and how its answers show them.

    Attributes:
        mask_pixel_score_threshold: a pixel is an object's where the detector is surer of it than this.
        max_number_of_polygon_points: the most points of an instance's outline in an answer.
        export_as_image: whether answers hold masks as pictures.
        image_type: of these.

    """

    mask_pixel_score_threshold: float = 0.5
    max_number_of_polygon_points: int = 100
    export_as_image: bool = False
    image_type: str = "jpg"

    def __post_init__(self) -> None:
        """Refuse what the hyperparameters of the same names refuse: ``model.json`` can be edited.

        Raises:
            UserError: one of them cannot be.

        """
        object.__setattr__(self, "image_type", str(self.image_type).lower())
        threshold, points = self.mask_pixel_score_threshold, self.max_number_of_polygon_points
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        for name, right, must_be in (
            ("mask_pixel_score_threshold", is_number and 0 <= threshold <= 1, "a number from 0 to 1"),
            ("max_number_of_polygon_points", type(points) is int and points >= 3, "a whole number from 3 on"),
            ("export_as_image", isinstance(self.export_as_image, bool), "true or false"),
            ("image_type", self.image_type in IMAGE_TYPES, f"one of {', '.join(IMAGE_TYPES)}"),
        ):
            if not right:
                raise UserError(f"model.json: {name} is {getattr(self, name)!r}, and must be {must_be}")
