"""What scores mean, fitted to the detections of a validation."""

from __future__ import annotations

import numpy as np

from tilewise.arrays import Bool, Float64
from tilewise.inference.score_calibration import ScoreCalibration, logits

LEAST = 20
"""So many hits and so many others there must be."""
_STEPS = 100


def fit_calibration(scores_N: Float64, hits_N: Bool) -> ScoreCalibration | None:
    """The temperature and bias of the least negative log-likelihood, by Newton's method.

    As Platt (1999) does against overconfidence, hits count as nearly 1 and others as nearly 0.

    Args:
        scores_N: of detections, in 0..1.
        hits_N: which of them are right.

    Returns:
        None where there are too few of a kind, or a higher score does not mean more hits.

    """
    hits, others = int(hits_N.sum()), int((~hits_N).sum())
    if min(hits, others) < LEAST:
        return None
    design = np.stack([logits(scores_N), np.ones(len(scores_N))], axis=1)
    targets = np.where(hits_N, (hits + 1) / (hits + 2), 1 / (others + 2))
    weights = np.array([1.0, 0.0])
    loss = _loss(design @ weights, targets)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (chances - targets)
        curvature = (design * (chances * (1 - chances))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (shorter := _loss(design @ (weights - step), targets)) > loss and np.abs(step).max() > 1e-9:
            step /= 2
        weights, loss = weights - step, min(loss, shorter)
        if np.abs(step).max() < 1e-9:
            break
    slope, bias = weights.tolist()
    return ScoreCalibration(1 / slope, bias) if slope > 0 else None


def calibration_error(chances_N: Float64, hits_N: Bool, bins: int = 10) -> float:
    """The expected calibration error (Naeini et al. 2015): how far chances lie from the shares of hits."""
    which = np.minimum((chances_N * bins).astype(np.int64), bins - 1)
    sums = np.bincount(which, chances_N - hits_N, bins)
    return float(np.abs(sums).sum() / max(1, len(chances_N)))


def _loss(logits_N: Float64, targets_N: Float64) -> float:
    return float((np.logaddexp(0, logits_N) - targets_N * logits_N).sum())
