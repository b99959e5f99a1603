from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from squares import squares_split
from stand_ins import Script, make_job
from tilewise.augment.window import RandomWindow
from tilewise.data.annotations import ChannelIssues
from tilewise.data.channel import DataSet, Split
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation.evaluate import evaluate
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.predictor import Predictor
from tilewise.instances import Instances
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector, Outputs
from tilewise.stop import StopToken, StopWhen
from tilewise.targets import Targets
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.dataloading import dataset
from tilewise.training.history import TrainResult
from tilewise.training.job.choose_tiling import object_sizes
from tilewise.training.job.fit_spec import fit_spec
from tilewise.training.step.extra_losses import ExtraLoss
from tilewise.training.train import Start, make_trainer, train
from tilewise.views.sample import make_sample
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision.ops import box_iou

SIDE = 96


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    folder = tmp_path / "images"
    folder.mkdir()
    images = squares_split(folder, "train", SIDE, 8)
    return DataSet(("dot",), images, squares_split(folder, "validation", SIDE, 4, seed=1))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def make_hp(**given: object) -> Hyperparameters:
    basis: dict[str, object] = {
        "model_name": "ssdlite_mobilenet_v3_large",
        "image_size": SIDE,
        "use_pretrained_model": 0,
        "num_workers": 0,
        "training_batch_size": 4,
        "number_of_epochs": 1,
        "learning_rate_scheduler": "step",
        "momentum": 0,
        "weight_decay": 0,
    }
    return parse_hyperparameters(basis | given)


def description(model_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model_dir / "model.json").read_text())
    return content


def saved(model_dir: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(model_dir / description(model_dir)["weights"])
    return tensors


class StandIn(Detector):
    """All that the loop asks of a detector, in no time: its loss is a linear function of the mean colours."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1), *3 * [nn.Identity()])
        nn.init.zeros_(self.network.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network.bias)  # type: ignore[arg-type]

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        colours = torch.stack([image.float().mean(dim=(1, 2)) / 255 for image in images])
        if targets is None:
            nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
            return [nothing for _ in colours]
        counts = torch.tensor([[len(each)] for each in targets]).float()
        return self.loss(self.network(colours), counts)

    def loss(self, found: Tensor, counts: Tensor) -> dict[str, Tensor]:
        return {"classification": (found - counts).square().mean()}


class Steady(StandIn):
    """Its gradient is always 1 for the bias, unless the batch is one of those whose loss is not finite."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.bad = bad
        self.batches = 0

    def loss(self, found: Tensor, counts: Tensor) -> dict[str, Tensor]:
        self.batches += 1
        bias = self.network.get_parameter("bias").sum()
        return {"classification": bias * torch.nan if self.batches - 1 in self.bad else bias}


def run(data: DataSet, hp: Hyperparameters, model_dir: Path, *stand_ins: Any, **more: Any) -> TrainResult:
    return train(data, make_job(hp, model_dir, *stand_ins, **more))


def flat(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Nested figures by their path."""
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": figure for inner, figure in flat(value).items()}
        else:
            found[name] = value
    return found


def test_training__learns_and_logs_what_the_endpoint_will_give(
    data: DataSet, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hp = make_hp(
        number_of_epochs=15,
        evaluation_frequency=15,
        optimizer="adam",
        learning_rate=0.002,
        box_score_threshold=0.01,
        validation_batch_size=3,
    )
    trained = run(data, hp, model_dir)
    losses = [sum(epoch["losses"].values()) for epoch in trained.epochs]
    assert len(losses) == 15
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert all(epoch["records"] == 8 for epoch in trained.epochs)

    assert data.validation is not None
    predictor = Predictor.load(model_dir)
    metrics = evaluate(predictor, data.validation.sample, data.validation.issues, 0.5)
    logged = description(model_dir)["metrics"]
    assert metrics is not None
    assert metrics["VOC"]["mAP"] > 0
    assert logged["epoch"] == 14
    assert flat({key: logged[key] for key in metrics}) == pytest.approx(flat(metrics), abs=1e-6)
    assert f"validation mAP <score>=({metrics['VOC']['mAP']:.6f})" in capsys.readouterr().out


def test_accumulation__two_batches_of_two_are_one_of_four(data: DataSet, tmp_path: Path) -> None:
    weights = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        hp = make_hp(
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
    hp = make_hp(training_batch_size=2, gradient_accumulation_step=accumulate, learning_rate=0.1)
    trained = run(data, hp, model_dir, detector)
    assert detector.batches == 4
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.1 * steps)
    if len(bad) == 4:
        assert trained.epochs[0]["losses"] == {}
        assert "<loss>" not in capsys.readouterr().out


def test_loss__not_finite_ten_times_in_a_row_stops_the_job(data: DataSet, model_dir: Path) -> None:
    detector = Steady(set(range(2, 99)))
    hp = make_hp(training_batch_size=1, number_of_epochs=3, learning_rate=0.25)
    with pytest.raises(UserError, match=r"lower learning_rate \(it is 0.25\)"):
        run(data, hp, model_dir, detector)
    assert detector.batches == 12


def test_loss__not_finite_now_and_then_is_passed_over(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Steady(set(range(24)) - {9, 19})
    hp = make_hp(training_batch_size=1, number_of_epochs=3, learning_rate=0.25, validation_metric_type="none")
    run(data, hp, model_dir, detector)
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.5)
    assert caplog.text.count("the loss is not finite: this batch is skipped") == 22


class Steep(StandIn):
    """A loss that is finite, with gradients that are not."""

    def loss(self, found: Tensor, counts: Tensor) -> dict[str, Tensor]:
        return {"classification": found.sum().sqrt()}


def test_gradient__not_finite_leaves_the_weights_alone(data: DataSet, model_dir: Path) -> None:
    run(data, make_hp(), model_dir, Steep())
    assert not any(tensor.any() for tensor in saved(model_dir).values())
    with pytest.raises(UserError, match="the gradient was not finite for 10 batches in a row"):
        run(data, make_hp(number_of_epochs=5), model_dir, Steep())


def after(calls: int) -> Callable[[], bool]:
    """A request to stop that comes in after so many questions."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_stop__in_the_first_epoch_leaves_a_whole_model(data: DataSet, model_dir: Path) -> None:
    hp = make_hp(number_of_epochs=5, training_batch_size=2)
    trained = run(data, hp, model_dir, stop=StopWhen(after(1)))
    assert trained.stopped
    assert [epoch["records"] for epoch in trained.epochs] == [4]
    assert Artifact.load(model_dir).classes == ("dot",)
    assert len(list(model_dir.iterdir())) == 2


def test_stop__in_a_later_epoch_leaves_the_best_so_far(data: DataSet, model_dir: Path) -> None:
    script = Script([0.5])
    # asked after each of two batches, before and after the validation, and after a batch of the second epoch
    trained = run(data, make_hp(number_of_epochs=5), model_dir, StandIn(), script, stop=StopWhen(after(4)))
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
        make_hp(number_of_epochs=4),
        model_dir,
        StandIn(),
        script,
        stop=StopWhen(lambda: len(script.seen) == len(scores)),
    )
    assert trained.stopped
    assert len(trained.epochs) == len(scores)
    torch.testing.assert_close(saved(model_dir), script.seen[0])
    assert trained.best == ({} if scores[0] is None else {**trained.best, "VOC": {"mAP": 0.5}})
    done = 25 * (len(scores) - 1)
    assert ("completed" in capsys.readouterr().out) == bool(done)


def test_model__kept_is_the_best_not_the_last(data: DataSet, model_dir: Path) -> None:
    script = Script([0.1, 0.5, 0.5, 0.3])
    trained = run(data, make_hp(number_of_epochs=4, learning_rate=0.1), model_dir, StandIn(), script)
    assert not torch.equal(script.seen[1]["weight"], script.seen[3]["weight"])
    torch.testing.assert_close(saved(model_dir), script.seen[1])
    assert description(model_dir)["metrics"]["epoch"] == 1
    assert trained.best["VOC"]["mAP"] == 0.5
    assert sorted(path.name for path in model_dir.iterdir()) == ["model-0001.safetensors", "model.json"]
    assert [epoch["validation"]["VOC"]["mAP"] for epoch in trained.epochs] == [0.1, 0.5, 0.5, 0.3]


@pytest.mark.parametrize(("metric", "score"), [("coco", 0.2), ("voc", 0.4), ("coco_voc", 0.4)])
def test_metric_type__says_which_score_chooses(
    metric: str,
    score: float,
    data: DataSet,
    model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Script([0.4])
    run(data, make_hp(validation_metric_type=metric), model_dir, StandIn(), script)
    assert f"validation mAP <score>=({score:.6f})" in capsys.readouterr().out


def test_metric_type__none_keeps_the_last(
    data: DataSet, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Steady(set())
    script = Script([])
    hp = make_hp(validation_metric_type="none", number_of_epochs=3, learning_rate=0.1)
    trained = run(data, hp, model_dir, detector, script)
    assert not script.seen
    assert not trained.best
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.6)
    assert description(model_dir)["metrics"] == {}
    assert "completed 100 %" in capsys.readouterr().out


def test_validation__nothing_found_is_a_score_of_zero(data: DataSet, model_dir: Path) -> None:
    run(data, make_hp(), model_dir, StandIn())
    metrics = description(model_dir)["metrics"]
    assert (metrics["AP"], metrics["VOC"]["mAP"]) == (0, 0)


@pytest.mark.parametrize(("every", "evaluated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_evaluation_frequency__and_always_at_the_end(
    every: int,
    evaluated: list[int],
    data: DataSet,
    model_dir: Path,
) -> None:
    script = Script([0.1] * 5)
    hp = make_hp(number_of_epochs=5, evaluation_frequency=every, early_stopping=0)
    trained = run(data, hp, model_dir, StandIn(), script)
    assert [epoch["epoch"] for epoch in trained.epochs if "validation" in epoch] == evaluated


@pytest.mark.parametrize(("early_stopping", "epochs"), [(1, 4), (0, 6)])
def test_early_stopping__stops_where_it_is_on(
    early_stopping: int,
    epochs: int,
    data: DataSet,
    model_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    hp = make_hp(
        number_of_epochs=6,
        early_stopping=early_stopping,
        early_stopping_patience=2,
        early_stopping_delay=1,
    )
    with caplog.at_level(logging.INFO):
        trained = run(data, hp, model_dir, StandIn(), script)
    assert len(trained.epochs) == epochs
    assert not trained.stopped
    assert ("stopping early after epoch 3" in caplog.text) == bool(early_stopping)


def damage(record: Record) -> None:
    record.path.write_bytes(record.path.read_bytes()[:200])


def test_damaged_images__too_many_stop_the_job(data: DataSet, model_dir: Path) -> None:
    damage(data.train.sample[3])
    with pytest.raises(UserError, match=r"channel train: 1 of 8 images cannot be used.*train-3\.png"):
        run(data, make_hp(), model_dir, StandIn())


def test_damaged_images__a_few_are_left_out(data: DataSet, model_dir: Path) -> None:
    damage(data.train.sample[3])
    data.train.issues.images = 20
    trained = run(data, make_hp(training_batch_size=1, number_of_epochs=2), model_dir, StandIn())
    assert list(data.train.issues.left_out) == ["train-3.png"]
    assert [epoch["records"] for epoch in trained.epochs] == [7, 7]


def test_run__is_repeatable_and_depends_on_the_seed(data: DataSet, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        run(data, make_hp(seed=seed, learning_rate=0.1), folder, StandIn())
        weights.append(saved(folder)["weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def crowded(objects: int) -> DataSet:
    boxes = np.tile(np.array([[0, 0, 60, 60]], np.float32), (objects, 1))
    record = Record(
        "a", Path("a"), 200, 100, Targets(boxes, np.zeros(objects, np.int64), np.zeros(objects, np.bool_))
    )
    return DataSet(("dot",), Split(Records([record]), ChannelIssues("train", 1)), None)


@pytest.mark.parametrize(
    ("objects", "given", "cap"),
    [
        (10, {}, 100),
        (50, {}, 100),
        (51, {}, 102),
        (300, {}, 600),
        (300, {"box_detections_per_image": 90}, 90),
    ],
)
def test_spec__finds_twice_the_objects_of_the_fullest_image(
    objects: int, given: dict[str, object], cap: int
) -> None:
    spec = fit_spec(make_hp(**given), crowded(objects))
    assert spec.detections_per_view == cap


def test_spec__has_anchors_for_the_objects_as_the_view_shows_them() -> None:
    # 60 pixels of 200 x 100 are 28.8 x 57.6 in a square of 96: 0.42 of its side
    assert fit_spec(make_hp(), crowded(1)).anchor_sizes is None
    # of 2000 x 1000 they are a tenth of that
    data = crowded(1)
    data.train.sample.sizes *= 10
    sizes = fit_spec(make_hp(), data).anchor_sizes
    assert sizes is not None
    assert sizes[0] == pytest.approx(0.3 * 2**0.5 / 10, abs=1e-4)


def test_object_sizes__are_of_the_views_pixels(data: DataSet) -> None:
    assert object_sizes(crowded(2).train.sample, Scaling(square=100)) == pytest.approx([60 * 0.5**0.5] * 2)
    scaling = Scaling(min_size=50, max_size=400)
    assert object_sizes(crowded(2).train.sample, scaling) == pytest.approx([30, 30])
    assert len(object_sizes(data.train.sample, scaling)) == 12


@pytest.mark.parametrize(
    "given",
    [
        {"tile_grid_size": "2x2", "tile_merge": "nms"},
        {"training_views": "snip", "pyramid_scales": "1,2", "pyramid_ranges": "15-,0-40"},
    ],
    ids=["grid", "snip"],
)
def test_views__logged_figures_are_those_of_the_merged_images_that_are_served(
    given: dict[str, object], data: DataSet, model_dir: Path
) -> None:
    hp = make_hp(
        number_of_epochs=4,
        evaluation_frequency=4,
        optimizer="adam",
        learning_rate=0.002,
        box_score_threshold=0.05,
        validation_batch_size=3,
        **given,
    )
    trained = run(data, hp, model_dir)
    assert all(epoch["pixels"] == epoch["records"] * SIDE**2 for epoch in trained.epochs)
    assert trained.epochs[0]["records"] > 8
    # another size of batches rounds differently
    predictor = Predictor.load(model_dir, batch_size=hp.validation_batch_size)
    assert predictor.plan.tiling.kind == ("grid" if "tile_grid_size" in given else "pyramid")
    assert data.validation is not None
    metrics = evaluate(predictor, data.validation.one_pass(), data.validation.issues, 0.5)
    logged = description(model_dir)["metrics"]
    assert metrics is not None
    assert flat({key: logged[key] for key in metrics}) == pytest.approx(flat(metrics), abs=1e-6)


@pytest.mark.parametrize("given", [{}, {"tile_grid_size": "2x2"}, {"multi_scale": 1}])
def test_train__without_random_windows(
    data: DataSet, model_dir: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
) -> None:
    monkeypatch.setattr(RandomWindow, "change_drafts", lambda *_: pytest.fail("a random window"))
    trained = run(data, make_hp(random_windows=0, **given), model_dir)
    assert trained.epochs[0]["records"]


def test_train__the_next_epoch_is_loaded_while_the_model_is_validated(
    data: DataSet, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tmp_path / "loaded"
    loaded.touch()
    found: list[int] = []

    def noting(*arguments: Any) -> Any:
        with loaded.open("a") as file:
            file.write("a view\n")
        return make_sample(*arguments)

    def waiting(predictor: Predictor, stop: StopToken) -> float:
        end = time.monotonic() + (20 if not found else 1)  # there is no epoch after the second
        while len(loaded.read_text().splitlines()) < 8 * (len(found) + 2) and time.monotonic() < end:
            time.sleep(0.01)
        found.append(len(loaded.read_text().splitlines()))
        return 0.5

    monkeypatch.setattr(dataset, "make_sample", noting)  # in the loader process, which is forked later
    trained = run(data, make_hp(number_of_epochs=2, num_workers=1), model_dir, StandIn(), waiting)
    assert found == [16, 16] and [epoch["records"] for epoch in trained.epochs] == [8, 8]


def test_views__sniper_asks_the_model_for_false_positives_once(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp = make_hp(
        number_of_epochs=3,
        training_views="sniper",
        pyramid_scales="1,2",
        negative_views="false_alarms",
        box_score_threshold=0.01,
        validation_metric_type="none",
    )
    trainer = make_trainer(data, make_job(hp, model_dir))
    trainer.run()
    assert caplog.text.count("false alarms in 8 images") == 1
    planner = trainer.false_positives.planner
    assert planner is not None
    false_positives = planner.false_positives
    assert sorted(false_positives) == list(range(8))
    for index, boxes in false_positives.items():
        record = data.train.sample[index]
        assert boxes.shape[1] == 4 and len(boxes) > 0
        if len(record.targets.boxes):
            assert box_iou(torch.from_numpy(boxes), torch.from_numpy(record.targets.boxes)).max() <= 0.3


def test_views__no_false_positives_are_looked_for_where_whole_images_do(
    data: DataSet, model_dir: Path
) -> None:
    hp = make_hp(
        number_of_epochs=2, training_views="sniper", pyramid_scales="1", negative_views="false_alarms"
    )
    assert len(run(data, hp, model_dir).epochs) == 2


def test_multi_scale__the_first_batch_is_the_largest(data: DataSet, model_dir: Path) -> None:
    seen: list[int] = []

    class Noting(StandIn):
        def forward(
            self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
        ) -> dict[str, Tensor] | list[Instances]:
            images = list(images)
            if targets is not None:
                assert len({image.shape for image in images}) == 1
                seen.append(images[0].shape[-1])
            return super().forward(images, targets)

    run(data, make_hp(multi_scale=1, number_of_epochs=6, training_batch_size=2), model_dir, Noting())
    assert seen[0] == 128
    assert set(seen) <= {128, 96, 64} and len(set(seen)) > 1
    assert len(seen) == 24


def test_train__frozen_layers_stay_as_they_are(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hp = make_hp(layers_to_freeze=3, learning_rate=0.1)
    run(data, hp, model_dir)
    assert any("frozen: " in message and "backbone.features.0.0" in message for message in caplog.messages)
    torch.manual_seed(hp.seed)
    fresh = build_detector(fit_spec(hp, data)).network.state_dict()
    equal = {key: torch.equal(value, fresh[key]) for key, value in saved(model_dir).items()}
    frozen = ("backbone.features.0.0.", "backbone.features.0.1.", "backbone.features.0.2.")
    assert all(same for key, same in equal.items() if key.startswith(frozen))
    assert not all(same for key, same in equal.items() if key.startswith("backbone.features.0.3."))


class Weighted(ExtraLoss):
    """The detector's loss once more, with a weight that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, outputs: Outputs, targets: Sequence[Targets[Tensor]], losses: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {"again": self.weight * losses["classification"]}


def test_extra_loss__is_logged_learnt_and_kept_in_checkpoints_and_not_in_the_model(
    data: DataSet, model_dir: Path, tmp_path: Path
) -> None:
    job = make_job(make_hp(number_of_epochs=2), model_dir, StandIn())
    checkpoints, extra = Checkpoints(tmp_path), Weighted()
    trained = train(data, job, Start(checkpoints=checkpoints, extra_losses=[extra]))
    assert [set(epoch["losses"]) for epoch in trained.epochs] == [{"classification", "again"}] * 2
    assert extra.weight < 0.5
    assert saved(model_dir).keys() == {"weight", "bias"}
    resumed = Weighted()
    start = Start(checkpoints=checkpoints, state=checkpoints.newest(), extra_losses=[resumed])
    make_trainer(data, job, start)
    assert torch.equal(resumed.weight, extra.weight)
