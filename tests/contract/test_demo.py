"""``local_test/demo.sh`` from end to end: the whole way, and the endpoint's mAP against the logged one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from forked import Forked
from PIL import Image
from tilewise.commands import evaluate
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.export import write_onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local_test"))

from demo_job import demo_hyperparameters, lay_out_demo  # noqa: E402
from wait_for_ping import wait_for_ping  # noqa: E402

DEMO = ROOT / "local_test" / "demo.sh"


def write_squares(folder: Path, train: int = 24, val: int = 4) -> None:
    """A data set that a detector learns in a few dozen steps: bright squares on noise."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for index in range(count):
            pixels = rng.integers(80, 120, (120, 160, 3), dtype=np.uint8)
            for x, y in rng.integers((0, 0), (110, 70), size=(2, 2)).tolist():
                pixels[y : y + 40, x : x + 40] = (240, 60, 40)
                box = [x, y, 40, 40]
                number = len(annotations) + 1
                annotations.append({"id": number, "image_id": index, "category_id": 3, "bbox": box})
            name = f"{split} {index}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": index, "file_name": name, "width": 160, "height": 120})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "square"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("chosen", "views"),
    [({}, "grid"), ({"training_views": "whole"}, "whole"), ({"tile_size": "300"}, "fixed")],
)
def test_demo_hyperparameters__what_to_look_at_is_the_users_choice(
    chosen: dict[str, str], views: str
) -> None:
    hp = parse_hyperparameters(demo_hyperparameters(chosen))
    assert (hp.training_views, hp.tile_grid_size) == (views, "auto" if views == "grid" else None)


def test_demo_hyperparameters__a_model_that_scales_by_its_sides() -> None:
    chosen = {"model_name": "gfl_resnet18_fpn", "image_size": "384", "max_size": "500"}
    hp = parse_hyperparameters(demo_hyperparameters(chosen))
    assert (hp.image_size, hp.min_size, hp.max_size) == (None, 384, 500)


@pytest.mark.parametrize(
    ("chosen", "minutes"), [({}, 5), ({"minutes": "20"}, 20), ({"number_of_epochs": "3"}, None)]
)
def test_demo_hyperparameters__minutes_unless_epochs_are_chosen(
    chosen: dict[str, str], minutes: float | None
) -> None:
    assert parse_hyperparameters(demo_hyperparameters(chosen)).minutes == minutes


def run_demo(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    environ = os.environ | {"PORT": str(free_port()), "RUN": str(tmp_path / "run")}
    command = ["bash", str(DEMO), *arguments]
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    return done.returncode, done.stdout


def test_demo__users_data_to_a_picture_and_the_endpoint_gives_the_logged_map(tmp_path: Path) -> None:
    write_squares(tmp_path / "data")
    chosen = ("image_size=128", "number_of_epochs=40", "evaluation_frequency=20", "training_batch_size=4")
    code, output = run_demo(tmp_path, "--data", str(tmp_path / "data"), *chosen)
    assert code == 0, output
    pairs = re.findall(r"^(AP\d*): logged (\S+), from the endpoint's answers (\S+)$", output, re.MULTILINE)
    assert [name for name, _, _ in pairs] == ["AP", "AP50"], output
    for name, logged, answered in pairs:
        assert float(answered) == pytest.approx(float(logged), abs=0.001), name
    assert float(pairs[1][1]) > 0.2, "the detector has learnt nothing, so the figures say little"
    picture = re.search(r"The picture: (.+\.png) ", output)
    assert picture is not None, output
    with Image.open(picture[1]) as image:
        assert image.size == (160, 120)
    assert (tmp_path / "run" / "model.tar.gz").stat().st_size > 1_000_000


def test_azures_tiles__are_trained_with_and_the_endpoint_gives_the_logged_map_on_any_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As demo.sh goes the way, but in processes that have imported PyTorch already."""
    write_squares(tmp_path / "data", train=12)
    chosen = {"image_size": "128", "tile_grid_size": "3x2", "training_batch_size": "4"}
    chosen |= {"number_of_epochs": "10", "evaluation_frequency": "10"}
    base = tmp_path / "ml"
    lay_out_demo(tmp_path / "data", base, chosen)
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {
        "SAGEMAKER_BASE_DIR": str(base),
        "PATH": path,
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    with Forked(ROOT / "train", environ, tmp_path) as train:
        output, _ = train.communicate(timeout=300)
    assert train.returncode == 0, output
    assert re.search(
        "seen as the whole image for objects from .* and 3x2 tiles with an overlap of 0.25", output
    )
    model = json.loads((base / "model" / "model.json").read_text())
    assert model["detector"]["tiling"]["grid"] == [3, 2]

    # on a busy machine the job may have found its graph too slow
    artifact = Artifact.load(base / "model")
    graph = (base / "model" / model["weights"]).with_suffix(".onnx")
    write_onnx(artifact.model, artifact.spec.scaling, graph)
    for backend in ("onnx", "pytorch", "eager"):
        with Forked(ROOT / "serve", environ | {"TILEWISE_BACKEND": backend}, tmp_path) as serve:
            url = f"http://127.0.0.1:{port}"
            assert wait_for_ping(url, serve.pid), serve.communicate(timeout=1)
            parser = ArgumentParser()
            evaluate.add_arguments(parser)
            channel = str(base / "input" / "data" / "validation")
            asked = [f"{channel}/annotations.json", channel, "--endpoint", url]
            evaluate.run(parser.parse_args([*asked, "--model", str(base / "model")]))
            serve.send_signal(signal.SIGTERM)
        assert serve.returncode == 0
        answered = json.loads(capsys.readouterr().out)
        for name in ("AP", "AP50"):
            assert answered[name] == pytest.approx(model["metrics"][name], abs=0.001), (backend, name)
        assert answered["AP50"] > 0.1, "the detector has learnt nothing, so the figures say little"


@pytest.mark.parametrize(
    "arguments", [("--data", "nowhere"), ("--what",)], ids=["no_folder", "unknown_option"]
)
def test_demo__wrong_arguments_end_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, output = run_demo(tmp_path, *arguments)
    assert code == 2, output


def test_demo__folder_without_annotations_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, output = run_demo(tmp_path, "--data", str(tmp_path / "data"))
    assert code == 2
    assert "holds no train.json" in output
