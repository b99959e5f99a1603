"""What a model's folder says of it, read without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewise.errors import UserError
from tilewise.inference.description import model_in
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.registry import DEFAULT_TASK

DEFAULT_THRESHOLD = 0.4
"""From this score on what the model says is shown, where the model recommends nothing."""


@dataclass(frozen=True)
class ModelCard:
    """A model in short, for ``GET /``, ``/version``, ``/metrics`` and the page.

    Attributes:
        network: its name, such as ``yolox_tiny``.
        task: what it was trained for.
        classes: names by label.
        tiling: which views of an image it sees.
        threshold: the score from which on what it says is worth showing; None where it recommends nothing.
        thresholds: the same for each class for which it recommends one, by name.
        calibration: what the scores mean; None where no validation has shown it.
        trained_with: the version of Tilewise.

    """

    network: str = ""
    task: str = DEFAULT_TASK
    classes: tuple[str, ...] = ()
    tiling: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    calibration: ScoreCalibration | None = None
    trained_with: str = ""

    @staticmethod
    def read(folder: Path) -> ModelCard:
        """The card of the model in a folder; an empty one where there is none, which others tell of."""
        try:
            return ModelCard.require(folder)
        except UserError:
            return ModelCard()

    @staticmethod
    def require(folder: Path) -> ModelCard:
        """The card of the model in a folder, of which all else is known to be readable.

        Raises:
            UserError: it cannot be read.

        """
        try:
            folder = model_in(folder)
            content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            if "classifier" in content:  # the answers have its classes
                classifier = ModelCard.read(folder / str(content["classifier"]["model"]))
                content["classes"] = classifier.classes
                for name in ("score_calibration", "recommended_threshold", "recommended_thresholds"):
                    content.pop(name, None)  # of the detector's scores: the answers' are both models'
            spec = content.get("detector") or content.get("model") or {}
            threshold = content.get("recommended_threshold")
            calibration = content.get("score_calibration")
            by_class = content.get("recommended_thresholds") or {}
            return ModelCard(
                network=str(spec.get("name", "")),
                task=str(content.get("task", DEFAULT_TASK)),
                classes=tuple(map(str, content.get("classes", ()))),
                tiling=spec.get("tiling", {}),
                threshold=None if threshold is None else float(threshold),
                thresholds={str(name): float(each) for name, each in by_class.items()},
                calibration=None if calibration is None else ScoreCalibration.from_json(calibration),
                trained_with=str(content.get("versions", {}).get("tilewise", "")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"the model in {folder} is damaged: its recommended_threshold, recommended_thresholds, "
                f"score_calibration or versions cannot be read: {type(error).__name__}: {error}"
            ) from None

    def recommended(self, classes: Sequence[str]) -> list[float]:
        """For each class, the score from which on what the model says of it is worth showing."""
        total = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        return [self.thresholds.get(name, total) for name in classes]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "network": self.network,
            "task": self.task,
            "classes": list(self.classes),
            "tiling": self.tiling,
            "recommended_threshold": self.threshold,
            "recommended_thresholds": self.thresholds,
            "score_calibration": None if self.calibration is None else self.calibration.to_json(),
            "trained_with": self.trained_with,
        }
