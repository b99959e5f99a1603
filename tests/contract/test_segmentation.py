"""A job of instance segmentation, from its channels to what its model says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from endpoint_process import serving
from masked_scenes import write_scenes
from tilewise.commands.endpoint import ask_endpoint
from tilewise.data.channel import ChannelFolder, parse_channel
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.records import Records
from tilewise.data.writers.azure_jsonl import write_azure_jsonl
from tilewise.data.writers.output import Output
from tilewise.evaluation.evaluate import evaluate, metrics
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.load import BackendName
from tilewise.inference.predictor import Predictor
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks
from training_job import Job

JOB = {
    "task": "image_instance_segmentation",
    "model_name": "maskyolox_nano",
    "image_size": "128",
    "number_of_epochs": "3",
    "training_batch_size": "2",
    "validation_batch_size": "1",
    "box_score_threshold": "0",  # what has learnt so little is sure of nothing
    "use_pretrained_model": "0",
    "num_workers": "0",
    "validation_metric_type": "coco_voc",
}
NOTEBOOK = {
    "model_name": "maskrcnn_resnet50_fpn",
    "number_of_epochs": "1",
    "min_size": "64",
    "max_size": "96",
    "training_batch_size": "2",
    "learning_rate": "0.0005",
    "warmup_cosine_lr_warmup_epochs": "0",
    "optimizer": "sgd",
    "early_stopping": "True",
    "validation_metric_type": "Coco",
    "number_of_workers": "0",
}
"""The job of Azure's notebook for instance segmentation, a trial of its sweep; epochs and size are cut."""
FEW_STEPS = {
    "maskyolox_nano": {
        "image_size": "128",
        "number_of_epochs": "25",
        "evaluation_frequency": "25",
        "optimizer": "adam",
        "learning_rate": "0.003",
        "ema_decay": "0",
    },
    "maskrcnn_resnet18_fpn": {
        "min_size": "96",
        "max_size": "128",
        "number_of_epochs": "10",
        "evaluation_frequency": "10",
        "optimizer": "adam",
        "learning_rate": "0.001",
    },
}
"""After these a model finds something, if nothing that overlaps by half."""
WANTED = frozenset({MASKS})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, str]:
    return train(tmp_path_factory.mktemp("job"), {**JOB, "tile_grid_size": "2x1"})


def train(folder: Path, hyperparameters: dict[str, str]) -> tuple[Job, str]:
    job = Job(folder)
    for name, count in (("train", 6), ("validation", 4)):
        write_scenes(job.channel(name), count)
    code, log = job.run(hyperparameters)
    assert code == 0, log
    return job, log


def validated(job: Job) -> dict[str, Any]:
    """The figures of the job's model, as it logged them."""
    content = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    figures: dict[str, Any] = content["best"]
    return figures


def figures_of(found: list[Instances], records: Records) -> dict[str, Any]:
    """Of what was found in the scenes."""
    return metrics(records, found, ("red", "blue"), voc=VocMetric(0.1, "all"))


def test_log__figures_of_masks_and_of_boxes(trained: tuple[Job, str]) -> None:
    _, log = trained
    assert re.search(r"with a mask +12 +6\n", log) and re.search(r"without, for boxes only +3 +3\n", log)
    assert re.search(r"mask_loss[= ]", log)
    assert "validation of boxes: AP " in log
    assert len(re.findall(r"box_mAP", log)) >= 2


def test_model__says_what_was_logged(trained: tuple[Job, str]) -> None:
    job, _ = trained
    predictor = Predictor.load(job.base / "model")
    channel = {"validation": ChannelFolder(job.base / "input" / "data" / "validation")}
    issues = ChannelIssues("validation")
    records = make_records(parse_channel("validation", channel, fields=WANTED).examples, issues)
    figures = evaluate(predictor, records, issues, voc=VocMetric(0.5, "all"))
    assert figures is not None
    logged = validated(job)
    assert figures["VOC"]["mAP"] == pytest.approx(logged["VOC"]["mAP"], abs=1e-3)
    assert figures["box"]["VOC_mAP"] == pytest.approx(logged["box"]["VOC_mAP"], abs=1e-3)
    prediction = predictor.predict(records[1].read())
    masks = prediction.detections.fields[MASKS]
    assert isinstance(masks, Masks) and len(masks) == len(prediction.detections) > 0
    own, around = masks.boxes[masks.known], prediction.detections.boxes[masks.known]
    assert (own[:, :2] >= around[:, :2] - 1).all() and (own[:, 2:] <= around[:, 2:] + 1).all()


@pytest.mark.parametrize("tiles", ["", "2x1"], ids=["whole", "tiles"])
@pytest.mark.parametrize("model", FEW_STEPS)
def test_endpoint__gives_the_logged_mask_ap(model: str, tiles: str, tmp_path: Path) -> None:
    """Over HTTP, of run lengths."""
    job, _ = train(
        tmp_path / "job",
        {
            **{name: value for name, value in JOB.items() if name != "image_size"},
            **FEW_STEPS[model],
            **({"tile_grid_size": tiles} if tiles else {}),
            "model_name": model,
            "validation_iou_threshold": "0.1",
        },
    )
    channel = {"validation": ChannelFolder(job.base / "input" / "data" / "validation")}
    parsed = parse_channel("validation", channel, fields=WANTED)
    records = make_records(parsed.examples, ChannelIssues("validation"))
    (tmp_path / "endpoint").mkdir()
    with serving(job.base / "model", tmp_path / "endpoint") as server:
        server.wait_until_ready()
        url = f"http://127.0.0.1:{server.port}"
        found = [ask_endpoint(url, record.read()).detections for record in records]
        status, _, body = server.request(
            "POST", "/invocations?format=azure&image_type=png", records[1].read(), Content_Type="image/png"
        )
        assert status == 200 and json.loads(body)[0]["boxes"][0]["mask"]["type"] == "png"
        status, _, body = server.request(
            "POST", "/invocations?export_as_image=1", records[1].read(), Content_Type="image/png"
        )
        assert status == 400 and b"masks come as pictures with format=azure only" in body
    figures, logged = figures_of(found, records), validated(job)
    assert figures["VOC"]["mAP"] == pytest.approx(logged["VOC"]["mAP"], abs=1e-3)
    # Boxes: what has learnt so little gives scores that are equal to 1e-9, and a graph orders some otherwise
    # than PyTorch, which the job validates with. So each is compared with its own like.
    likes: tuple[tuple[BackendName, dict[str, Any]], ...] = (("eager", logged), ("auto", figures))
    for backend, others in likes:
        predictor = Predictor.load(job.base / "model", backend=backend)
        here = figures_of([predictor.predict(record.read()).detections for record in records], records)
        assert here["VOC"]["mAP"] == pytest.approx(others["VOC"]["mAP"], abs=1e-3)
        assert here["box"]["VOC_mAP"] == pytest.approx(others["box"]["VOC_mAP"], abs=1e-3)
    assert logged["VOC"]["mAP"] > 0.01, "figures of nothing say nothing"


def test_azures_notebook__runs(tmp_path: Path) -> None:
    """Its data are JSON lines with polygons, of which a fifth validate, and its model the default one."""
    source, job = tmp_path / "source", Job(tmp_path / "job")
    write_scenes(source, 10)
    parsed = parse_channel("train", {"train": ChannelFolder(source)}, fields=WANTED)
    records = make_records(parsed.examples, ChannelIssues("train"))
    folder = job.channel("train")
    write_azure_jsonl(records, ("red", "blue"), Output(folder), name="train_annotations")
    code, log = job.run(NOTEBOOK)
    assert code == 0, log
    assert "channel train holds Azure JSON lines (train_annotations.jsonl)" in log
    assert "no validation channel: 20 % of the training images validate" in log
    content = json.loads((job.base / "model" / "model.json").read_text())
    assert content["task"] == "instance_segmentation"
    assert content["detector"]["max_number_of_polygon_points"] == 100


def test_boxes_alone__refused_with_the_way_out(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for name in ("train", "validation"):
        write_scenes(job.channel(name), 3, masks=name == "validation")
    code, _ = job.run(JOB)
    assert code == 2
    assert (
        "channel train: no object has a mask, and task=instance_segmentation learns from masks" in job.failure
    )


def test_detection__keeps_no_masks(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for name in ("train", "validation"):
        write_scenes(job.channel(name), 3)
    options = {**JOB, "task": "detection", "model_name": "yolox_nano", "number_of_epochs": "1"}
    code, log = job.run(options)
    assert code == 0, log
    assert "with a mask" not in log and "mask_loss" not in log
