"""What the processes of ``test_launch.py`` do: ``together.py WHAT FOLDER``."""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tilewise.data.channel import DataSet
from tilewise.data.shard import Shard
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.inference.torch_backend import TorchBackend
from tilewise.models.build import build_detector
from tilewise.models.classifier import build_classifier
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.detector import Detector, Outputs
from tilewise.models.rpn import Sampler
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import counting_alone, mean_over_processes
from tilewise.platform import failure_sentence
from tilewise.targets import Targets
from tilewise.tasks.registry import make_task
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.batch_server import BatchClient, BatchServer
from tilewise.training.distributed.context import DistributedContext, connect_store, init_distributed
from tilewise.training.distributed.launch import die_with_parent, report_failure
from tilewise.training.job.context import JobContext
from tilewise.training.job.metric_lines import MetricLines
from tilewise.training.step.distillation import ChannelDistillation, Teacher
from tilewise.training.step.extra_losses import ExtraLoss
from tilewise.training.step.train_step import TrainStep
from tilewise.training.train import make_trainer
from tilewise.views.sample import Sample
from tilewise.views.view import CentreCrop, Scaling
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from squares import squares_split

FAMILIES = {
    "ssdlite_mobilenet_v3_large": Scaling(square=128),
    "yolox_nano": Scaling(square=128),
    "gfl_resnet18_fpn": Scaling(min_size=96, max_size=128),
    "retinanet_resnet50_fpn": Scaling(min_size=64, max_size=64),
    "fcos_resnet50_fpn": Scaling(min_size=64, max_size=64),
    "fasterrcnn_resnet18_fpn": Scaling(min_size=64, max_size=64),
}


class Weighted(ExtraLoss):
    """Half of the detector's losses once more; how much is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        images: Sequence[Tensor],
        outputs: Outputs,
        targets: Sequence[Targets[Tensor]],
        losses: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        return {"again": self.weight * torch.stack(list(losses.values())).sum()}


def make_learner(name: str, distributed: DistributedContext) -> TrainStep:
    """A detector that learns the same from a batch as from its two halves.

    Its normalisation layers stay as they are: their statistics are each process's own. And Faster R-CNN
    learns from all anchors and regions: it draws none at random.
    """
    scaling = FAMILIES[name]
    # in bfloat16 the sums of two halves differ from that of the whole
    given = {"model_name": name, "learning_rate_scheduler": "step", "precision": "fp32", "optimizer": "sgd"}
    hp = parse_hyperparameters(given)
    torch.manual_seed(0)
    spec = DetectorSpec(name, 2, scaling, None, 0.01, 0.5, 100)
    detector: Detector = build_detector(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.frozen_norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in detector.modules():
        sampler = getattr(module, "fg_bg_sampler", None)
        if isinstance(sampler, Sampler):
            sampler.batch_size_per_image = 1_000_000
    view_size = scaling.size_of(1, 1)
    extra: list[ExtraLoss] = [Weighted()]
    if name in ("yolox_nano", "gfl_resnet18_fpn"):
        other = copy.deepcopy(detector).eval().requires_grad_(requires_grad=False)
        for parameter in other.parameters():
            parameter.mul_(1.1)
        of = Teacher(other, ((0, 0), (1, 1)))
        extra.append(ChannelDistillation(detector, [of], maps="neck", view_size=view_size))
    return TrainStep(detector, hp, 10, view_size=view_size, distributed=distributed, extra_losses=extra)


def make_samples(name: str, objects: tuple[int, ...] = (3, 0, 1, 2)) -> list[Sample]:
    """A batch of four images with 3, 0, 1 and 2 objects."""
    width, height = FAMILIES[name].size_of(1, 1)
    generator = torch.Generator().manual_seed(1)
    samples = []
    for count in objects:
        corners = torch.rand(count, 2, generator=generator) * 0.5 * width
        boxes = torch.cat([corners, corners + 0.3 * width], dim=1)
        pixels = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        labels = torch.randint(2, (count,), generator=generator)
        samples.append(Sample(pixels, Targets(boxes, labels, torch.zeros(count, dtype=torch.bool))))
    return samples


def make_classifier(distributed: DistributedContext) -> TrainStep:
    """A classifier whose classes weigh differently; its normalisation stays as it is."""
    hp = parse_hyperparameters({"task": "classification", "model_name": "resnet18", "precision": "fp32"})
    torch.manual_seed(0)
    spec = ClassifierSpec("resnet18", 3, CentreCrop(square=64, resized=64), 64, class_weights=(1, 4, 2))
    model = build_classifier(spec)
    model.frozen_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return TrainStep(model, hp, 10, view_size=(64, 64), distributed=distributed)


def make_images() -> list[Sample]:
    """Four images of the classes 0, 1, 2 and 1."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for label in (0, 1, 2, 1):
        pixels = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=generator)
        whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
        samples.append(Sample(pixels, Targets(whole, torch.tensor([label]), torch.tensor([False]))))
    return samples


def classify(distributed: DistributedContext, folder: Path) -> None:
    """A step of a classifier on a process's half of a batch, and one where the other has no image."""
    torch.set_num_threads(1)
    train_step, samples = make_classifier(distributed), make_images()
    train_step.begin_epoch()
    train_step.learn(Batch.of(samples[distributed.rank :: distributed.size]))
    train_step.learn(Batch.of(samples[:3] if distributed.is_main_process else []))
    torch.save(weights(train_step), folder / f"classified-{distributed.rank}.pt")


def weights(train_step: TrainStep) -> dict[str, torch.Tensor]:
    """The parameters, those of the extra loss among them."""
    return {name: each.detach().clone() for name, each in train_step._learns.named_parameters()}


def learn(distributed: DistributedContext, folder: Path) -> None:
    """A step on a process's half of a batch: the weights, and the mean of the losses.

    One step on one thread, wherever it runs: sums are rounded otherwise with other threads, and a second
    step makes a hundred times as much of that in a ResNet whose normalisation is frozen as it was drawn.
    """
    torch.set_num_threads(1)
    found = {}
    for name in FAMILIES:
        train_step, samples = make_learner(name, distributed), make_samples(name)
        train_step.begin_epoch()
        losses = train_step.learn(Batch.of(samples[distributed.rank :: distributed.size]))
        total = sum(distributed.gather(float(sum(losses.values())))) / distributed.size
        found[name] = (weights(train_step), total)
    torch.save(found, folder / f"learnt-{distributed.rank}.pt")
    if distributed.size > 1:
        blank(distributed, folder)


def blank(distributed: DistributedContext, folder: Path) -> None:
    """Steps where a process has no image, or none with an object, and one with a loss that is not finite."""
    found = {}
    for name in FAMILIES:
        train_step, samples = make_learner(name, distributed), make_samples(name)
        train_step.begin_epoch()
        train_step.learn(Batch.of(samples[:2] if distributed.is_main_process else []))
        train_step.learn(Batch.of(make_samples(name, (0, 0)) if distributed.is_main_process else samples[:2]))
        train_step.learn(Batch.of([] if distributed.is_main_process else samples[2:]))
        before = weights(train_step)
        broken = train_step._learns.register_forward_hook(
            lambda module, inputs, losses: {key: value * torch.nan for key, value in losses.items()}
        )
        if not distributed.is_main_process:
            broken.remove()
        train_step.learn(Batch.of(samples[:2]))
        found[name] = (before, weights(train_step))
    torch.save(found, folder / f"blank-{distributed.rank}.pt")


def messages(distributed: DistributedContext, folder: Path) -> None:
    """All that a DistributedContext says."""
    assert distributed.any(distributed.rank == 1) and not distributed.any(False)
    assert distributed.all_reduce_max(10 + distributed.rank) == 11
    assert distributed.all_reduce_min(10 + distributed.rank) == 10
    assert distributed.gather(distributed.rank) == [0, 1]
    assert distributed.broadcast({"rank": distributed.rank}) == {"rank": 0}
    assert distributed.any_host(True) and distributed.host == 0 and distributed.hosts == 1
    assert mean_over_processes(torch.tensor(distributed.rank + 3)) == 3.5
    if distributed.is_main_process:  # the other does not answer
        with counting_alone():
            assert mean_over_processes(torch.tensor(3)) == 3
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(distributed.rank + 5)  # type: ignore[union-attr]
    distributed.broadcast_buffers(norm)
    assert norm.running_mean.tolist() == [5, 5]  # type: ignore[union-attr]
    assert distributed.folder is not None
    if distributed.is_main_process:
        batch_server = BatchServer(distributed.folder / "a.socket", distributed.size)
        batch_server.send(1, "batch")
        batch_server.close()
    else:
        try:
            BatchClient(distributed.folder / "a.socket", distributed.rank).receive()
        except UserError as error:
            (folder / "received").write_text(str(error))


def predictors(distributed: DistributedContext, folder: Path) -> None:
    """After an epoch, in which each has normalised by its own batches, all predict with the same model."""
    own = folder / f"{distributed.rank}"
    own.mkdir()
    train = squares_split(own, "train", 96, 8)
    shard = Shard(distributed.rank, distributed.size)
    given = {"use_pretrained_model": 0, "num_workers": 0, "training_batch_size": 2, "ema_decay": 0.9}
    hp = parse_hyperparameters({"model_name": "yolox_nano", "image_size": 96, "number_of_epochs": 1} | given)
    job = JobContext(hp, make_task(hp), MetricLines("algo-1", quiet=True), own, distributed=distributed)
    trainer = make_trainer(DataSet(("square",), replace(train, shard=shard), None), job)
    trainer.train_epoch(0)
    backend = trainer.false_positives.predictor().backend
    assert isinstance(backend, TorchBackend)
    everywhere = distributed.gather([each.clone() for each in backend.model.buffers()])
    assert all(torch.equal(here, first) for here, first in zip(everywhere[1], everywhere[0], strict=True))


def user_error(distributed: DistributedContext, folder: Path) -> None:
    """One process finds the data wanting; the others wait for it."""
    if distributed.rank == 1:
        raise UserError("image café.jpg is damaged")
    distributed.barrier()


def killed(distributed: DistributedContext, folder: Path) -> None:
    """One process is killed, as when memory is used up; the other waits, deaf and blind."""
    if distributed.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def terminated(distributed: DistributedContext, folder: Path) -> None:
    """All wait for SIGTERM."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (folder / f"ready-{distributed.rank}").touch()
    while not distributed.any(bool(asked)):
        time.sleep(0.05)
    (folder / f"stopped-{distributed.rank}").touch()


def main() -> int:
    """As ``train`` does, with another job."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    die_with_parent()
    torch.set_num_threads(1)
    distributed = init_distributed()
    try:
        globals()[what](distributed, folder)
        distributed.barrier()
    except BaseException as error:
        print(report_failure(connect_store(), failure_sentence(error)), file=sys.stderr)
        return 1
    distributed.destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
