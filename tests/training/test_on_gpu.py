"""Training and prediction on a GPU that is none: nothing is left on the CPU, and little is waited for."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import GPU, OnGpu, fake_gpu
from squares import squares_split
from stand_ins import make_job
from tilewise.data.channel import DataSet
from tilewise.data.decoding.decode import DecodedImage
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.inference.detections import merge_instances
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.inference.view_plan import ViewPlan
from tilewise.instances import Instances
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.stop import StopWhen
from tilewise.targets import Targets
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.dataloading.batch import Batch
from tilewise.training.step.train_step import TrainStep
from tilewise.training.train import Start, train
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling

FAMILIES = (
    "ssd_resnet50",
    "ssdlite_mobilenet_v3_large",
    "fasterrcnn_resnet18_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "yolox_nano",
    "gfl_resnet18_fpn",
)


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)


def make_batch(side: int, images: int, ignored: bool = True) -> list[Sample]:
    """Noise with 0, 3, 6, … boxes, every third of which is ignored."""
    generator = torch.Generator().manual_seed(images)
    samples = []
    for number in range(images):
        count = 3 * number
        corner = torch.rand(count, 2, generator=generator) * (side - 30)
        boxes = torch.cat([corner, corner + 8 + 20 * torch.rand(count, 2, generator=generator)], dim=1)
        pixels = torch.randint(256, (3, side, side), generator=generator, dtype=torch.uint8)
        every_third = torch.arange(count) % 3 == 2
        samples.append(Sample(pixels, Targets(boxes, torch.arange(count) % 2, every_third & ignored)))
    return samples


def make_learner(name: str, gpu: bool, **given: object) -> tuple[TrainStep, Scaling]:
    hp = parse_hyperparameters({"model_name": name, "learning_rate": 1e-3, "precision": "fp32"} | given)
    side = side_of(name)
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=side) if square else Scaling(min_size=side, max_size=side)
    torch.manual_seed(0)
    detector = build_detector(DetectorSpec(name, 2, scaling, None, 0.01, 0.5, 50))
    detector.to(GPU if gpu else "cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_step = TrainStep(detector, hp, 4, view_size=(side, side))
    train_step.begin_epoch()
    return train_step, scaling


def side_of(name: str) -> int:
    return 300 if name == "ssd_resnet50" else 128


def run(name: str, gpu: bool) -> tuple[list[dict[str, float]], list[Instances]]:
    """The losses of two steps, and what is found after them."""
    with fake_gpu() if gpu else nullcontext():
        train_step, scaling = make_learner(name, gpu)
        views = make_batch(side_of(name), 2)
        batch = Batch.of(views)
        torch.manual_seed(1)  # Faster R-CNN draws the regions that it learns from
        losses = [{key: float(value) for key, value in train_step.learn(batch).items()} for _ in range(2)]
        train_step.end_epoch()
        predictor = Predictor(
            TorchBackend(train_step.evaluated, 2), ViewPlan(scaling), ("ant", "bee"), merge=merge_instances
        )
        found = list(predictor.predict_all(DecodedImage.whole(sample.pixels.numpy()) for sample in views))
    return losses, [each.detections for each in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_on_gpu__same_losses_and_detections_as_on_a_cpu(name: str) -> None:
    losses, found = run(name, gpu=True)
    expected_losses, expected = run(name, gpu=False)
    # Faster R-CNN's regions are pooled by another implementation there.
    near = 2e-3 if name.startswith("fasterrcnn") else 1e-5
    for one, other in zip(losses, expected_losses, strict=True):
        assert one == pytest.approx(other, rel=near)
    for here, there in zip(found, expected, strict=True):
        assert not any(isinstance(each, OnGpu) for each in vars(here).values())
        assert len(here) == len(there)
        if near < 1e-4:
            np.testing.assert_allclose(here.scores, there.scores, rtol=1e-3, atol=1e-5)
            # scores that differ by less than rounding have no order
            same = np.abs(here.boxes[:, None] - there.boxes).max(axis=2) < 0.05
            assert same.any(axis=0).all() and same.any(axis=1).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_on_gpu__same_losses_in_mixed_precision(name: str, precision: str) -> None:
    """In sum over several batches: which priors learn an object may hang on rounding (SimOTA)."""
    batches, found = [make_batch(side_of(name), images) for images in (2, 3, 4)], []
    for each in ("fp32", precision):
        total = 0.0
        with fake_gpu(), torch.no_grad():
            train_step, _ = make_learner(name, gpu=True, precision=each)
            torch.manual_seed(1)  # Faster R-CNN draws the regions that it learns from
            for batch in batches:
                views = Batch.of(batch).samples(GPU)
                pixels, targets = [view.pixels for view in views], [view.targets for view in views]
                dtype = train_step.precision.dtype
                with torch.autocast("cuda", dtype, dtype != torch.float32):
                    losses = train_step.model.train()(pixels, targets)
                    boxes = train_step.model.eval().detect(pixels)
                assert isinstance(losses, dict)
                assert all(loss.dtype == torch.float32 for loss in losses.values())
                assert all(view.boxes.dtype == view.scores.dtype == np.float32 for view in boxes)
                total += sum(float(loss) for loss in losses.values())
        found.append(total)
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("ssd_resnet50", {}),
        ("ssdlite_mobilenet_v3_large", {}),
        ("retinanet_resnet50_fpn", {}),
        ("fcos_resnet50_fpn", {}),
        ("yolox_nano", {"aten.nonzero.default": 2}),
        ("gfl_resnet18_fpn", {"aten.nonzero.default": 2}),
    ],
)
def test_on_gpu__a_step_hardly_waits(name: str, waits: dict[str, int]) -> None:
    with fake_gpu() as gpu:
        train_step, _ = make_learner(name, gpu=True)
        train_step.learn(Batch.of(make_batch(side_of(name), 4)))
        gpu.waits.clear()
        train_step.learn(Batch.of(make_batch(side_of(name), 4)))
    assert Counter(wait.split()[1] for wait in gpu.waits) == waits, gpu.waits


def test_on_gpu__a_step_of_faster_rcnn_waits_as_often_for_many_images_as_for_few() -> None:
    waits = []
    for images in (2, 4):
        with fake_gpu() as gpu:
            train_step, _ = make_learner("fasterrcnn_resnet18_fpn", gpu=True)
            train_step.learn(Batch.of(make_batch(128, images)))
            gpu.waits.clear()
            train_step.learn(Batch.of(make_batch(128, images)))
        # a suppression takes some 4096 boxes, so that there are more of those
        waits.append(Counter(wait.split()[1] for wait in gpu.waits if "nms" not in wait))
    assert waits[0] == waits[1] and waits[0].total() == 3


def test_on_gpu__a_prediction_waits_for_a_batch_of_views_and_not_for_each() -> None:
    waits = []
    for views in (2, 8):
        with fake_gpu() as gpu:
            train_step, scaling = make_learner("yolox_nano", gpu=True)
            predictor = Predictor(
                TorchBackend(train_step.evaluated, 8),
                ViewPlan(scaling),
                ("ant", "bee"),
                merge=merge_instances,
            )
            images = [DecodedImage.whole(sample.pixels.numpy()) for sample in make_batch(128, views)]
            assert len(list(predictor.predict_all(images))) == views
        waits.append(Counter(wait.split()[1] for wait in gpu.waits))
    copies = waits[1] - waits[0]
    assert copies == {"aten._to_copy.default": 6}, copies  # of an image each to the GPU


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_on_gpu__every_precision_and_kind_of_optimizer(precision: str, optimizer: str) -> None:
    with fake_gpu((7, 0) if precision == "fp16" else (8, 0)):
        train_step, _ = make_learner(
            "yolox_nano", gpu=True, precision=precision, optimizer=optimizer, gradient_accumulation_step=2
        )
        if precision == "fp16":  # some ten steps would pass before its scale is found
            train_step._scaler.load_state_dict(train_step._scaler.state_dict() | {"scale": 1.0})
        before = [each.detach().clone().cpu() for each in train_step.model.parameters()]
        for _ in range(4):
            train_step.learn(Batch.of(make_batch(128, 2)))
        train_step.end_epoch()
        after = [each.detach().cpu() for each in train_step.model.parameters()]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_on_gpu__float16_finds_its_scale_where_a_run_goes_on_from_bfloat16() -> None:
    """Precision follows from the GPU, which may be an older one when a job is resumed."""
    with fake_gpu((8, 0)):
        train_step, _ = make_learner("yolox_nano", gpu=True, precision="auto")
        train_step.learn(Batch.of(make_batch(128, 2)))
        state = train_step.state_dict()
        assert train_step.precision.dtype == torch.bfloat16
    with fake_gpu((7, 0)):
        older, _ = make_learner("yolox_nano", gpu=True, precision="auto")
        older.load_state_dict({**older.state_dict(), "scaler": state["scaler"]})
        assert older.precision.dtype == torch.float16 and older._scaler.get_scale() == 2.0**16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("images")
    splits = (squares_split(folder, channel, 128, 6) for channel in ("train", "validation"))
    return DataSet(("square",), *splits)


def train_job(data: DataSet, folder: Path, gpu: bool) -> list[dict[str, float]]:
    """Train in tiles, be stopped after 4 steps, go on from the checkpoint; returns the losses by epoch."""
    hp = parse_hyperparameters(
        {
            "model_name": "ssdlite_mobilenet_v3_large",
            "image_size": 96,
            "tile_grid_size": "2x2",
            "use_pretrained_model": 0,
            "num_workers": 0,
            "training_batch_size": 4,
            "number_of_epochs": 2,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "ema_decay": 0.9,
            "box_score_threshold": 0.01,
            "precision": "fp32",
        }
    )
    for name in ("model", "checkpoints"):
        (folder / name).mkdir(parents=True)
    asked = iter(range(4))
    with fake_gpu() if gpu else nullcontext():
        checkpoints = Checkpoints(folder / "checkpoints")
        job = make_job(hp, folder / "model", stop=StopWhen(lambda: next(asked, None) is None))
        assert train(data, job, Start(checkpoints=checkpoints)).stopped and checkpoints.newest()
        start = Start(checkpoints=checkpoints, state=checkpoints.newest())
        trained = train(data, make_job(hp, folder / "model"), start)
    return [epoch["losses"] for epoch in trained.epochs]


def test_on_gpu__a_whole_job_that_is_resumed(data: DataSet, tmp_path: Path) -> None:
    losses = train_job(data, tmp_path / "gpu", gpu=True)
    expected = train_job(data, tmp_path / "cpu", gpu=False)
    assert len(losses) == 2
    for one, other in zip(losses, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3)

    # Where the model is served there may be a GPU, or none.
    # One grey: the two round scaled edges otherwise, and statistics of few tiny batches make much of that.
    picture = DecodedImage.whole(np.full((3, 128, 128), 40, np.uint8))
    with fake_gpu():
        there = next(Predictor.load(tmp_path / "gpu" / "model").predict_all([picture])).detections
    here = next(Predictor.load(tmp_path / "gpu" / "model").predict_all([picture])).detections
    torch.testing.assert_close(there.scores, here.scores, rtol=1e-3, atol=1e-4)
