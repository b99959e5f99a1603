from __future__ import annotations

from dataclasses import dataclass

from tilewise.tiling.plan import plan_views
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import Scaling, View


@dataclass(frozen=True)
class ViewPlan:
    """Which views of an image a model looks at, and how finely the image must be decoded for them.

    Attributes:
        scaling: how views are scaled.
        tiling: which views there are, and how what they show is merged.
        rendering: which of an image's bands are seen, and over which range of values.

    """

    scaling: Scaling
    tiling: Tiling = WHOLE_IMAGE
    rendering: Rendering = AS_STORED

    def views(self, width: int, height: int) -> list[View]:
        """The views of an image of so many pixels."""
        return plan_views(self.tiling, width, height, scaling=self.scaling)

    def reduction(self, width: int, height: int) -> int:
        """1, 2, 4 or 8: by so much the image may be reduced while it is decoded."""
        return min(view.reduction for view in self.views(width, height))
