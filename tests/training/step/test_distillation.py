from __future__ import annotations

import copy
import math
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import saved
from squares import squares_split
from stand_ins import make_hp, make_job
from tilewise.commands.job_channels import teachers
from tilewise.data.channel import DataSet
from tilewise.errors import UserError
from tilewise.inference.artifact import Artifact
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.platform import JobChannel
from tilewise.stop import StopWhen
from tilewise.targets import Targets
from tilewise.tasks.registry import make_task
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.dataloading.batch import Batch
from tilewise.training.job.teachers import make_distillation, read_teachers
from tilewise.training.step.distillation import ChannelDistillation, Maps, Teacher, channel_divergence
from tilewise.training.step.train_step import TrainStep, blank_sample
from tilewise.training.train import Start, train
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor

SIDE = 64


def detector(name: str, classes: int = 2, seed: int = 0) -> Detector:
    square = name.startswith(("ssd", "yolox"))
    scaling = Scaling(square=SIDE) if square else Scaling(min_size=SIDE, max_size=SIDE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: Detector = build_detector(DetectorSpec(name, classes, scaling, None, 0.01, 0.5, 10))
    return built


def teacher(name: str, classes: Sequence[tuple[int, int]] = ((0, 0), (1, 1))) -> Teacher:
    return Teacher(detector(name, seed=1).eval().requires_grad_(requires_grad=False), classes)


def distillation(student: Detector, *of: Teacher, maps: Maps = "neck") -> ChannelDistillation:
    return ChannelDistillation(student, of, maps=maps, view_size=(SIDE, SIDE))


def views(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator) for _ in range(count)]


def loss_of(extra: ChannelDistillation, student: Detector) -> Tensor:
    images = views()
    blank = [blank_sample(SIDE, SIDE).targets] * len(images)
    outputs, losses = student.train().outputs_and_losses(images, blank)
    loss: Tensor = extra(images, outputs, blank, losses)["distillation"]
    return loss


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence__by_hand(temperature: float) -> None:
    """Of two channels of two places, one of them alike."""
    student = torch.tensor([[[[0.0, 0.0]], [[1.0, 2.0]]]])
    taught = torch.tensor([[[[math.log(3), 0.0]], [[1.0, 2.0]]]])
    odds = 3 ** (1 / temperature)
    p, q = odds / (odds + 1), 1 / (odds + 1)
    by_hand = temperature**2 * (p * math.log(p / 0.5) + q * math.log(q / 0.5)) / 2
    assert channel_divergence(student, taught, temperature).item() == pytest.approx(by_hand, rel=1e-5)
    if temperature == 1:
        assert by_hand == pytest.approx(0.130812 / 2, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert channel_divergence(student, taught, temperature).dtype == torch.float32


PAIRS = [
    ("yolox_nano", "yolox_tiny", (8, 16, 32)),
    ("ssdlite_mobilenet_v3_large", "yolox_nano", (16, 32)),
    ("gfl_resnet18_fpn", "gfl_resnet34_fpn", (8, 16, 32, 64)),
    ("gfl_resnet18_fpn", "fcos_resnet50_fpn", (8, 16, 32, 64)),
    ("yolox_nano", "fasterrcnn_mobilenet_v3_large_fpn", (32,)),
    ("fasterrcnn_resnet18_fpn", "gfl_resnet18_fpn", (8, 16, 32, 64)),
]


@pytest.mark.parametrize(("student_name", "teacher_name", "strides"), PAIRS)
def test_neck__across_families_the_student_alone_learns(
    student_name: str, teacher_name: str, strides: tuple[int, ...]
) -> None:
    student, of = detector(student_name), teacher(teacher_name)
    before = copy.deepcopy(of.model.state_dict())
    extra = distillation(student, of)
    assert {*strides} <= {*extra.strides[0]}
    loss = loss_of(extra, student)
    loss.backward()
    assert loss.item() > 0 and loss.dtype == torch.float32
    backbone = [each.grad for name, each in student.named_parameters() if "backbone" in name]
    assert any(grad is not None and grad.abs().max() > 0 for grad in backbone)
    assert all(each.grad is not None for each in extra.parameters())
    assert all(each.grad is None for each in of.model.parameters()) and not of.model.training
    assert all(torch.equal(before[name], each) for name, each in of.model.state_dict().items())
    # it is no part of what an optimizer or a checkpoint has
    assert {name.split(".")[0] for name in extra.state_dict()} <= {"adapters", "number_of_teachers"}


@pytest.mark.parametrize(
    ("student_name", "teacher_name"),
    [
        ("yolox_nano", "yolox_tiny"),
        ("gfl_resnet18_fpn", "retinanet_resnet50_fpn"),
        ("ssdlite_mobilenet_v3_large", "yolox_nano"),
    ],
)
def test_logits__classes_are_those_of_the_same_name(student_name: str, teacher_name: str) -> None:
    student = detector(student_name)
    assert loss_of(distillation(student, teacher(teacher_name), maps="logits"), student).item() > 0
    images, twin = views(), copy.deepcopy(student).eval()
    outputs = twin.outputs(twin.transform(images))
    for pairs, alike in ((((0, 0), (1, 1)), True), (((0, 1), (1, 0)), False)):
        extra = distillation(student, Teacher(twin, pairs), maps="logits")
        loss = extra(images, outputs, [], {})["distillation"].item()
        assert (loss == pytest.approx(0, abs=1e-9)) == alike


def test_ensemble__is_the_mean_of_its_teachers() -> None:
    student, first, second = detector("yolox_nano"), teacher("yolox_nano"), teacher("yolox_tiny")
    both = distillation(student, first, second, maps="logits")
    singles = [distillation(student, each, maps="logits") for each in (first, second)]
    losses = [loss_of(each, copy.deepcopy(student)).item() for each in (*singles, both)]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_trial__copies_what_is_learnt_but_no_teacher() -> None:
    student, of = detector("yolox_nano"), teacher("yolox_tiny")
    extra = distillation(student, of)
    other = copy.deepcopy(extra)
    assert other._teachers[0] is of and other.adapters["0_8"] is not extra.adapters["0_8"]


def test_yolox__learns_from_a_teacher_without_collapsing() -> None:
    """The divergence falls, and so do the student's own losses, side by side."""
    chosen = {"optimizer": "adam", "learning_rate": 0.003, "learning_rate_scheduler": "step"}
    hp = make_hp(model_name="yolox_nano", image_size=SIDE, **chosen)
    student = detector("yolox_nano")
    extra = distillation(student, teacher("yolox_tiny"))
    step = TrainStep(student, hp, 1000, view_size=(SIDE, SIDE), extra_losses=[extra])
    step.begin_epoch()
    boxes = torch.tensor([[8.0, 8, 40, 40]])
    targets = Targets(boxes, torch.tensor([1]), torch.zeros(1, dtype=torch.bool))
    batch = Batch.of([Sample(pixels, targets) for pixels in views()])
    losses = [{name: float(loss) for name, loss in step.learn(batch).items()} for _ in range(40)]
    assert losses[-1]["distillation"] < 0.5 * losses[0]["distillation"]
    own = [sum(each.values()) - each["distillation"] for each in losses]
    assert own[-1] < 0.8 * own[0]


# as a job


def archive(folder: Path, at: Path) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(at, "w:gz") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    return at


def test_channel__one_or_several_models(model_folder: Path, tmp_path: Path) -> None:
    archive(model_folder, tmp_path / "one" / "model.tar.gz")
    archive(model_folder, tmp_path / "two" / "model.tar.gz")
    assert [each.spec.name for each in read_teachers(tmp_path)] == ["ssdlite_mobilenet_v3_large"] * 2
    shutil.copytree(model_folder, tmp_path / "unpacked" / "a")
    assert [each.classes for each in read_teachers(tmp_path / "unpacked")] == [("ant", "bee")]


def test_channel__what_is_wrong_with_it(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"channel teacher holds no model of Tilewise \(notes.txt\)"):
        read_teachers(tmp_path)
    with pytest.raises(UserError, match="distillation_weight says how to learn from a teacher, and there is"):
        teachers({}, make_hp(distillation_weight=2))
    with pytest.raises(UserError, match="channel teacher: a model is a file"):
        teachers({"teacher": JobChannel("teacher", tmp_path, input_mode="Pipe")}, make_hp())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x-symbol.json").write_text("{}")
    archive(tmp_path / "other", tmp_path / "mx" / "model.tar.gz")
    with pytest.raises(UserError, match=r"teacher: model.tar.gz is a model of the built-in algorithm"):
        read_teachers(tmp_path / "mx")


def test_teacher__of_other_classes_task_or_family(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of, student = Artifact.load(model_folder), detector("gfl_resnet18_fpn")
    scaling = Scaling(min_size=SIDE, max_size=SIDE)
    spec = replace(of.spec, name="gfl_resnet18_fpn", scaling=scaling)

    def learn_from(by: Artifact, *classes: str, **more: object) -> list[ChannelDistillation]:
        hp = make_hp(**more)
        return make_distillation(hp, make_task(hp), student, spec=spec, classes=classes, teachers=[by])

    with pytest.raises(UserError, match=r"model 1 \(ssdlite.*\) knows none of the classes of this job \(cat"):
        learn_from(of, "cat")
    (extra,) = learn_from(of, "cat", "bee")
    assert extra._teachers[0].classes == [(1, 1)] and "does not know cat" in caplog.text
    with pytest.raises(UserError, match="this job has task detection, but that model other"):
        learn_from(replace(of, task="other"), "ant")
    rcnn = "fasterrcnn_resnet18_fpn"
    two_stages = replace(of, model=detector(rcnn), spec=replace(spec, name=rcnn))
    with pytest.raises(UserError, match=r"no map of class logits in common: .* distillation_maps=neck"):
        learn_from(two_stages, "ant", distillation_maps="logits")


EVERYTHING: dict[str, object] = {
    "copy_paste": 1,
    "copy_paste_source": "any",
    "copy_paste_times": 2,
    "multi_scale": "1,1.5",
    "tile_grid_size": "2x1",
    "orientation": "any",
    "rotation": 10,
    "degradation": 0.3,
    "mosaic": 0.5,
    "mixup": 0.5,
    "plain_epochs": 1,
    "stride_4_level": 1,
    "small_object_loss_factor": 1.5,
    "size_loss_exponent": 0.25,
    "backbone_learning_rate_factor": 0.5,
    "warmup_steps": 3,
}


@pytest.mark.parametrize(
    "given",
    [
        {"copy_paste": 1},
        {**EVERYTHING, "ema_decay": 0.99},
        {**EVERYTHING, "training_batch_size": "auto"},
    ],
    ids=["copy_paste", "everything", "auto"],
)
def test_job__ends_as_one_that_was_not_interrupted(
    given: dict[str, object], model_folder: Path, tmp_path: Path
) -> None:
    """With a teacher, its adapters and pasted objects; the model holds nothing of the teacher."""
    images = squares_split(tmp_path, "train", SIDE, 8)
    data = DataSet(("ant",), images, squares_split(tmp_path, "validation", SIDE, 2, seed=1))
    hp = make_hp(
        **{"model_name": "yolox_nano", "image_size": SIDE, "number_of_epochs": 2, "evaluation_frequency": 2},
        **given,
    )
    start = Start(teachers=[Artifact.load(model_folder)])
    for name in ("whole", "first", "second", "checkpoints"):
        (tmp_path / name).mkdir()
    expected = train(data, make_job(hp, tmp_path / "whole"), start)
    asked: list[int] = []

    def stops() -> bool:
        asked.append(1)
        return len(asked) > 3

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    job = make_job(hp, tmp_path / "first", stop=StopWhen(stops), checkpoint_dir=tmp_path / "checkpoints")
    assert train(data, job, replace(start, checkpoints=checkpoints)).stopped
    job = make_job(hp, tmp_path / "second", checkpoint_dir=tmp_path / "checkpoints")
    with pytest.raises(UserError, match="give the channel teacher as it was"):
        train(data, job, Start(checkpoints=checkpoints, state=checkpoints.newest()))
    trained = train(data, job, replace(start, checkpoints=checkpoints, state=checkpoints.newest()))
    assert [each["losses"] for each in trained.epochs] == [each["losses"] for each in expected.epochs]
    assert all("distillation" in each["losses"] for each in trained.epochs)
    ones, others = saved(tmp_path / "whole"), saved(tmp_path / "second")
    own = build_detector(Artifact.load(tmp_path / "whole").spec).network.state_dict()
    assert ones.keys() == others.keys() == own.keys()
    assert all(torch.equal(ones[name], others[name]) for name in ones)
