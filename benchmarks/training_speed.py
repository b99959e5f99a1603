"""`train`'s own loop on a data set, a few batches at a time, and the bare step beside it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from runs import read_training_images  # noqa: E402
from tilewise.data.channel import DataSet, Split  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.inference.device import tune_device  # noqa: E402
from tilewise.stop import StopWhen  # noqa: E402
from tilewise.tasks.registry import make_task  # noqa: E402
from tilewise.training.dataloading.batch import Batch  # noqa: E402
from tilewise.training.job.context import JobContext  # noqa: E402
from tilewise.training.job.cpu import tune_cpu  # noqa: E402
from tilewise.training.job.metric_lines import MetricLines  # noqa: E402
from tilewise.training.train import make_trainer  # noqa: E402


def read_data(folder: Path) -> DataSet:
    """The training images of ``folder/train.json`` (COCO) in ``folder/images``."""
    records = read_training_images(folder)
    count = 1 + max(int(record.targets.labels.max(initial=0)) for record in records)
    return DataSet(
        tuple(f"class {label}" for label in range(count)), Split(records, ChannelIssues("train")), None
    )


class TrainSpeed:
    """A training job without its beginning and its end.

    Args:
        data: to train on.
        raw: the job's hyperparameters.

    """

    def __init__(self, data: DataSet, raw: dict[str, Any]):
        hp = parse_hyperparameters({"use_pretrained_model": 0, "number_of_epochs": 1000} | raw)
        threads = torch.get_num_threads()
        self._left = iter(range(0))
        job = JobContext(
            hp,
            make_task(hp),
            MetricLines("benchmark"),
            Path(tempfile.gettempdir()),
            stop=StopWhen(lambda: next(self._left, None) is None),
        )
        self.trainer = make_trainer(data, job)
        torch.set_num_threads(threads)
        self.train_step = self.trainer.train_step
        self.device, self.hp, self.detector = self.train_step.device, hp, self.train_step.model
        for _ in self.trainer.loader.batches(0):
            pass  # the first epoch is another one: images that stay decoded are decoded there
        self._learnt: list[Batch] = []
        self._learn = self.train_step.learn
        self.train_step.learn = self._keep_and_learn  # type: ignore[method-assign]

    @property
    def pixels(self) -> float:
        """Of a view, on average over the batches that :meth:`loop` learnt from last."""
        return sum(batch.area for batch in self._learnt) / sum(map(len, self._learnt))

    def _keep_and_learn(self, batch: Batch) -> dict[str, torch.Tensor]:
        self._learnt.append(batch)
        return self._learn(batch)

    def loop(self, batches: int) -> tuple[int, float]:
        """Images and seconds of so many batches of `train`'s loop, loading and losses' means included."""
        self._learnt = []
        self._left = iter(range(batches - 1))
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            self.trainer.progress.next_epoch()
            facts = self.trainer.train_epoch(self.trainer.progress.epoch)
        return int(facts["records"]), time.perf_counter() - start

    def bare(self, batches: int) -> tuple[int, float]:
        """The same of forward, backward and the optimizer alone, on tensors that are there.

        They are those that :meth:`loop`, which comes first, learnt from last: others have other sizes.
        """
        train_step, images = self.train_step, 0
        ready = [batch.samples(self.device) for batch in self._learnt]
        dtype = train_step.precision.dtype
        self.detector.train()
        wait(self.device)
        start = time.perf_counter()
        for samples in islice(cycle(ready), batches):
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                losses = self.detector([each.pixels for each in samples], [each.targets for each in samples])
            assert isinstance(losses, dict)
            torch.stack(list(losses.values())).sum().backward()
            train_step.optimizer.step()
            train_step.optimizer.zero_grad()
            images += len(samples)
        wait(self.device)
        return images, time.perf_counter() - start


def prepare(threads: int | None) -> None:
    """The settings of `train`, on so many threads of the CPU; None for as many as it takes itself."""
    tune_device()
    tune_cpu()
    if threads:
        torch.set_num_threads(threads)


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def device_name() -> str:
    """The GPU, or the CPU's threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return "1 thread" if threads == 1 else f"{threads} threads"
