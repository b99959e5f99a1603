from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import make_hp, make_job
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.training.distributed.context import DistributedContext
from tilewise.training.job import calibration
from tilewise.training.job.calibration import Setting, calibrate, race, timed
from tilewise.training.job.context import JobContext
from tilewise.training.step.train_step import TrainStep
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling

SPEC = DetectorSpec("yolox_nano", 1, Scaling(square=64), None, 0.1, 0.5, 100)
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores that has instructions for bfloat16, and a user who asks for nothing."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(calibration, "has_bf16_instructions", lambda: True)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def make_detector() -> Detector:
    torch.manual_seed(0)
    return build_detector(SPEC)


def images(count: int = 1000) -> Split:
    corners = np.array([[5, 5, 20, 20]], np.float32)
    labels, ignored = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    records = Records(
        [Record(f"{n}", Path(f"{n}"), 100, 80, Targets(corners, labels, ignored)) for n in range(count)]
    )
    return Split(records, ChannelIssues("train"))


class Machine:
    """Needs so many seconds for a view of 64 px, by precision and threads."""

    def __init__(self, seconds: dict[tuple[str, int], float]):
        self.seconds, self.tried = seconds, list[Setting]()

    def __call__(self, step: TrainStep, batch: list[Sample]) -> float:
        setting = Setting(NAMES[step.precision.dtype], torch.get_num_threads())
        if setting not in self.tried:
            self.tried.append(setting)
        height, width = batch[0].pixels.shape[1:]
        return self.seconds[setting] * len(batch) * height * width / 64**2


def job_of(**given: object) -> JobContext:
    return make_job(make_hp(model_name="yolox_nano", image_size=64, **given), Path("model"))


FAST_IN_FP32 = {("fp32", 4): 0.1, ("bf16", 4): 0.2, ("fp32", 2): 0.15, ("fp32", 1): 0.3}
BUSY = {("fp32", 4): 0.9, ("fp32", 1): 0.4, ("bf16", 4): 0.6, ("bf16", 2): 0.3, ("bf16", 1): 0.2}


@pytest.mark.parametrize(
    ("seconds", "chosen", "tried"),
    [
        (FAST_IN_FP32, ("fp32", 4), [("fp32", 4), ("bf16", 4), ("fp32", 2)]),
        (BUSY, ("bf16", 1), [("fp32", 4), ("bf16", 4), ("bf16", 2), ("bf16", 1)]),
        # what is hardly faster does not take fewer threads
        (FAST_IN_FP32 | {("fp32", 2): 0.099}, ("fp32", 4), [("fp32", 4), ("bf16", 4), ("fp32", 2)]),
    ],
)
def test_calibrate__takes_the_fastest_and_says_what_was_tried(
    seconds: dict[tuple[str, int], float],
    chosen: tuple[str, int],
    tried: list[tuple[str, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(seconds)
    job = replace(job_of(), environment={"threads": 4})
    job, compute = calibrate(job, make_detector(), SPEC, train=images(), timer=machine)
    assert (job.hp.precision, compute.threads, torch.get_num_threads()) == (*chosen, chosen[1])
    assert job.environment["threads"] == chosen[1]
    one_thread = Setting("fp32", 1)  # only to see how much a step can hold
    assert [setting for setting in machine.tried if setting != one_thread] == tried
    assert compute.pixels_per_second == pytest.approx(64 * 64 / seconds[chosen])
    assert all(f"{Setting(*each)} {1 / seconds[each]:.1f} images/s" in caplog.text for each in tried)
    assert f"training in {Setting(*chosen)}" in caplog.text


def test_calibrate__leaves_detector_and_random_numbers_as_they_are() -> None:
    detector = make_detector()
    before = copy.deepcopy(detector.state_dict())
    state = torch.get_rng_state()
    calibrate(job_of(), detector, SPEC, train=images())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "count"), [({"deterministic": 1}, 1000), ({"number_of_epochs": 2}, 300), ({}, 20)]
)
def test_calibrate__nothing_is_tried_where_it_may_not_or_does_not_pay(
    given: dict[str, object], count: int
) -> None:
    machine = Machine({})
    job, compute = calibrate(job_of(**given), make_detector(), SPEC, train=images(count), timer=machine)
    assert not machine.tried
    assert (job.hp.precision, compute.threads) == ("auto", 4)


def test_calibrate__a_resumed_job_keeps_what_it_had() -> None:
    machine = Machine({})
    _, compute = calibrate(job_of(), make_detector(), SPEC, train=images(), resumed=True, timer=machine)
    compute.load_state_dict({"threads": 2})
    assert not machine.tried
    assert (compute.threads, torch.get_num_threads()) == (2, 2)
    compute.load_state_dict({"threads": 16})  # of a larger machine
    assert compute.threads == 2


def test_calibrate__what_the_user_chose_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    machine = Machine(BUSY)
    job, compute = calibrate(job_of(), make_detector(), SPEC, train=images(), timer=machine)
    assert machine.tried == [("fp32", 4), ("bf16", 4)]
    assert (job.hp.precision, compute.threads) == ("bf16", 4)
    machine = Machine({})
    job, _ = calibrate(job_of(precision="fp32"), make_detector(), SPEC, train=images(), timer=machine)
    assert not machine.tried and job.hp.precision == "fp32"
    compute.load_state_dict({"threads": 1})
    assert torch.get_num_threads() == 4


class Follower(DistributedContext):
    """A process whose leader has chosen otherwise."""

    def broadcast(self, value: object) -> object:  # type: ignore[override]
        return Setting("bf16", 2), 123.0


def test_calibrate__the_leader_decides() -> None:
    job = replace(job_of(), distributed=Follower())
    job, compute = calibrate(job, make_detector(), SPEC, train=images(), timer=Machine(FAST_IN_FP32))
    assert (job.hp.precision, compute.threads, compute.pixels_per_second) == ("bf16", 2, 123.0)


class Disturbed:
    """Steps that vary by some percent; one in six or so takes up to three times as long."""

    def __init__(self, seconds: dict[Setting, float], seed: int):
        self.seconds, self.random = seconds, np.random.default_rng(seed)
        self.left, self.total = 0, 0.0

    def __call__(self, setting: Setting) -> float:
        if not self.left and self.random.random() < 0.1:
            self.left = int(self.random.integers(1, 4))
        slower = self.random.uniform(1.2, 3) if self.left else 1.0
        self.left = max(0, self.left - 1)
        seconds = float(self.seconds[setting] * self.random.normal(1, 0.03) * slower)
        self.total += seconds
        return seconds


TWO, ONE = Setting("fp32", 2), Setting("fp32", 1)


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        ({TWO: 0.4, ONE: 0.65}, 8),  # as of FCOS on two quiet cores
        ({TWO: 0.6, ONE: 0.4}, 8),  # beside a process that keeps a core busy
        ({TWO: 5.0, ONE: 0.5}, 40),  # beside several
    ],
)
def test_race__single_slow_steps_do_not_decide(seconds: dict[Setting, float], most: float) -> None:
    """Nearly always the faster one wins, and its time is known within a fifth."""
    right, near, seeds = 0, 0, 400
    best = min(seconds, key=lambda setting: seconds[setting])
    for seed in range(seeds):
        disturbed = Disturbed(seconds, seed)
        found = race([TWO, ONE], disturbed)
        right += min(found, key=lambda setting: found[setting]) == best
        near += abs(found[best] / seconds[best] - 1) < 0.2
        assert disturbed.total < most * 1.5
    assert right >= 0.97 * seeds
    assert near >= 0.9 * seeds


def test_race__takes_turns_and_leaves_the_first_step_out() -> None:
    took = iter([3.0, 3.0, 1.0, 2.0, 2.2, 1.2, 1.1, 2.1])
    tried = []

    def seconds(setting: Setting) -> float:
        tried.append(setting)
        return next(took)

    assert race([TWO, ONE], seconds) == {TWO: 1.0, ONE: 2.0}
    assert tried == [ONE, TWO, TWO, ONE, ONE, TWO, TWO, ONE]


def test_calibrate__slow_steps_have_fewer_and_smaller_views() -> None:
    """A step of ten seconds is tried with less: all trials together are to take some seconds."""
    sizes = []

    def slow(step: TrainStep, batch: list[Sample]) -> float:
        height, width = batch[0].pixels.shape[1:]
        sizes.append((len(batch), height * width))
        return 10.0 * len(batch) * height * width / 64**2

    calibrate(job_of(training_batch_size=8), make_detector(), SPEC, train=images(), timer=slow)
    assert sizes[0] == (1, 64 * 64)
    assert {count for count, _ in sizes} == {1}
    assert sizes[-1][1] <= 64 * 64 / 4


def test_calibrate__smaller_views_are_such_as_the_model_can_take() -> None:
    """SSD300's last maps would be smaller than the windows of their convolutions."""
    spec = DetectorSpec("ssd_vgg16", 1, Scaling(square=300), None, 0.1, 0.5, 100)
    sizes = set()

    def slow(step: TrainStep, batch: list[Sample]) -> float:
        height, width = batch[0].pixels.shape[1:]
        if (height, width) not in sizes:
            timed(step, batch)
        sizes.add((height, width))
        return 10.0

    job = make_job(make_hp(model_name="ssd_vgg16", image_size=300), Path("model"))
    calibrate(job, build_detector(spec), spec, train=images(), timer=slow)
    assert sizes == {(300, 300), (288, 288)}


class Agreeing(DistributedContext):
    """Another process has more steps to train; all wait for the leader's choice."""

    def any(self, flag: bool, /) -> bool:
        return True


def test_calibrate__all_processes_try_where_one_does() -> None:
    """Else those that try would wait for ever for those that do not."""
    machine = Machine(FAST_IN_FP32)
    calibrate(
        replace(job_of(), distributed=Agreeing()), make_detector(), SPEC, train=images(20), timer=machine
    )
    assert machine.tried


def test_calibrate__what_does_not_shrink_with_the_view_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """As the regions of a second stage: they cost the same in a view of 32 px and of 64."""
    caplog.set_level(logging.INFO)
    seconds = {("fp32", 4): 4.0, ("bf16", 4): 2.0, ("bf16", 2): 9.0, ("fp32", 1): 9.0}

    def machine(step: TrainStep, batch: list[Sample]) -> float:
        setting = NAMES[step.precision.dtype], torch.get_num_threads()
        return seconds[setting] * len(batch)

    _, compute = calibrate(job_of(), make_detector(), SPEC, train=images(), timer=machine)
    assert compute.pixels_per_second == pytest.approx(64 * 64 / 2)
    assert "fp32 on 4 threads 0.25 images/s, bf16 on 4 threads 0.5 images/s" in caplog.text
