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
from made_detectors import spread_outputs
from PIL import Image
from tilewise.data.decoding.decode import DecodedImage, decode_reduced
from tilewise.inference.artifact import Artifact
from tilewise.inference.detections import merge_instances
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.package import write_package
from tilewise.inference.portable_example import read
from tilewise.inference.predictor import Predictor
from tilewise.inference.view_plan import ViewPlan
from tilewise.masks import masks_in
from tilewise.models.build import build_detector
from tilewise.models.spec import SegmenterSpec
from tilewise.tiling.spec import Level, Tiling
from tilewise.views.view import Scaling

TILINGS = [
    Tiling(),
    Tiling("grid", grid=(3, 2), overlap=0.2, whole_from=40.0),
    Tiling("fixed", tile_size=100, merge="nms", merge_threshold=0.4),
    Tiling("fixed", tile_size=300, merge="wbf"),  # larger than the image is high
    # 134 x 100 px: scaling 128 px to 320 gives halves, which each processor's sums round as they like
    Tiling("pyramid", levels=(Level(1.0, 30.0), Level(2.4, 0.0, 60.0)), merge="wbf", merge_threshold=0.3),
]


def photograph(width: int, height: int) -> Any:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height)))


def load_example(folder: Path) -> Any:
    return example(folder).Model(folder)


def example(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("detect", folder / "detect.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


MASKED = [
    ("maskyolox_nano", Tiling()),
    ("maskyolox_nano", Tiling("grid", grid=(3, 2), overlap=0.2, whole_from=40.0, mirror=True)),
    ("maskyolox_nano", Tiling("fixed", tile_size=100, merge="nms", merge_threshold=0.3)),
    ("maskyolox_nano", Tiling("fixed", tile_size=120, merge="wbf", merge_threshold=0.2)),
    ("maskrcnn_resnet18_fpn", Tiling("grid", grid=(2, 2), mirror=True)),
]


def segmenter(spec: SegmenterSpec) -> Artifact:
    """With random weights; it finds something everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_detector(spec).eval()
        spread_outputs(model, spec)
    return Artifact(model, spec, ("ant", "bee"), hyperparameters={}, metrics={}, task="instance_segmentation")


@pytest.mark.parametrize(
    ("name", "tiling"),
    MASKED,
    ids=lambda each: each if isinstance(each, str) else f"{each.kind}-{each.merge}",
)
def test_example__gives_the_masks_that_the_endpoint_gives(name: str, tiling: Tiling, tmp_path: Path) -> None:
    scaling = Scaling(square=128) if name.startswith("maskyolox") else Scaling(None, 96, 160)
    spec = SegmenterSpec(
        name,
        2,
        scaling,
        None,
        0.3,
        0.45,
        30,
        tiling,
        detections_per_image=60,
        mask_pixel_score_threshold=0.45,
    )
    artifact = segmenter(spec)
    write_package(artifact, "onnx", tmp_path)
    image = photograph(320, 240)
    backend = OnnxBackend(tmp_path / "model.onnx", spec.limits(), threads=1)
    predictor = Predictor(
        backend,
        ViewPlan(scaling, tiling),
        artifact.classes,
        merge=partial(merge_instances, limit=60, mask_threshold=0.45),
    )
    expected = next(predictor.predict_all([DecodedImage.whole(image.transpose(2, 0, 1))])).detections
    boxes, scores, labels, masks = load_example(tmp_path).segment(image)
    assert len(expected) > 10 and labels.tolist() == expected.labels.tolist()
    # a random network makes much of a view's values that are rounded otherwise
    np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.2)
    theirs = masks_in(expected.fields)
    assert theirs is not None
    differing, pixels = 0, 0
    for index, (left, top, mask) in enumerate(masks):
        ours, expected_mask = np.zeros((2, 240, 320), np.bool_)
        ours[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        grid, (x, y, _, _) = theirs.grid(index)
        expected_mask[int(y) : int(y) + grid.shape[0], int(x) : int(x) + grid.shape[1]] = grid
        differing, pixels = differing + int((ours != expected_mask).sum()), pixels + int(ours.sum())
    assert pixels > 1000 and differing < 0.01 * pixels


def test_example__writes_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = segmenter(SegmenterSpec("maskyolox_nano", 2, Scaling(square=128), None, 0.3, 0.45, 300))
    write_package(artifact, "onnx", tmp_path)
    image = tmp_path / "photo.png"
    Image.fromarray(photograph(160, 120)).save(image)
    monkeypatch.setattr("sys.argv", ["detect.py", "--masks", str(tmp_path / "masks"), str(image)])
    module = example(tmp_path)
    module.main()
    lines = capsys.readouterr().out.splitlines()
    picture = np.asarray(Image.open(tmp_path / "masks" / "photo.png"))
    assert picture.shape == (120, 160) and set(np.unique(picture)) <= set(range(len(lines) + 1))
    _, _, _, masks = module.Model(tmp_path).segment(photograph(160, 120))
    left, top, best = masks[0]
    assert len(masks) == len(lines) > 10 and best.any()
    assert (picture[top : top + best.shape[0], left : left + best.shape[1]][best] == 1).all()
    monkeypatch.setattr("sys.argv", ["detect.py", "--masks", str(tmp_path), str(image), str(image)])
    with pytest.raises(SystemExit):
        module.main()
    assert "two images have one name" in capsys.readouterr().err


def test_example__reads_the_pixels_that_the_endpoint_sees(tmp_path: Path) -> None:
    pixels = np.dstack([photograph(64, 48), np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))])
    path = tmp_path / "clear.png"
    Image.fromarray(pixels).save(path)
    expected = decode_reduced(path.read_bytes(), lambda width, height: 1).pixels
    np.testing.assert_array_equal(read(path, {"bands": None}), np.moveaxis(np.asarray(expected), 0, 2))
    with pytest.raises(SystemExit, match="this model sees bands 4, 3, 2 of an image as RGB"):
        read(path, {"bands": [4, 3, 2]})
    Image.fromarray(np.full((48, 64), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SystemExit, match=r"deep\.png has values of more than 8 bits"):
        read(tmp_path / "deep.png", {"bands": None})


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
