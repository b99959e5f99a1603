"""Scores as a validation has shown what they mean, applied without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tilewise.arrays import Float32, Floats


@dataclass(frozen=True)
class ScoreCalibration:
    """Turns a score into the probability that a detection with it is right, at IoU 0.5.

    The logit is divided by a temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks") and
    shifted (Platt 1999), the same for all classes: the order of an image's detections stays what it was.

    Attributes:
        temperature: above 1 where the model is surer than it is right.
        bias: added then; below 0 where it finds more than there is.

    """

    temperature: float
    bias: float

    def __call__(self, scores_N: Floats) -> Float32:
        """The probabilities of scores in 0..1."""
        calibrated: Float32 = (1 / (1 + np.exp(-logits(scores_N) / self.temperature - self.bias))).astype(
            np.float32
        )
        return calibrated

    def to_json(self) -> dict[str, float]:
        """As plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ScoreCalibration:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, KeyError, TypeError: it is none.

        """
        calibration = ScoreCalibration(float(content["temperature"]), float(content["bias"]))
        if not (0 < calibration.temperature < np.inf and np.isfinite(calibration.bias)):
            raise ValueError("a temperature is above 0")
        return calibration


def logits(scores_N: Floats) -> Floats:
    """Of scores in 0..1, whose ends stay finite."""
    inside = np.clip(np.asarray(scores_N, np.float64), 1e-7, 1 - 1e-7)
    return np.log(inside / (1 - inside))
