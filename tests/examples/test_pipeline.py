"""examples/pipeline.py: each step is a request that AWS takes, each reference leads to what is there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_requests import JOB, check_request, client, members, run
from masked_scenes import write_scenes
from processing_container import ProcessingContainer

TARGET = ("--group", "tilewise", "--endpoint", "finder")
NAMED = {"Training": "TrainingJobName", "Processing": "ProcessingJobName", "Model": "ModelName"}
"""What a pipeline itself names."""
RESOURCES = {
    "Training": "TrainingJob",
    "Processing": "ProcessingJob",
    "RegisterModel": "ModelPackage",
    "Model": "Model",
    "EndpointConfig": "EndpointConfig",
    "Endpoint": "Endpoint",
}
VALUES = {
    "Execution.PipelineExecutionId": "abcdefghijkl",
    "ModelArtifacts.S3ModelArtifacts": "s3://bucket/out/model.tar.gz",
    "ProcessingOutputConfig.Outputs['output'].S3Output.S3Uri": "s3://bucket/out/evaluation/abcdefghijkl",
    "ModelPackageArn": "arn:aws:sagemaker:us-east-1:111111111111:model-package/tilewise/1",
    "ModelName": "pipelines-abcdefghijkl-model",
    "EndpointConfigName": "finder-abcdefghijkl",
}
"""What an execution puts in the place of each reference."""


@pytest.fixture(scope="module")
def definition(aws: dict[str, str]) -> dict[str, Any]:
    """The pipeline as AWS would keep it, made, then made anew."""
    for epochs in (3, 5):
        printed = run(aws, "pipeline.py", "pipe", *JOB, *TARGET, "--start", f"number_of_epochs={epochs}")
    assert ":pipeline/pipe/execution/" in printed
    described = client(aws).describe_pipeline(PipelineName="pipe")
    groups = client(aws).list_model_package_groups()["ModelPackageGroupSummaryList"]
    assert [each["ModelPackageGroupName"] for each in groups] == ["tilewise"]
    found: dict[str, Any] = json.loads(described["PipelineDefinition"])
    return found


def all_steps(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        if step["Type"] == "Condition":
            yield from all_steps(step["Arguments"]["IfSteps"] + step["Arguments"]["ElseSteps"])


def resolved(value: Any, known: dict[str, dict[str, Any]], definition: dict[str, Any]) -> Any:
    """What an execution makes of arguments; fails where a reference leads nowhere."""
    if isinstance(value, list):
        return [resolved(each, known, definition) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Std:Join"}:
        parts = resolved(value["Std:Join"]["Values"], known, definition)
        return str(value["Std:Join"]["On"]).join(map(str, parts))
    if set(value) != {"Get"}:
        return {name: resolved(each, known, definition) for name, each in value.items()}
    kind, _, path = value["Get"].partition(".")
    if kind == "Parameters":
        return {each["Name"]: each["DefaultValue"] for each in definition["Parameters"]}[path]
    if kind == "Execution":
        return VALUES[value["Get"]]
    step, _, path = path.partition(".")
    require(known[step], path)
    return VALUES[path]


def require(step: dict[str, Any], path: str) -> None:
    """Fail where a step that ran does not leave this."""
    described = members(f"Describe{RESOURCES[step['Type']]}")
    for name, output in re.findall(r"\.?(\w+)(?:\['(\w+)'\])?", path):
        assert name in described, f"{step['Name']} leaves no {path}"
        shape = described[name]
        if output:
            (made,) = step["Arguments"]["ProcessingOutputConfig"]["Outputs"]
            assert made["OutputName"] == output
            shape = shape.member
        described = getattr(shape, "members", {})


def test_pipeline__each_step_is_a_request_of_its_own(definition: dict[str, Any]) -> None:
    known: dict[str, dict[str, Any]] = {}
    for step in all_steps(definition["Steps"]):
        arguments = step["Arguments"]
        if step["Type"] in RESOURCES:
            request = resolved(arguments, known, definition)
            if step["Type"] in NAMED:
                request[NAMED[step["Type"]]] = "given-by-the-pipeline"
            check_request(f"Create{RESOURCES[step['Type']]}", request)
        known[step["Name"]] = step
    assert [*known] == [
        *("Train", "Evaluate", "GoodEnough", "Register", "CreateModel", "Configure", "Deploy", "TooLow")
    ]
    assert known["Train"]["Arguments"]["HyperParameters"] == {"number_of_epochs": "5"}
    message = resolved(known["TooLow"]["Arguments"]["ErrorMessage"], known, definition)
    assert message == "AP on the test images is below 0.3"


def test_pipeline__the_condition_reads_what_the_evaluation_leaves(
    definition: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    steps = {step["Name"]: step for step in all_steps(definition["Steps"])}
    (condition,) = steps["GoodEnough"]["Arguments"]["Conditions"]
    assert condition["Type"] == "GreaterThanOrEqualTo"
    read = condition["LeftValue"]["Std:JsonGet"]
    (file,) = steps["Evaluate"]["PropertyFiles"]
    assert read["PropertyFile"]["Get"] == f"Steps.Evaluate.PropertyFiles.{file['PropertyFileName']}"
    container = ProcessingContainer(tmp_path, model_folder)
    write_scenes(container.folder / "test", 4, masks=False)
    coco = container.folder / "test" / "annotations.json"
    shutil.move(container.folder / "test" / "coco.json", coco)
    coco.write_text(coco.read_text().replace('"red"', '"ant"').replace('"blue"', '"bee"'))
    container.run(steps["Evaluate"]["Arguments"])
    figures = json.loads((container.folder / "output" / file["FilePath"]).read_text())
    assert 0 <= figures[read["Path"]] < 1
