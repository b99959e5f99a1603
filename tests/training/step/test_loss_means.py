from __future__ import annotations

import pytest
import torch
from tilewise.training.step.loss_means import TOGETHER, LossMeans, means_of


def test_means__leave_out_batches_that_are_not_finite() -> None:
    means = LossMeans()
    for what, where in ((1.0, 5.0), (float("nan"), 1.0), (1.0, float("inf")), (2.0, 7.0)):
        means.add({"what": torch.tensor(what), "where": torch.tensor(where)})
    means.add({})
    assert means_of([means.totals()]) == {"what": pytest.approx(1.5), "where": pytest.approx(6.0)}


def test_means__of_more_batches_than_are_summed_up_at_a_time() -> None:
    means = LossMeans({"what": 10.0}, 2)
    for number in range(2 * TOGETHER + 5):
        means.add({"what": torch.tensor(float("nan") if number % 10 == 9 else number)})
    values = [number for number in range(2 * TOGETHER + 5) if number % 10 != 9]
    for _ in range(2):  # asking changes nothing
        assert means.totals() == ({"what": 10.0 + sum(values)}, 2 + len(values))


@pytest.mark.parametrize("losses", [[], [{}], [{"what": torch.tensor(torch.nan)}]])
def test_means__of_nothing_are_nothing(losses: list[dict[str, torch.Tensor]]) -> None:
    means = LossMeans()
    for each in losses:
        means.add(each)
    assert means_of([means.totals()]) == {}


def test_means__of_processes_weigh_batches_alike() -> None:
    parts = [({"what": 4.0}, 3), ({}, 0), ({"what": 2.0, "where": 9.0}, 1)]
    assert means_of(parts) == {"what": 1.5, "where": 2.25}
