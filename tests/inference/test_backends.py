"""The figures of a validation are those of the endpoint, whatever runs the model."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_detectors import MODELS, make_detector, spread_outputs
from PIL import Image
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation.evaluate import metrics
from tilewise.inference.backend import Backend
from tilewise.inference.detections import Prediction, merge_instances
from tilewise.inference.export import trace, write_onnx
from tilewise.inference.graph import INPUT, OUTPUTS
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.inference.view_plan import ViewPlan
from tilewise.instances import Instances
from tilewise.models.spec import DetectorSpec
from tilewise.suppression import Limits
from tilewise.targets import Targets

CLASSES = ("ant", "bee", "cat")


class OpenVinoBackend(OnnxBackend):
    """The graph in OpenVINO."""

    def __init__(self, path: Path, limits: Limits) -> None:
        openvino = pytest.importorskip("openvino")
        self.limits = limits
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled: Any = openvino.Core().compile_model(path, "CPU", settings)

    def candidates(self, view: Array) -> Any:
        found = self._compiled({INPUT: np.ascontiguousarray(np.moveaxis(view, 0, 2))})
        return tuple(found[name] for name in OUTPUTS)


def photographs() -> list[bytes]:
    """Wide, high and small ones."""
    images = []
    for seed, size in enumerate(((320, 240), (150, 400), (90, 60), (200, 200))):
        patches = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(patches).resize(size).save(stream, "PNG")
        images.append(stream.getvalue())
    return images


def ground_truth(found: Prediction, seed: int) -> Record:
    """Every third of the objects that were found, a little moved, so that figures are between 0 and 1."""
    some = found.detections.select(np.arange(0, min(len(found.detections), 60), 3))
    sides = some.boxes[:, 2:] - some.boxes[:, :2]
    moves = np.random.default_rng(seed).uniform(-0.12, 0.12, (len(some), 2)) * sides
    boxes = (some.boxes + np.tile(moves, 2)).astype(np.float32)
    targets = Targets(boxes, some.labels, np.zeros(len(some), bool))
    return Record(f"{seed}.png", Path(f"{seed}.png"), found.width, found.height, targets)


def equal_pairs(expected: Instances, served: Instances) -> Array:
    """Which detections both have, (n, 2): of one class, with one box and one score."""
    equal = np.abs(expected.boxes[:, None] - served.boxes).max(axis=2) < 0.05
    equal &= np.abs(expected.scores[:, None] - served.scores) < 1e-4
    return np.argwhere(equal & (expected.labels[:, None] == served.labels))


def predictor(backend: Backend, spec: DetectorSpec) -> Predictor:
    plan = ViewPlan(spec.scaling, spec.tiling)
    return Predictor(backend, plan, CLASSES, merge=partial(merge_instances, limit=None))


@pytest.mark.parametrize("runtime", ["frozen", "onnx", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_figures__are_those_of_eager_pytorch(name: str, runtime: str, tmp_path: Path) -> None:
    detector, spec = make_detector(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spread_outputs(detector, spec)
    limits = spec.limits()
    write_onnx(detector, spec.scaling, tmp_path / "graph.onnx")
    if runtime == "frozen":
        backend: Backend = TorchBackend(detector, graph=trace(detector, spec.scaling))
    elif runtime == "onnx":
        backend = OnnxBackend(tmp_path / "graph.onnx", limits, threads=1)
    else:
        backend = OpenVinoBackend(tmp_path / "graph.onnx", limits)
    eager, other = predictor(TorchBackend(detector), spec), predictor(backend, spec)
    images = photographs()
    expected = [eager.predict(image) for image in images]
    served = [other.predict(image).detections for image in images]
    # boxes that overlap just enough to be one object may be two elsewhere
    found = sum(len(each.detections) for each in expected)
    both = sum(
        len(equal_pairs(each.detections, others)) for each, others in zip(expected, served, strict=True)
    )
    assert both >= 0.97 * found > 20
    records = Records(ground_truth(each, seed) for seed, each in enumerate(expected))
    figures = metrics(records, [each.detections for each in expected], CLASSES)
    assert 0.05 < figures["AP"] < 0.95, "figures of nothing say nothing"
    served_figures = metrics(records, served, CLASSES)
    for figure in ("AP", "AP50", "AR"):
        assert served_figures[figure] == pytest.approx(figures[figure], abs=0.01)
    assert served_figures["VOC"]["mAP"] == pytest.approx(figures["VOC"]["mAP"], abs=0.01)


@pytest.mark.parametrize("content", [b"no graph", b""])
def test_onnx_backend__a_damaged_graph(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"the graph .*model.onnx is damaged: .* unpack the archive again"):
        OnnxBackend(tmp_path / "model.onnx", None)
