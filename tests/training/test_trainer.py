from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_training import StandIn, Steady, plain_hp, run, saved
from stand_ins import make_job
from tilewise.commands.train import _warn_of_long_warmup
from tilewise.data.channel import DataSet
from tilewise.data.records import Record
from tilewise.errors import UserError
from tilewise.models.build import build_detector
from tilewise.targets import Targets
from tilewise.tasks.detection.fit_spec import fit_spec
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.train import Start, make_trainer, train
from torch import Tensor
from weighted_loss import WeightedLoss


def test_accumulation__two_batches_of_two_are_one_of_four(data: DataSet, tmp_path: Path) -> None:
    weights = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        hp = plain_hp(
            training_batch_size=size,
            gradient_accumulation_step=steps,
            number_of_epochs=3,
            learning_rate=0.1,
            precision="fp32",
        )
        run(data, hp, folder, StandIn())
        weights.append(saved(folder))
    assert weights[0]["weight"].abs().sum() > 0.1
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0])


@pytest.mark.parametrize(
    ("accumulate", "bad", "steps"),
    [
        (1, {}, 4),
        (1, {0}, 3),
        (1, {3}, 3),
        (2, {}, 2),
        (2, {0}, 2),
        (2, {1}, 2),
        (2, {0, 1}, 1),
        (2, {2, 3}, 1),
        (3, {}, 2),  # the last step has but one batch
        (3, {3}, 1),
        (4, {0, 1, 2, 3}, 0),
    ],
)
def test_step__takes_the_mean_of_the_batches_that_gave_a_gradient(
    accumulate: int,
    bad: set[int],
    steps: int,
    data: DataSet,
    model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    detector = Steady(bad)
    hp = plain_hp(training_batch_size=2, gradient_accumulation_step=accumulate, learning_rate=0.1)
    trained = run(data, hp, model_dir, detector)
    assert detector.batches == 4
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.1 * steps)
    if len(bad) == 4:
        assert trained.epochs[0]["losses"] == {}
        assert "<loss>" not in capsys.readouterr().out


def test_loss__not_finite_ten_times_in_a_row_stops_the_job(data: DataSet, model_dir: Path) -> None:
    detector = Steady(set(range(2, 99)))
    hp = plain_hp(training_batch_size=1, number_of_epochs=3, learning_rate=0.25)
    with pytest.raises(UserError, match=r"lower learning_rate \(it is 0.25\)"):
        run(data, hp, model_dir, detector)
    assert detector.batches == 12


def test_loss__not_finite_now_and_then_is_passed_over(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Steady(set(range(24)) - {9, 19})
    hp = plain_hp(
        training_batch_size=1, number_of_epochs=3, learning_rate=0.25, validation_metric_type="none"
    )
    run(data, hp, model_dir, detector)
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.5)
    assert caplog.text.count("the loss is not finite: this batch is skipped") == 22


def steep(found: Tensor, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
    """A loss that is finite, with gradients that are not."""
    return {"classification": found.sum().sqrt()}


def test_gradient__not_finite_leaves_the_weights_alone(data: DataSet, model_dir: Path) -> None:
    run(data, plain_hp(), model_dir, StandIn(criterion=steep))
    assert not any(tensor.any() for tensor in saved(model_dir).values())
    with pytest.raises(UserError, match="the gradient was not finite for 10 batches in a row"):
        run(data, plain_hp(number_of_epochs=5), model_dir, StandIn(criterion=steep))


def damage(record: Record) -> None:
    record.path.write_bytes(record.path.read_bytes()[:200])


def test_damaged_images__too_many_stop_the_job(data: DataSet, model_dir: Path) -> None:
    damage(data.train.sample[3])
    with pytest.raises(UserError, match=r"channel train: 1 of 8 images cannot be used.*train-3\.png"):
        run(data, plain_hp(), model_dir, StandIn())


def test_damaged_images__a_few_are_left_out(data: DataSet, model_dir: Path) -> None:
    damage(data.train.sample[3])
    data.train.issues.images = 20
    trained = run(data, plain_hp(training_batch_size=1, number_of_epochs=2), model_dir, StandIn())
    assert list(data.train.issues.left_out) == ["train-3.png"]
    assert [epoch["records"] for epoch in trained.epochs] == [7, 7]


def test_run__is_repeatable_and_depends_on_the_seed(data: DataSet, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        run(data, plain_hp(seed=seed, learning_rate=0.1), folder, StandIn())
        weights.append(saved(folder)["weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_train__frozen_layers_stay_as_they_are(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hp = plain_hp(layers_to_freeze=3, learning_rate=0.1)
    run(data, hp, model_dir)
    assert any("frozen: " in message and "backbone.features.0.0" in message for message in caplog.messages)
    torch.manual_seed(hp.seed)
    fresh = build_detector(fit_spec(hp, data)).network.state_dict()
    equal = {key: torch.equal(value, fresh[key]) for key, value in saved(model_dir).items()}
    frozen = ("backbone.features.0.0.", "backbone.features.0.1.", "backbone.features.0.2.")
    assert all(same for key, same in equal.items() if key.startswith(frozen))
    assert not all(same for key, same in equal.items() if key.startswith("backbone.features.0.3."))


@pytest.mark.parametrize("pretrained", [False, True])
def test_train__warns_of_frozen_layers_that_are_random(
    pretrained: bool, data: DataSet, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp = plain_hp(layers_to_freeze=3, use_pretrained_model=pretrained)
    if pretrained:
        save_file(build_detector(fit_spec(hp, data)).network.state_dict(), tmp_path / "mine.safetensors")
    make_trainer(data, make_job(hp, model_dir), Start(pretrained=tmp_path if pretrained else None))
    warning = "or leave out layers_to_freeze"
    assert any(message.endswith(warning) for message in caplog.messages) != pretrained


@pytest.mark.parametrize(("steps", "ends_early"), [(4, True), (3, False)])
def test_train__warns_of_a_warm_up_that_takes_all_steps(
    steps: int, ends_early: bool, data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp = plain_hp(training_batch_size=2, warmup_steps=steps, learning_rate_scheduler="warmup_cosine")
    make_trainer(data, make_job(hp, model_dir, StandIn()))
    _warn_of_long_warmup(hp)
    warning = "warmup_steps=4 and 4 steps in all: the learning rate only rises"
    assert any(warning in message for message in caplog.messages) == ends_early
    assert "warmup_cosine_lr_warmup_epochs" not in caplog.text, "of which warmup_steps takes the place"


def test_extra_loss__is_logged_learnt_and_kept_in_checkpoints_and_not_in_the_model(
    data: DataSet, model_dir: Path, tmp_path: Path
) -> None:
    job = make_job(plain_hp(number_of_epochs=2), model_dir, StandIn())
    checkpoints, extra = Checkpoints(tmp_path), WeightedLoss()
    trained = train(data, job, Start(checkpoints=checkpoints, extra_losses=[extra]))
    assert [set(epoch["losses"]) for epoch in trained.epochs] == [{"classification", "again"}] * 2
    assert extra.weight < 0.5
    assert saved(model_dir).keys() == {"weight", "bias"}
    resumed = WeightedLoss()
    start = Start(checkpoints=checkpoints, state=checkpoints.newest(), extra_losses=[resumed])
    make_trainer(data, job, start)
    assert torch.equal(resumed.weight, extra.weight)
