from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tilewise.data.decoding.decode import DecodedImage
from tilewise.inference.artifact import Artifact
from tilewise.inference.detections import merge_instances
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.package import write_package
from tilewise.inference.predictor import Predictor
from tilewise.inference.view_plan import ViewPlan
from tilewise.tiling.spec import Level, Tiling

TILINGS = [
    Tiling(),
    Tiling("grid", grid=(3, 2), overlap=0.2, whole_from=40.0),
    Tiling("fixed", tile_size=100, merge="nms", merge_threshold=0.4),
    Tiling("fixed", tile_size=300, merge="wbf"),  # larger than the image is high
    # 134 x 100 px: scaling 128 px to 320 gives halves, which each processor's sums round as they like
    Tiling("pyramid", levels=(Level(1.0, 30.0), Level(2.4, 0.0, 60.0)), merge="wbf", merge_threshold=0.3),
]


def photograph(width: int, height: int) -> Any:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height)))


def load_example(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("detect", folder / "detect.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model(folder)


@pytest.mark.parametrize("tiling", TILINGS, ids=lambda tiling: f"{tiling.kind}-{tiling.merge}")
def test_example__finds_what_the_endpoint_finds(model_folder: Path, tmp_path: Path, tiling: Tiling) -> None:
    """With NumPy and ONNX Runtime alone, from the exported folder alone."""
    artifact = Artifact.load(model_folder)
    most = 40 if tiling.kind == "grid" else None
    spec = replace(artifact.spec, tiling=tiling, score_threshold=0.3, detections_per_image=most)
    artifact = replace(artifact, spec=spec)
    write_package(artifact, "onnx", tmp_path)
    names = ["detect.py", "facts.json", "labels.json", "model.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "labels.json").read_text()) == ["ant", "bee"]
    image = photograph(320, 240)
    backend = OnnxBackend(tmp_path / "model.onnx", artifact.spec.limits(), threads=1)
    predictor = Predictor(
        backend, ViewPlan(spec.scaling, tiling), artifact.classes, merge=partial(merge_instances, limit=most)
    )
    expected = next(predictor.predict_all([DecodedImage.whole(image.transpose(2, 0, 1))])).detections
    boxes, scores, labels = load_example(tmp_path).detect(image)
    assert len(expected) > 10 and labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*is deprecated:DeprecationWarning")
def test_torchscript__reads_without_tilewise(model_folder: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(model_folder)
    write_package(artifact, "torchscript", tmp_path)
    view = torch.from_numpy(photograph(320, 320).copy())
    with torch.inference_mode():
        boxes, scores, labels = torch.jit.load(tmp_path / "model.pt")(view)
        expected = artifact.model.candidates([view.permute(2, 0, 1)])
    assert boxes.shape == (len(labels), 4)
    torch.testing.assert_close(scores.sort().values, expected.scores[0].sort().values)


def test_openvino__says_the_same(model_folder: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    artifact = Artifact.load(model_folder)
    write_package(artifact, "openvino", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("model.*")) == ["model.bin", "model.xml"]
    compiled = openvino.compile_model(tmp_path / "model.xml", "CPU")
    view = photograph(320, 320)
    scores = compiled(view)["scores"]
    with torch.inference_mode():
        expected = artifact.model.candidates([torch.from_numpy(view.copy()).permute(2, 0, 1)])
    np.testing.assert_allclose(np.sort(scores), np.sort(expected.scores[0].numpy()), atol=1e-3)
