"""The jobs in docs/migrating.md as they stand: SageMaker takes the requests, and `train` trains them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from forked import Forked
from PIL import Image
from tilewise.boxes import intersection
from tilewise.data.records import Record, Records
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tasks.detection.choose_tiling import choose_tiling
from tilewise.training.job.view_plans import make_planner
from tilewise.views.view import Scaling

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "migrating.md"


def request_of(kind: str) -> dict[str, Any]:
    block = re.search(rf"```json {kind}\n(.+?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    request: dict[str, Any] = json.loads(block[1])
    return request


@pytest.mark.parametrize("kind", ["builtin", "azure"])
def test_migrating__sagemakers_model_accepts_the_job(kind: str) -> None:
    client = boto3.client(
        "sagemaker", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    shape = client.meta.service_model.operation_model("CreateTrainingJob").input_shape
    from botocore.validate import ParamValidator

    report = ParamValidator().validate(request_of(kind), shape)
    assert not report.has_errors(), report.generate_report()


def test_migrating__azure_job_is_azures_default_model_for_15_epochs() -> None:
    hp = parse_hyperparameters(request_of("azure")["HyperParameters"])
    assert (hp.dialect, hp.model_name, hp.number_of_epochs) == ("azure", "fasterrcnn_resnet50_fpn", 15)
    assert hp.min_size == 600


def azures_tiles(record: Record, grid: tuple[int, int], overlap: float) -> list[tuple[int, ...]]:
    """The image, and each of Azure's tiles that shares a whole pixel with a box; by columns."""
    found: list[tuple[int, ...]] = [(0, 0, record.width, record.height)]
    tile = np.array([record.width, record.height]) / (overlap + (1 - overlap) * np.array(grid))
    for column, row in product(*map(range, grid)):
        start = (1 - overlap) * tile * (column, row)
        window = np.concatenate([start, start + tile]).round().astype(int)
        if (intersection(record.targets.boxes.astype(float), window).astype(int) > 0).any():
            found.append(tuple(window.tolist()))
    return found


def scattered_record(seed: int) -> Record:
    """Four small boxes anywhere in an image of 1200 x 800 px."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (1140, 740), (4, 2))
    boxes = np.concatenate([corners, corners + rng.integers(4, 60, (4, 2))], axis=1).astype(np.float32)
    return Record("a", Path("a"), 1200, 800, Targets(boxes, np.zeros(4, np.int64), np.zeros(4, np.bool_)))


def test_migrating__four_settings_are_azures_way() -> None:
    """Merge rule, whole image, empty tiles, cut boxes, checkpoints."""
    settings = request_of("azure-exactly")
    assert len(settings) == 4
    hp = parse_hyperparameters(request_of("azure")["HyperParameters"] | settings)
    records = Records(map(scattered_record, range(20)))
    scaling = Scaling(min_size=hp.min_size, max_size=hp.max_size)
    tiling = choose_tiling(hp, records, scaling)
    assert (tiling.merge, tiling.whole_from) == ("nms", 0)
    planner = make_planner(hp, DetectorSpec(hp.model_name, 1, scaling, None, 0.3, 0.5, 100, tiling))
    assert planner is not None
    drawn = planner.draw(records, np.random.default_rng(0))
    assert isinstance(hp.tile_grid_size, tuple)
    for record, views in zip(records, drawn, strict=True):
        windows = sorted(view.window for view in views)
        assert windows == sorted(azures_tiles(record, hp.tile_grid_size, hp.tile_overlap_ratio))
        for view in views:  # a box is an object, however little of it is seen
            assert not record.targets.crop(view.window, view.size, planner.min_visibility).ignored.any()
    assert hp.checkpoint_frequency == 0  # no epoch but the best is kept
    default = parse_hyperparameters(request_of("azure")["HyperParameters"])
    own = make_planner(default, DetectorSpec(hp.model_name, 1, scaling, None, 0.3, 0.5, 100, tiling))
    assert own is not None and own.draw(records, np.random.default_rng(0)) != drawn


def lay_out(base: Path, request: dict[str, Any]) -> dict[str, Path]:
    """Make /opt/ml of a request, as SageMaker does; returns the channels' folders, which are empty."""
    channels = {}
    for channel in request["InputDataConfig"]:
        facts = {
            "ContentType": channel.get("ContentType"),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            "S3DistributionType": "FullyReplicated",
            "TrainingInputMode": request["AlgorithmSpecification"]["TrainingInputMode"],
        }
        channels[channel["ChannelName"]] = {name: fact for name, fact in facts.items() if fact}
    hosts = [f"algo-{number + 1}" for number in range(request["ResourceConfig"]["InstanceCount"])]
    resources = {"current_host": hosts[0], "hosts": hosts, "network_interface_name": "eth0"}
    for folder in ("input/config", "model", "output/data", *(f"input/data/{name}" for name in channels)):
        (base / folder).mkdir(parents=True)
    for name, content in (
        ("hyperparameters", request["HyperParameters"]),
        ("inputdataconfig", channels),
        ("resourceconfig", resources),
    ):
        (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
    return {name: base / "input" / "data" / name for name in channels}


def train(base: Path) -> tuple[str, dict[str, Any]]:
    """What the job logs, and its ``model.json``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base), "PATH": path}
    with Forked(ROOT / "train", environ, base) as process:
        log, _ = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert re.search(r"#quality_metric: host=\S+, epoch=0, validation mAP <score>=\((\S+)\)", log)
    assert "#progress_metric: host=algo-1, completed 100 % of epochs" in log
    model: dict[str, Any] = json.loads((base / "model" / "model.json").read_text())
    assert (base / "model" / model["weights"]).stat().st_size > 10_000_000
    return log, model


def test_migrating__builtin_job_trains_as_it_stands_on_mxnets_files(
    tmp_path: Path, shared_fixtures: Path
) -> None:
    """Sixteen images are one batch of the sample's, which has 16,551."""
    request = request_of("builtin")
    # The one change: a batch of 16 images of the sample's 512 px takes 15 GiB, and 85 s of a core.
    request["HyperParameters"] |= {"image_shape": "300"}
    folders = lay_out(tmp_path, request)
    for channel, name in (("train", "train.rec"), ("validation", "head2.rec")):
        shutil.copyfile(shared_fixtures / "recordio" / name, folders[channel] / name)
    log, model = train(tmp_path)
    assert model["detector"]["name"] == "ssd_resnet50"
    assert model["detector"]["scaling"]["square"] == 300
    assert model["classes"] == [str(index) for index in range(20)]
    assert "num_training_samples is 16551, but channel train has 16 usable images" in log
    assert "use_pretrained_model=1, but " in log  # these weights are not in the repository


def write_azure_channel(folder: Path, images: int) -> None:
    """Images and JSON lines as Azure AutoML's data sets have them."""
    rng = np.random.default_rng(images)
    lines = []
    for index in range(images):
        pixels = rng.integers(80, 120, (240, 360, 3), dtype=np.uint8)
        x, y = rng.integers((320, 200)).tolist()
        pixels[y : y + 40, x : x + 40] = (240, 60, 40)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
        box = {"topX": x / 360, "topY": y / 240, "bottomX": (x + 40) / 360, "bottomY": (y + 40) / 240}
        line = {
            "image_url": f"azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/{index}.jpg",
            "image_details": {"format": "jpg", "width": "360px", "height": "240px"},
            "label": [{"label": "can", **box, "isCrowd": 0}],
        }
        lines.append(json.dumps(line))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")


def test_migrating__azure_job_trains_tiled_on_its_json_lines(tmp_path: Path) -> None:
    request = request_of("azure")
    # The two changes: 15 epochs of views of 600 px take many minutes on two cores.
    request["HyperParameters"] |= {"number_of_epochs": "1", "min_size": "128"}
    for name, folder in lay_out(tmp_path, request).items():
        write_azure_channel(folder, 2 if name == "train" else 1)
    log, model = train(tmp_path)
    assert re.search(r"each image is seen as the whole image.* and 3x2 tiles with an overlap of 0\.25", log)
    assert model["detector"]["name"] == "fasterrcnn_resnet50_fpn"
    assert model["detector"]["tiling"]["grid"] == [3, 2]
    assert model["classes"] == ["can"]
