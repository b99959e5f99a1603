from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_training import StandIn, description, plain_hp, run, saved
from stand_ins import Script
from tilewise.data.channel import DataSet
from tilewise.inference.artifact import Artifact
from tilewise.stop import StopWhen


def after(calls: int) -> Callable[[], bool]:
    """A request to stop that comes in after so many questions."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_stop__in_the_first_epoch_leaves_a_whole_model(data: DataSet, model_dir: Path) -> None:
    hp = plain_hp(number_of_epochs=5, training_batch_size=2)
    trained = run(data, hp, model_dir, stop=StopWhen(after(1)))
    assert trained.stopped
    assert [epoch["records"] for epoch in trained.epochs] == [4]
    assert Artifact.load(model_dir).classes == ("dot",)
    assert len(list(model_dir.iterdir())) == 2


def test_stop__in_a_later_epoch_leaves_the_best_so_far(data: DataSet, model_dir: Path) -> None:
    script = Script([0.5])
    # asked after each of two batches, before and after the validation, and after a batch of the second epoch
    trained = run(data, plain_hp(number_of_epochs=5), model_dir, StandIn(), script, stop=StopWhen(after(4)))
    assert trained.stopped
    assert [epoch["records"] for epoch in trained.epochs] == [8, 4]
    assert description(model_dir)["metrics"]["epoch"] == 0
    torch.testing.assert_close(saved(model_dir), script.seen[0])


@pytest.mark.parametrize("scores", [[None], [0.5, None]])
def test_stop__during_a_validation(
    scores: list[float | None],
    data: DataSet,
    model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Script(scores)
    trained = run(
        data,
        plain_hp(number_of_epochs=4),
        model_dir,
        StandIn(),
        script,
        stop=StopWhen(lambda: len(script.seen) == len(scores)),
    )
    assert trained.stopped
    assert len(trained.epochs) == len(scores)
    torch.testing.assert_close(saved(model_dir), script.seen[0])
    assert trained.best.get("VOC", {}).get("mAP") == scores[0]
    done = 25 * (len(scores) - 1)
    assert ("completed" in capsys.readouterr().out) == bool(done)
