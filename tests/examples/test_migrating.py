"""The jobs in docs/migrating.md as they stand: requests in SageMaker's form, hyperparameters in ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from tilewise.hyperparameters import parse_hyperparameters

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"


def job(kind: str) -> dict[str, Any]:
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

    report = ParamValidator().validate(job(kind), shape)
    assert not report.has_errors(), report.generate_report()


def test_migrating__builtin_job_is_the_builtins_model() -> None:
    hp = parse_hyperparameters(job("builtin")["HyperParameters"])
    assert (hp.job, hp.model_name, hp.image_size) == ("builtin", "ssd_vgg16", 512)
    assert (hp.number_of_epochs, hp.training_batch_size, hp.num_classes) == (30, 16, 2)


def test_migrating__azure_job_is_tiled() -> None:
    hp = parse_hyperparameters(job("azure")["HyperParameters"])
    assert (hp.job, hp.model_name, hp.number_of_epochs) == ("azure", "fasterrcnn_resnet50_fpn", 15)
    assert hp.tile_overlap_ratio == 0.25
    assert str(hp.tile_grid_size) in ("(3, 2)", "3x2")
