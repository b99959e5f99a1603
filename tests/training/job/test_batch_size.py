from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from fake_gpu import GPU, fake_gpu
from squares import squares_split
from stand_ins import make_hp, make_job
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tasks.detection.task import DetectionTask
from tilewise.training.dataloading.batch import Batch
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.training.job import batch_size
from tilewise.training.job.batch_size import (
    largest_views,
    resolve_batch_size,
    synthetic_batch,
    training_batch_size,
    validation_batch_size,
    with_batch_size,
)
from tilewise.training.step import memory
from tilewise.training.step.memory import BatchTooLargeError, padded_pixels
from tilewise.training.step.train_step import TrainStep
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import nn

SCALING = Scaling(square=64)
GIB = 2**30


auto_hp = partial(make_hp, model_name="yolox_nano", training_batch_size="auto")


def make_detector() -> Detector:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    return build_detector(DetectorSpec("yolox_nano", 1, SCALING, None, 0.1, 0.5, 100))


def five_objects(size: tuple[int, int], generator: torch.Generator) -> Targets[torch.Tensor]:
    return DetectionTask().synthetic_targets(5, size, generator)


def resolved(
    hp: Hyperparameters,
    views: int = 1000,
    factor: float = 1.0,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Hyperparameters:
    return resolve_batch_size(
        hp,
        make_detector(),
        SCALING,
        factors=[factor],
        views=views,
        targets=five_objects,
        distributed=distributed,
    )


class Roomy(Detector):
    """Runs out of memory with views of more pixels in all than it has room for."""

    def __init__(self, pixels: int):
        super().__init__(nn.Linear(1, 1), *3 * [nn.Identity()])
        self.pixels = pixels

    def forward(self, images: Any, targets: Any = None) -> Any:
        if padded_pixels([(image.shape[-2], image.shape[-1]) for image in images]) > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return {"loss": self.network(torch.ones(1, 1, device=GPU)).sum()}


def on_gpu(detector: Detector, views: int) -> int:
    """The batch size chosen for a fake GPU."""
    chosen = resolve_batch_size(
        auto_hp(), detector.to(GPU), SCALING, factors=[1.0], views=views, targets=five_objects
    )
    return chosen.training_batch_size


class Several(DistributedContext):
    """Processes of which another one has the least room."""

    least = 99

    def all_reduce_max(self, number: int) -> int:
        return max(number, -self.least)


class Noting(DetectionTask):
    """Of how many objects a synthetic view is."""

    asked: ClassVar[list[int]] = []

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[torch.Tensor]:
        self.asked.append(objects)
        return super().synthetic_targets(objects, size, generator)


@pytest.mark.parametrize(
    ("given", "objects"), [({}, 3), ({"copy_paste": 1, "copy_paste_times": 3}, 12), ({"mixup": 0.5}, 6)]
)
def test_auto__counts_the_objects_of_the_fullest_view(
    given: dict[str, object], objects: int, tmp_path: Path
) -> None:
    hp, train = auto_hp(image_size=64, **given), squares_split(tmp_path, "train", 64, 64)
    job = replace(make_job(hp, tmp_path), task=Noting.of_job(hp))
    spec = DetectorSpec("yolox_nano", 1, SCALING, None, 0.1, 0.5, 100)
    Noting.asked.clear()
    assert with_batch_size(job, make_detector(), spec, train=train).training_batch_size == 8
    assert {*Noting.asked} == {objects}


@pytest.mark.parametrize(("views", "size"), [(3, 1), (8, 1), (16, 2), (40, 4), (128, 16), (9999, 16)])
def test_auto__on_a_cpu_leaves_an_epoch_its_steps(views: int, size: int) -> None:
    assert resolved(auto_hp(), views).training_batch_size == size


def test_auto__on_a_cpu_takes_a_share_of_the_memory_that_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chosen = {}
    for megabytes in (20, 60, 120, 240, 9000):
        monkeypatch.setattr(batch_size, "available_memory", lambda megabytes=megabytes: megabytes * 2**20)
        chosen[megabytes] = resolved(auto_hp()).training_batch_size
    assert chosen[20] == 1 and chosen[9000] == 16
    assert 1 < chosen[120] < chosen[240] <= 16
    assert "training_batch_size=auto: 1 (2 views of 64 x 64 pixels would not fit into memory)" in caplog.text
    # views of twice the side need four times as much
    monkeypatch.setattr(batch_size, "available_memory", lambda: 240 * 2**20)
    assert resolved(auto_hp(), factor=2.0).training_batch_size <= chosen[240] // 2


@pytest.mark.parametrize(
    ("views", "most", "reason"),
    [
        (64, 64, "more than 8 would leave an epoch of 64 views too few steps"),
        (128, 64, "more than 16 would leave an epoch of 128 views too few steps"),  # a CPU's limit, by chance
        (512, 64, "it is never larger"),
        (9999, 64, "it is never larger"),
        (9999, 16, "32 views of 64 x 64 pixels would not fit into memory"),
        (9999, 32, "64 views of 64 x 64 pixels would not fit into memory"),
    ],
)
def test_auto__says_what_limits_a_gpu(
    caplog: pytest.LogCaptureFixture, views: int, most: int, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    with fake_gpu():
        on_gpu(Roomy(most * 64 * 64), views)
    assert f"({reason})" in caplog.text


def test_auto__keeps_a_margin_of_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Roomy(10 * 64 * 64)
    with fake_gpu():
        assert on_gpu(detector, views=9999) == 8
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 15.2 * GIB)
        assert on_gpu(detector, views=9999) == 1


def test_auto__leaves_weights_statistics_and_random_numbers_alone() -> None:
    detector = make_detector()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    state = torch.random.get_rng_state()
    resolve_batch_size(auto_hp(), detector, SCALING, factors=[1.0], views=1000, targets=five_objects)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_auto__of_a_machine_is_that_of_all_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    hp = parse_hyperparameters(
        {"num_classes": 1, "num_training_samples": 999, "mini_batch_size": "auto", "image_shape": 300}
    )
    distributed = Several(size=4, local_size=4)
    chosen = resolved(hp, views=200, distributed=distributed)  # 6 views a step and GPU
    assert chosen.training_batch_size == chosen.validation_batch_size == 16
    monkeypatch.setattr(Several, "least", 2)
    assert resolved(hp, views=200, distributed=distributed).training_batch_size == 8


@pytest.mark.parametrize(
    ("scaling", "factor", "side"),
    [
        (Scaling(square=320), 1.0, 320),
        (Scaling(square=320), 1.5, 480),
        (Scaling(min_size=600, max_size=1333), 1.0, 1200),
        (Scaling(min_size=800, max_size=1333), 1.0, 1333),
    ],
)
def test_largest_views__hold_lying_and_standing_ones(scaling: Scaling, factor: float, side: int) -> None:
    assert largest_views(scaling, factor) == (side, side)


class NoMemory:
    """Steps of more pixels than these run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pixels: int):
        self.pixels = pixels
        self.peak = 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 16 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: GIB + self.peak)

    def step(self, watch: memory.StepMemory, sizes: list[tuple[int, int]]) -> None:
        with watch.of_step(sizes):
            if padded_pixels(sizes) > self.pixels:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
            self.peak = max(self.peak, padded_pixels(sizes) * 100_000)


def views(count: int, width: int, height: int) -> list[Sample]:
    return synthetic_batch(count, (width, height), five_objects)


def test_out_of_memory__says_what_did_it_and_about_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = NoMemory(monkeypatch, 100_000)
    hp = auto_hp(training_batch_size=32)
    watch = memory.StepMemory(hp, torch.device("cuda"))
    gpu.step(watch, [(32, 32)] * 32)
    with pytest.raises(BatchTooLargeError) as caught:
        gpu.step(watch, [(64, 96)] * 32)
    # 16 GiB * 0.9 - 1 GiB for the model hold 23 views of 6144 pixels with 100 kB each
    assert str(caught.value) == (
        "training_batch_size=32 does not fit into the GPU's 16.0 GiB with views of 96 x 64 pixels "
        "(32 in this batch): use training_batch_size=23, which should fit, or training_batch_size=auto, "
        "or a smaller image_size (it is 640), or an instance with more memory"
    )


def test_out_of_memory__in_the_first_step_of_a_built_in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = NoMemory(monkeypatch, 100)
    hp = parse_hyperparameters({"num_classes": 1, "num_training_samples": 999, "mini_batch_size": 8})
    with pytest.raises(BatchTooLargeError, match=r"use mini_batch_size=4, .* or a smaller image_shape"):
        gpu.step(memory.StepMemory(hp, torch.device("cuda")), [(30, 30)] * 8)


def test_out_of_memory__one_image_cannot_become_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = NoMemory(monkeypatch, 100)
    hp = parse_hyperparameters({"training_batch_size": 1})
    with pytest.raises(BatchTooLargeError, match=r"use a smaller min_size and max_size \(they are 600"):
        gpu.step(memory.StepMemory(hp, torch.device("cuda")), [(30, 30)])


def test_out_of_memory__of_a_learner_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    NoMemory(monkeypatch, 0)
    detector = make_detector()
    train_step = TrainStep(detector, auto_hp(training_batch_size=2), 1, view_size=(64, 64))

    def out_of_memory(*rest: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(detector, "forward", out_of_memory)
    with pytest.raises(BatchTooLargeError, match="training_batch_size=2 does not fit"):
        train_step.learn(Batch.of(views(2, 64, 64)))


def test_sizes__are_a_processs_share_of_a_machines() -> None:
    builtin = {"num_classes": 1, "num_training_samples": 9, "mini_batch_size": 10, "image_shape": 300}
    of_machine = parse_hyperparameters(builtin)
    of_gpu = auto_hp(training_batch_size=10, validation_batch_size=6)
    sizes = [(training_batch_size(hp, 4), validation_batch_size(hp, 4)) for hp in (of_machine, of_gpu)]
    assert sizes == [(3, 3), (10, 6)]
