from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import CentreCrop


@dataclass(frozen=True)
class ClassifierSpec:
    """All that is needed to build a classifier again; ``model.json`` keeps it.

    Attributes:
        name: the hyperparameter ``model_name``.
        num_classes: how many scores it gives an image.
        scaling: the part in the middle of an image that it sees.
        training_crop: the side in pixels of what it learnt from.
        several: whether an image has any number of classes: their scores are then independent.
        class_weights: of each class in the loss; None for equal ones.
        tiling: the views of an image; scores of several are pooled.
        rendering: which bands of its images it sees, and over which range of values.

    """

    name: str
    num_classes: int
    scaling: CentreCrop
    training_crop: int
    several: bool = False
    class_weights: tuple[float, ...] | None = None
    tiling: Tiling = WHOLE_IMAGE
    rendering: Rendering = AS_STORED

    def limits(self) -> None:
        """None: it has no candidates of which some are kept."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        weights = content["class_weights"]
        return cls(
            **{
                **content,
                "scaling": CentreCrop(**content["scaling"]),
                "class_weights": None if weights is None else tuple(weights),
                "tiling": Tiling.from_json(content["tiling"]),
                "rendering": Rendering.from_json(content["rendering"]),
            }
        )
