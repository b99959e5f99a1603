"""The Processing jobs that examples start: their requests, and what their scripts do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from aws_requests import IMAGE, ROLE, sent
from PIL import Image
from processing_container import ProcessingContainer

GEOGRAPHY = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 9000.0, 0.0), True),
    (34735, "H", 12, (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
]
MODEL = ("--image", IMAGE, "--role", ROLE, "--model", "s3://bucket/model.tar.gz")


def shares(job: dict[str, Any]) -> dict[str, str]:
    return {each["InputName"]: each["S3Input"]["S3DataDistributionType"] for each in job["ProcessingInputs"]}


@pytest.fixture
def container(tmp_path: Path, model_folder: Path) -> ProcessingContainer:
    return ProcessingContainer(tmp_path, model_folder)


@pytest.fixture
def images(container: ProcessingContainer) -> list[str]:
    """Names of the images of the job, in alphabetical order."""
    rng = np.random.default_rng(0)
    names = ["a.png", "deep/b c.png"]
    for name in names:
        path = container.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return names


def test_process_scenes__the_job_that_it_starts_finds_objects(
    aws: dict[str, str], container: ProcessingContainer
) -> None:
    where = ("--scenes", "s3://bucket/scenes", "--output", "s3://bucket/found")
    job = sent(aws, "process_scenes.py", *MODEL, *where, "--instances", "3", "--tile-size", "256")
    assert shares(job) == {"model": "FullyReplicated", "scenes": "ShardedByS3Key"}
    (container.folder / "scenes").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    scene = container.folder / "scenes" / "a b.tif"
    tifffile.imwrite(scene, pixels, photometric="rgb", tile=(64, 64), extratags=GEOGRAPHY)
    container.run(job)
    found = json.loads((container.folder / "output" / "a b-detections.geojson").read_text())
    assert found["features"] and found["crs"]["properties"]["name"].endswith("EPSG::32633")
    longest = max(side for one in found["features"] for side in one["geometry"]["coordinates"][0][0])
    assert 8850 <= longest <= 9000


def test_process_images__an_instance_leaves_a_manifest_of_its_share(
    aws: dict[str, str], container: ProcessingContainer, images: list[str]
) -> None:
    where = ("--images", "s3://bucket/images", "--output", "s3://bucket/found", "--instances", "20")
    job = sent(aws, "process_images.py", "many", *MODEL, *where)
    assert shares(job) == {"model": "FullyReplicated", "images": "ShardedByS3Key"}
    assert job["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 20
    container.run(job)
    (manifest,) = (container.folder / "output").iterdir()
    assert manifest.name == "algo-2.manifest"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [line["source-ref"] for line in lines] == [f"s3://bucket/images/{name}" for name in images]
    assert all(line["bounding-box"]["image_size"] for line in lines)


def test_rank_images__leaves_the_order_and_what_is_labelled_next(
    aws: dict[str, str], container: ProcessingContainer, images: list[str]
) -> None:
    where = ("--images", "s3://bucket/new/", "--output", "s3://bucket/order", "--top", "1")
    job = sent(aws, "rank_images.py", "rank", *MODEL, *where)
    assert shares(job) == {"model": "FullyReplicated", "images": "FullyReplicated"}
    container.run(job)
    output = container.folder / "output"
    (row,) = csv.DictReader((output / "order.csv").read_text().splitlines())
    (line,) = (output / "order.manifest").read_text().splitlines()
    assert row["image"] in images and json.loads(line) == {"source-ref": f"s3://bucket/new/{row['image']}"}
