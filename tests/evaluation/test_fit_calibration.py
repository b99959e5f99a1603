from __future__ import annotations

import numpy as np
import pytest
from tilewise.evaluation.fit_calibration import calibration_error, fit_calibration
from tilewise.inference.score_calibration import ScoreCalibration, logits


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (2.0, -1.0), (0.5, 1.0)])
def test_fit__finds_what_made_the_hits(temperature: float, bias: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(40_000)
    chances = ScoreCalibration(temperature, bias)(scores)
    hits = rng.random(len(scores)) < chances
    fitted = fit_calibration(scores, hits)
    assert fitted is not None
    assert (fitted.temperature, fitted.bias) == pytest.approx((temperature, bias), rel=0.05, abs=0.05)
    assert calibration_error(fitted(scores).astype(np.float64), hits) < 0.01
    for threshold in (0.5, 0.8):
        passed = fitted(scores) >= threshold
        assert hits[passed].mean() > threshold
        near = abs(fitted(scores) - threshold) < 0.05
        assert hits[near].mean() == pytest.approx(threshold, abs=0.05)


def test_fit__is_the_most_likely_one() -> None:
    """Its gradient is zero: what the chances sum up to, plain and by logit, is what there was."""
    rng = np.random.default_rng(1)
    scores = rng.beta(0.5, 2, 3000)
    hits = rng.random(3000) < scores**2
    fitted = fit_calibration(scores, hits)
    assert fitted is not None
    targets = np.where(hits, (hits.sum() + 1) / (hits.sum() + 2), 1 / ((~hits).sum() + 2))
    rest = fitted(scores) - targets
    assert abs(rest.sum()) < 0.1
    assert abs((rest * logits(scores)).sum()) < 0.5


def test_fit__needs_hits_and_others_and_their_order() -> None:
    scores = np.linspace(0, 1, 100)
    assert fit_calibration(scores, scores > 0.85) is None, "15 hits"
    assert fit_calibration(scores, scores > 0.15) is None, "16 others"
    assert fit_calibration(scores, scores < 0.5) is None, "the surer, the wronger"
    assert fit_calibration(np.zeros(0), np.zeros(0, np.bool_)) is None
    separable = fit_calibration(scores, scores > 0.5)
    assert separable is not None and separable(np.array([0.3, 0.7])) == pytest.approx([0, 1], abs=0.1)


def test_calibration__keeps_the_order_and_the_ends() -> None:
    calibrated = ScoreCalibration(1.7, -0.4)(np.array([0.0, 0.1, 0.5, 1.0], np.float32))
    assert calibrated.dtype == np.float32
    assert (np.diff(calibrated) > 0).all()
    assert calibrated[0] >= 0 and calibrated[-1] <= 1
    assert calibrated[2] == pytest.approx(1 / (1 + np.exp(0.4)))


@pytest.mark.parametrize("content", [{"temperature": 0, "bias": 0}, {"temperature": "x", "bias": 0}, {}])
def test_calibration__from_json_refuses(content: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        ScoreCalibration.from_json(content)
    assert ScoreCalibration.from_json(ScoreCalibration(2, 1).to_json()) == ScoreCalibration(2, 1)


def test_calibration_error__by_hand() -> None:
    chances, hits = np.array([0.95, 0.95, 0.15, 1.0]), np.array([True, False, False, True])
    # of three between 0.9 and 1 two are right, where 2.9 were to be; of one at 0.15 none
    assert calibration_error(chances, hits) == pytest.approx((0.9 + 0.15) / 4)
