"""What a model's folder says of it, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tilewise
from tilewise.inference.description import model_in
from tilewise.views.rendering import AS_STORED, Rendering

DEFAULT_THRESHOLD = 0.4
"""From this score on objects are drawn, where the model recommends nothing."""


@dataclass(frozen=True)
class ModelCard:
    """A model in short, for ``GET /``, ``/version``, ``/metrics`` and the page.

    Attributes:
        network: its name, such as ``yolox_tiny``.
        classes: names by label.
        tiling: which views of an image it sees.
        threshold: the score from which its objects are worth showing.
        trained_with: the version of Tilewise.
        rendering: what of an image it sees.

    """

    network: str = ""
    classes: tuple[str, ...] = ()
    tiling: dict[str, Any] = field(default_factory=dict)
    threshold: float = DEFAULT_THRESHOLD
    trained_with: str = ""
    rendering: Rendering = AS_STORED

    @staticmethod
    def read(folder: Path) -> ModelCard:
        """The card of the model in a folder; an empty one where there is none, which others tell of."""
        try:
            content = json.loads((model_in(folder) / "model.json").read_text(encoding="utf-8"))
            spec = content.get("detector") or content.get("model") or {}
            threshold = content.get("recommended_threshold")
            return ModelCard(
                network=str(spec.get("name", "")),
                classes=tuple(map(str, content.get("classes", ()))),
                tiling=spec.get("tiling", {}),
                threshold=float(threshold) if threshold is not None else DEFAULT_THRESHOLD,
                trained_with=str(content.get("versions", {}).get("tilewise", "")),
                rendering=Rendering.from_json(spec.get("rendering") or {}),
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return ModelCard()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "network": self.network,
            "classes": list(self.classes),
            "tiling": self.tiling,
            "recommended_threshold": self.threshold,
            "trained_with": self.trained_with,
        }


def version() -> dict[str, str]:
    """What ``GET /version`` says."""
    return {"name": "tilewise", "version": tilewise.__version__}
