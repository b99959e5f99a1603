from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stand_ins import make_hp
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.detector import Detector, Outputs
from tilewise.targets import Targets
from tilewise.training.dataloading.batch import Batch
from tilewise.training.step.loss_means import LossMeans, means_of
from tilewise.training.step.non_finite import MAX_NON_FINITE_STEPS, READ_EVERY, ReadEachStep, ReadLater
from tilewise.training.step.train_step import TrainStep
from tilewise.views.sample import Sample
from torch import Tensor, nn
from weighted_losses import WeightedLosses

Way = type[ReadEachStep] | type[ReadLater]


class Brightness(Detector):
    """Its loss is the squared error of a linear function of the colours; ``script`` spoils some batches."""

    def __init__(self, script: Iterable[str] = ()) -> None:
        super().__init__(nn.Linear(3, 1), *3 * [nn.Identity()])
        nn.init.constant_(self.network.weight, 0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.network.bias)  # type: ignore[arg-type]
        self.script = iter(script)

    def outputs_and_losses(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]]
    ) -> tuple[Outputs, dict[str, Tensor]]:
        colours = torch.stack([image.float().mean(dim=(1, 2)) / 255 for image in images])
        found = self.network(colours).float()
        loss = (found - 1).square().mean()
        kind = next(self.script, "good")
        if kind == "infinite loss":  # with a gradient that is finite
            loss = loss + torch.inf
        elif kind == "infinite gradient":  # with a loss that is finite
            loss = (found * 0).sum().sqrt()
        elif kind == "too large for float16":
            loss = loss * 100
        outputs: Any = SimpleNamespace(features={"colours": colours})
        return outputs, {"classification": loss, "bbox_regression": 0 * loss + 2}


step_hp = partial(make_hp, learning_rate=0.1, learning_rate_scheduler="step", precision="fp32")


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Batch.of([Sample(each, Targets.none().to("cpu")) for each in pixels])


def weights_after(
    script: list[str], hp: Hyperparameters, way: Way = ReadEachStep
) -> tuple[list[Tensor], TrainStep, LossMeans]:
    detector, means = Brightness(script), LossMeans()
    train_step = TrainStep(detector, hp, len(script), view_size=(4, 4), finite_check=way)
    train_step.begin_epoch()
    for _ in script:
        means.add(train_step.learn(a_batch()))
    train_step.end_epoch()
    return [each.detach().clone() for each in detector.parameters()], train_step, means


@pytest.fixture(params=[ReadEachStep, ReadLater])
def way(request: pytest.FixtureRequest) -> Way:
    """Both ways to find bad steps; the second is a GPU's."""
    way: Way = request.param
    return way


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "adadelta"])
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("bad", ["infinite loss", "infinite gradient"])
def test_bad_step__is_as_if_it_had_not_been(way: Way, optimizer: str, momentum: float, bad: str) -> None:
    hp = step_hp(optimizer=optimizer, momentum=momentum)
    script = [bad, "good", bad, bad, "good", "good"]
    spoilt, _, means = weights_after(script, hp, way)
    plain, _, expected = weights_after(["good"] * 3, hp, way)
    torch.testing.assert_close(spoilt, plain)
    if bad == "infinite loss":
        assert means_of([means.totals()]) == pytest.approx(means_of([expected.totals()]))


def test_ways__give_the_same_weights_and_losses() -> None:
    runs = []
    for way in (ReadEachStep, ReadLater):
        weights, _, means = weights_after(["good"] * 5, step_hp(), way)
        runs.append((weights, means_of([means.totals()])))
    assert all(torch.equal(*pair) for pair in zip(runs[0][0], runs[1][0], strict=True))
    assert runs[0][1] == runs[1][1]
    assert runs[0][1]["bbox_regression"] == 2


def test_bad_steps__ten_in_a_row_stop_the_job(way: Way) -> None:
    script = ["good"] * 3 + ["infinite loss"] * MAX_NON_FINITE_STEPS + ["good"] * (3 * READ_EVERY)
    with pytest.raises(UserError, match=r"10 batches in a row.*lower learning_rate \(it is 0.1\)"):
        weights_after(script, step_hp(), way)


def test_bad_steps__nine_in_a_row_do_not_stop_it(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    script = (["infinite loss"] * (MAX_NON_FINITE_STEPS - 1) + ["good"]) * 5
    weights, _, _ = weights_after(script, step_hp(), way)
    torch.testing.assert_close(weights, weights_after(["good"] * 5, step_hp(), way)[0])
    assert "skipped" in caplog.text


def test_bad_steps__are_found_at_the_epochs_end_at_the_latest() -> None:
    detector = Brightness(["infinite loss"] * MAX_NON_FINITE_STEPS)
    train_step = TrainStep(detector, step_hp(), 10, view_size=(4, 4), finite_check=ReadLater)
    train_step.begin_epoch()
    for _ in range(MAX_NON_FINITE_STEPS):
        train_step.learn(a_batch())
    with pytest.raises(UserError, match="the loss or its gradient was not finite"):
        train_step.end_epoch()


def test_fp16__finds_its_scale_without_a_bad_step(way: Way) -> None:
    hp = step_hp(precision="fp16", learning_rate=0.001)
    weights, train_step, _ = weights_after(["too large for float16"] * 40, hp, way)
    assert train_step.precision.scaled
    assert 1 < train_step._scaler.get_scale() < 2**16
    assert not torch.equal(weights[0], torch.full((1, 3), 0.5))
    assert all(each.isfinite().all() for each in weights)


def test_fp16__a_loss_that_is_never_finite_stops_the_job(way: Way) -> None:
    with pytest.raises(UserError, match="not finite for 10 batches in a row"):
        weights_after(["infinite loss"] * 50, step_hp(precision="fp16"), way)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_forward__runs_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    seen = []
    detector = Brightness()
    detector.network.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    train_step = TrainStep(detector, step_hp(precision=precision), 1, view_size=(4, 4))
    train_step.learn(a_batch())
    assert seen == [dtype]
    assert all(each.dtype == torch.float32 for each in detector.parameters())


def test_gradients__are_clipped_to_a_norm_of_ten(way: Way) -> None:
    hp = step_hp(momentum=0, weight_decay=0)
    before = torch.tensor([0.5, 0.5, 0.5, 0])
    found = [weights_after([script], hp, way)[0] for script in ("good", "too large for float16")]
    small, large = (
        (torch.cat([each.flatten() for each in weights]) - before) / hp.learning_rate for weights in found
    )
    assert 0.1 < small.norm() < 1  # as it is
    torch.testing.assert_close(large, 10 * small / small.norm())


def test_ema__is_the_average_that_is_evaluated() -> None:
    detector = Brightness()
    train_step = TrainStep(detector, step_hp(ema_decay=0.9, momentum=0), 1, view_size=(4, 4))
    assert train_step.evaluated is not detector
    expected = torch.full((1, 3), 0.5)
    for step in range(1, 6):
        train_step.learn(a_batch())
        kept = step / (step + 20)
        expected = kept * expected + (1 - kept) * detector.network.weight.detach()  # type: ignore[operator]
        torch.testing.assert_close(train_step.evaluated.network.weight, expected)
    assert train_step.evaluated.network.state_dict().keys() == detector.network.state_dict().keys()


def test_ema__none_without_a_decay() -> None:
    detector = Brightness()
    assert TrainStep(detector, step_hp(), 1, view_size=(4, 4)).evaluated is detector


def test_empty_batch__changes_nothing(way: Way) -> None:
    detector = Brightness()
    train_step = TrainStep(detector, step_hp(), 1, view_size=(4, 4), finite_check=way)
    assert train_step.learn(Batch.of([])) == {}
    assert torch.equal(detector.network.weight, torch.full((1, 3), 0.5))  # type: ignore[arg-type]


class WeightedOfTwo(WeightedLosses):
    """Of a batch of two images."""

    def forward(
        self,
        images: Sequence[Tensor],
        outputs: Outputs,
        targets: Sequence[Targets[Tensor]],
        losses: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        assert len(targets) == 2 and outputs.features["colours"].shape == (2, 3)
        return super().forward(images, outputs, targets, losses)


def test_extra_loss__is_learnt_from_and_its_parameters_too() -> None:
    hp = step_hp(momentum=0, weight_decay=0)
    plain, _, _ = weights_after(["good"], hp)
    detector, extra = Brightness(), WeightedOfTwo()
    train_step = TrainStep(detector, hp, 1, view_size=(4, 4), extra_losses=[extra])
    losses = train_step.learn(a_batch())
    assert losses["again"] == 0.5 * losses["classification"]
    before = [torch.full((1, 3), 0.5), torch.zeros(1)]
    for start, alone, both in zip(before, plain, detector.parameters(), strict=True):
        torch.testing.assert_close(both.detach() - start, 1.5 * (alone - start))
    torch.testing.assert_close(extra.weight.detach(), 0.5 - 0.1 * losses["classification"])


def test_extra_loss__is_in_the_checkpoint_and_not_in_the_average() -> None:
    hp = step_hp(ema_decay=0.9, gradient_accumulation_step=2)
    first, extra = (
        TrainStep(Brightness(), hp, 1, view_size=(4, 4), extra_losses=[WeightedOfTwo()]),
        WeightedOfTwo(),
    )
    second = TrainStep(Brightness(), hp, 1, view_size=(4, 4), extra_losses=[extra])
    for _ in range(3):  # in the middle of a step
        first.learn(a_batch())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.begin_epoch(3)
    for train_step in (first, second):
        train_step.learn(a_batch())
    states = first.state_dict(), second.state_dict()
    assert torch.equal(states[0]["extra_losses"]["0.weight"], extra.weight) and extra.weight != 0.5
    assert states[0]["optimizer"][2]["momentum_buffer"] == states[1]["optimizer"][2]["momentum_buffer"]
    assert first.evaluated.state_dict().keys() == Brightness().state_dict().keys()
