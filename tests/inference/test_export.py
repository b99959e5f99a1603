from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_detectors import MODELS, make_detector
from tilewise.errors import UserError
from tilewise.inference import export
from tilewise.inference.artifact import Artifact
from tilewise.inference.description import ModelDescription
from tilewise.inference.export import add_graph, trace, write_onnx
from tilewise.inference.load import load_backend
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.torch_backend import TorchBackend
from tilewise.models.faster_rcnn import TwoStageDetector


@pytest.mark.parametrize("name", MODELS)
def test_graphs__say_what_the_detector_says(name: str, tmp_path: Path) -> None:
    """ONNX and frozen PyTorch, of views of any size that the model sees."""
    detector, spec = make_detector(name)
    write_onnx(detector, spec.scaling, tmp_path / "graph.onnx")
    backend = OnnxBackend(tmp_path / "graph.onnx", spec.limits(), threads=1)
    frozen = trace(detector, spec.scaling)
    sizes = {spec.scaling.size_of(*image) for image in ((4, 3), (3, 5), (100, 100), (30, 7))}
    for seed, (width, height) in enumerate(sorted(sizes)):
        view = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
        with torch.inference_mode():
            expected = detector.candidates([torch.from_numpy(view)])
            traced = frozen(torch.from_numpy(view).permute(1, 2, 0))
        for boxes, scores, labels in (backend.candidates(view), tuple(each.numpy() for each in traced)):
            assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
            assert scores.shape == labels.shape == (len(boxes),)
            best_scores = expected.scores[0].sort(descending=True).values[:100]
            np.testing.assert_allclose(-np.sort(-scores)[:100], best_scores, atol=1e-5)
            assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        # the best one is no tie
        best = int(expected.scores[0].argmax())
        ours = backend.candidates(view)
        np.testing.assert_allclose(ours[0][ours[1].argmax()], expected.boxes[0, best], atol=0.05)


def test_load__the_graph_without_pytorch(model_folder: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(model_folder)
    artifact.save(tmp_path, "model-0001")
    write_onnx(artifact.model, artifact.spec.scaling, tmp_path / "model-0001.onnx")
    code = f"""
import sys
from tilewise.inference.load import load_backend
from tilewise.inference.description import ModelDescription
from pathlib import Path
folder = Path({str(tmp_path)!r})
backend = load_backend(folder, ModelDescription.read(folder), "onnx")
import numpy as np
found = backend.detect([np.zeros((3, 320, 320), np.uint8)])
assert len(found[0]) and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_graph__goes_with_its_weights(model_folder: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(model_folder)
    artifact.save(tmp_path, "model-0001")
    write_onnx(artifact.model, artifact.spec.scaling, tmp_path / "model-0001.onnx")
    artifact.save(tmp_path, "model-0002")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-0002.safetensors", "model.json"]
    (tmp_path / "model-0002.onnx").touch()
    artifact.save(tmp_path, "model-0002")  # other weights of that name
    assert not (tmp_path / "model-0002.onnx").exists()


def test_add_graph__not_where_it_is_slower_or_says_something_else(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Artifact.load(model_folder).save(tmp_path, "model")
    caplog.set_level(logging.INFO)
    times = iter([30.0, 20.0])
    monkeypatch.setattr(export, "milliseconds", lambda work: next(times))
    add_graph(tmp_path)
    assert "no graph for ONNX Runtime: it would take 30 ms a view" in caplog.text
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    add_graph(tmp_path)
    assert "no graph for ONNX Runtime: its scores differ by" in caplog.text
    assert not [*tmp_path.glob("*.onnx")]


def test_add_graph__is_not_tried_where_it_is_known_to_be_slow(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = Artifact.load(model_folder)
    artifact.save(tmp_path, "model")
    caplog.set_level(logging.INFO)
    assert TwoStageDetector.slow_as_graph
    monkeypatch.setattr(type(artifact.model), "slow_as_graph", True)
    add_graph(tmp_path)
    assert "the model has no graph: ONNX Runtime takes several times as long" in caplog.text
    assert not [*tmp_path.glob("*.onnx")]
    add_graph(tmp_path, even_if_slower=True)
    assert (tmp_path / "model.onnx").is_file()


def test_load__which_backend_and_why(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Artifact.load(model_folder).save(tmp_path, "model")
    description = ModelDescription.read(tmp_path)
    with pytest.raises(UserError, match=r"onnx cannot be used: there is no graph model\.onnx"):
        load_backend(tmp_path, description, "onnx")
    for frozen_ms, words in ((10.0, "runs in frozen PyTorch (10 ms a view"), (90.0, "runs in eager PyTorch")):
        times = iter([frozen_ms, 20.0])
        monkeypatch.setattr(export, "milliseconds", lambda work, times=times: next(times))
        backend = load_backend(tmp_path, description)
        assert isinstance(backend, TorchBackend) and (backend.graph is not None) == (frozen_ms < 20)
        assert words in caplog.text and "there is no graph model.onnx (tilewise export" in caplog.text
        assert "makes it, where it is faster)" in caplog.text
    eager = load_backend(tmp_path, description, "eager")
    assert isinstance(eager, TorchBackend) and eager.graph is None
    times = iter([1.0, 2.0])
    monkeypatch.setattr(export, "milliseconds", lambda work: next(times))
    frozen = load_backend(tmp_path, description, "pytorch")
    view = np.random.default_rng(0).integers(0, 256, (3, 320, 320), dtype=np.uint8)
    (one,), (other,) = frozen.detect([view]), eager.detect([view])
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
