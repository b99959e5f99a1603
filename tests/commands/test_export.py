from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.commands import export
from tilewise.errors import UserError
from tilewise.inference.artifact import Artifact
from tilewise.inference.description import ModelDescription
from tilewise.inference.onnx_backend import OnnxBackend


def run(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    export.run(parser.parse_args([*map(str, arguments)]))


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    Artifact.load(model_folder).save(folder, "model-0003")
    return folder


def test_export__into_the_models_own_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewise.inference.export.milliseconds", lambda work: 1.0)
    run(model)
    assert sorted(path.suffix for path in model.iterdir()) == [".json", ".onnx", ".safetensors"]


def test_export__a_slower_graph_where_it_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.cycle([2.0, 1.0])  # of the graph, of PyTorch
    monkeypatch.setattr("tilewise.inference.export.milliseconds", lambda work: next(times))
    run(model)
    assert not list(model.glob("*.onnx"))
    run(model, "--even-if-slower")
    assert [path.name for path in model.glob("*.onnx")] == ["model-0003.onnx"]


def write_channel(folder: Path) -> None:
    """Images of bright squares, and their COCO file."""
    (folder / "images").mkdir(parents=True)
    rng, annotations = np.random.default_rng(0), []
    for number in range(4):
        pixels = rng.integers(0, 120, (120, 160, 3), dtype=np.uint8)
        pixels[20:60, 30:80] = 250
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        box = {"bbox": [30, 20, 50, 40], "area": 2000, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number, "category_id": 1 + number % 2, **box})
    images = [{"id": n, "file_name": f"{n}.png", "width": 160, "height": 120} for n in range(4)]
    categories = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))


def test_export__in_8_bits_with_what_it_costs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_channel(tmp_path / "data")
    source = ("--images", tmp_path / "data" / "images", "--annotations", tmp_path / "data" / "coco.json")
    run(model, "--to", "onnx", "--out", tmp_path / "single")
    run(model, "--to", "onnx", "--out", tmp_path / "eight", "--int8", *source)
    printed = capsys.readouterr().out
    assert re.search(r"^AP of 4 images: 0\.\d{4}, in 8 bits 0\.\d{4}: [+-]0\.\d{4}$", printed, re.MULTILINE)
    single, eight = (tmp_path / name / "model.onnx" for name in ("single", "eight"))
    assert eight.stat().st_size < 0.5 * single.stat().st_size
    limits = ModelDescription.read(model).spec.limits()
    view = np.asarray(Image.open(tmp_path / "data" / "images" / "0.png").resize((320, 320))).transpose(
        2, 0, 1
    )
    best = [np.sort(OnnxBackend(path, limits, 1).candidates(view)[1])[-20:] for path in (single, eight)]
    np.testing.assert_allclose(best[0], best[1], atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--int8",), "--int8 goes with --to onnx and --images"),
        (("--to", "torchscript", "--int8", "--images", "x"), "--int8 goes with --to onnx and --images"),
        (("--out", "x"), "--out goes with --to"),
        (("--to", "onnx", "--even-if-slower"), "--even-if-slower goes without --to"),
    ],
)
def test_export__what_does_not_go_together(model: Path, arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run(model, *arguments)


def test_export__of_two_stages_is_the_detector_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(model, "--to", "torchscript", "--out", tmp_path / "one")
    assert "alone" not in capsys.readouterr().out
    content = json.loads((model / "model.json").read_text()) | {"classifier": {"model": "second"}}
    (model / "model.json").write_text(json.dumps(content))
    for options in (("--to", "torchscript", "--out", tmp_path / "two"), ()):
        run(model, *options)
        printed = capsys.readouterr().out
        assert "this is the detector alone" in printed and f"so export {model / 'second'}, too" in printed


def test_export__no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model of Tilewise"):
        run(tmp_path, "--to", "onnx")


def test_export__in_8_bits_without_images_leaves_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder of channel none is not there"):
        run(model, "--to", "onnx", "--int8", "--images", tmp_path / "none", "--out", tmp_path / "eight")
    assert not (tmp_path / "eight").exists()
