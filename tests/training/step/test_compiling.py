from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_instances import make_instances
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.instances import Instances
from tilewise.models.detector import Detector
from tilewise.targets import Targets
from tilewise.tasks.detection.task import DetectionTask
from tilewise.training.dataloading.batch import Batch
from tilewise.training.job.batch_size import synthetic_batch
from tilewise.training.step import compiling
from tilewise.training.step.compiling import compile_convolutions
from tilewise.training.step.train_step import TrainStep
from torch import Tensor, nn

BATCH = synthetic_batch(2, (16, 16), partial(DetectionTask().synthetic_targets, 3))
# PyTorch's own compiler looks at gradients in a way that its tensors warn of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


class Small(Detector):
    """A backbone and a head, as the models have them."""

    def __init__(self) -> None:
        super().__init__(nn.Module(), *3 * [nn.Identity()])
        self.network.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.network.head = nn.Conv2d(4, 2, 1)

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        found = self.network.head(self.network.backbone(torch.stack(list(images)).float() / 255))  # type: ignore[operator]
        if self.training:
            return {"classification": (found - 1).square().mean()}
        return [make_instances(2 * [*each.mean((1, 2))], [1], [1]) for each in found]


def make_detector() -> Detector:
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def _compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backends of these tests need none."""
    monkeypatch.setattr(compiling, "_require_compiler", lambda device: None)


def compiled_calls() -> int:
    return int(torch._dynamo.utils.counters["stats"]["calls_captured"])


@pytest.mark.usefixtures("_compiler")
def test_compiled__learns_as_it_does_plain_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    results = []
    for compiled in (0, 1):
        hp = parse_hyperparameters(
            {"model_name": "yolox_nano", "compile": compiled, "precision": "fp32", "learning_rate": 1e-2}
        )
        train_step = TrainStep(make_detector(), hp, 3, view_size=(4, 4))
        train_step.begin_epoch()
        losses = [train_step.learn(Batch.of(BATCH)) for _ in range(3)]
        results.append((losses, dict(train_step.model.state_dict()), dict(train_step.evaluated.state_dict())))
    assert list(results[0][1]) == list(results[1][1]) == list(results[1][2])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.usefixtures("_compiler")
def test_compiled__evaluates_what_an_endpoint_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    detector, plain = make_detector(), make_detector()
    compile_convolutions(detector)
    before = compiled_calls()
    with torch.inference_mode():
        found = detector.eval().detect([BATCH[0].pixels])[0]
        expected = plain.eval().detect([BATCH[0].pixels])[0]
    assert np.array_equal(found.boxes, expected.boxes)
    assert compiled_calls() == before
    detector.train()([sample.pixels for sample in BATCH], BATCH)
    assert compiled_calls() > before


def test_compile__without_a_compiler_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"compile=1 needs a C\+\+ compiler.*, not installed here"):
        compile_convolutions(make_detector())


def test_compile__without_pythons_headers_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda name: f"{tmp_path / name}")
    with pytest.raises(UserError, match=r"compile=1 needs Python's headers \(Python\.h\).*, not installed"):
        compile_convolutions(make_detector())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model_name": "retinanet_resnet50_fpn"},
            "compile=1: retinanet_resnet50_fpn takes views of many sizes",
        ),
        ({"model_name": "yolox_s", "multi_scale": "1"}, "compile=1: multi_scale=1 has views of many sizes"),
    ],
)
def test_compile__of_views_of_many_sizes_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_hyperparameters({"compile": "1"} | given)
