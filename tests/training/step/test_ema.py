from __future__ import annotations

import pytest
import torch
from tilewise.models.detector import Detector
from tilewise.training.step.ema import EVERY, ModelEMA
from torch import nn


def make_detector() -> Detector:
    torch.manual_seed(0)
    return Detector(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), *3 * [nn.Identity()])


def test_average__forgets_its_beginning_and_takes_buffers_along() -> None:
    detector = make_detector()
    average = ModelEMA(detector, 0.9998)
    first = detector.network[0].weight.detach().clone()  # type: ignore[index]
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(1)
    norm = detector.network[1]  # type: ignore[index]
    norm.running_mean.fill_(3.0)
    norm.num_batches_tracked.fill_(7)
    average.update()
    kept = 1 / 21
    torch.testing.assert_close(average.model.network[0].weight, first + (1 - kept))  # type: ignore[index]
    torch.testing.assert_close(
        average.model.network[1].running_mean,  # type: ignore[index]
        torch.full((2,), (1 - kept) * 3.0),
    )
    assert average.model.network[1].num_batches_tracked == 7  # type: ignore[index]
    average.steps = 10**6
    before = average.model.network[0].weight.clone()  # type: ignore[index]
    average.update()
    drift = (average.model.network[0].weight - before) / (first + 1 - before)  # type: ignore[index]
    torch.testing.assert_close(drift, torch.full_like(drift, 0.0002), rtol=0.3, atol=0)


def test_average__takes_in_several_steps_at_once() -> None:
    detector = make_detector()
    average, slow = ModelEMA(detector, 0.9), ModelEMA(detector, 0.9)
    average.steps = slow.steps = 10**6
    passes = 0
    for _ in range(4 * EVERY + 1):
        before = average.state_dict()["model"]["network.0.weight"].clone()
        with torch.no_grad():
            detector.network[0].weight.add_(0.01)  # type: ignore[index]
        average.update()
        passes += not torch.equal(average.state_dict()["model"]["network.0.weight"], before)
        slow.update()
        assert slow.model.network[0].weight.isfinite().all()  # type: ignore[index]  # asked for after each
    assert passes == 4
    taken, exact = average.model.network[0].weight, slow.model.network[0].weight  # type: ignore[index]
    lag = detector.network[0].weight - exact  # type: ignore[index]
    assert ((taken - exact).abs() < 0.4 * lag).all()


def test_average__goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    detector = make_detector()
    average = ModelEMA(detector, 0.9)
    resumed = ModelEMA(detector, 0.9)
    for step in range(EVERY + 2):
        with torch.no_grad():
            detector.network[0].weight.mul_(1.1)  # type: ignore[index]
        for each in (average, resumed):
            each.update()
        if step == 1:
            resumed = ModelEMA(detector, 0.9)
            resumed.load_state_dict(average.state_dict())
    torch.testing.assert_close(dict(average.model.state_dict()), dict(resumed.model.state_dict()))


def test_average__is_not_trained() -> None:
    average = ModelEMA(make_detector(), 0.9)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


@pytest.mark.parametrize("steps", [200, 800, 5000])
def test_average__spans_the_last_twentieth_of_a_training_however_short(steps: int) -> None:
    detector = make_detector()
    average = ModelEMA(detector, 0.9998)
    weight = detector.network[0].weight  # type: ignore[index]
    for step in range(steps):
        with torch.no_grad():
            weight.fill_(step / steps)  # so that the average tells how old it is
        average.update()
    age = 1 - average.model.network[0].weight.mean().item()  # type: ignore[index]
    assert 0.03 < age < 0.07
