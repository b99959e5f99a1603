"""Make a pipeline in SageMaker: train, evaluate, and where the figure is good enough register and deploy.

    python examples/pipeline.py NAME --image URI --role ARN --data s3://… --output s3://…
        --group GROUP --endpoint ENDPOINT number_of_epochs=20

What --data names holds the folders train/, validation/ and test/; test/annotations.json (--test) is COCO. An
execution registers its model as a version of GROUP, with its figures, and updates ENDPOINT. --start runs it
once. Each may have another bar: StartPipelineExecution with the parameter LeastAP. Needs boto3.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import boto3
import create_training_job
from deploy import GPU_HOST
from processing import UNPACK, processing_request

EVALUATE = (
    UNPACK + "python -m tilewise evaluate test/{test} test --model /mnt > output/metrics.json; "
    "cat output/metrics.json"
)
IMAGES = ["image/jpeg", "image/png", "application/x-image"]


def of_step(step: str, path: str) -> dict[str, str]:
    """A value that an earlier step leaves; the pipeline so knows their order."""
    return {"Get": f"Steps.{step}.{path}"}


def joined(by: str, *values: Any) -> dict[str, Any]:
    """A text that is put together in each execution."""
    return {"Std:Join": {"On": by, "Values": list(values)}}


def training_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateTrainingJob, whose name the pipeline gives."""
    hyperparameters = create_training_job.hyperparameters_of(arguments)
    request = create_training_job.training_definition(arguments) | {"HyperParameters": hyperparameters}
    return {"Name": "Train", "Type": "Training", "Arguments": request}


def evaluation_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """A Processing job that leaves metrics.json, which later steps may read."""
    inputs = {
        "model": of_step("Train", "ModelArtifacts.S3ModelArtifacts"),
        "test": f"{arguments.data}/test/",
    }
    # each execution's figures have a folder of their own
    output = joined("/", arguments.output, "evaluation", {"Get": "Execution.PipelineExecutionId"})
    request = processing_request(arguments, EVALUATE.format(test=arguments.test), inputs, output)
    figures = {"PropertyFileName": "figures", "OutputName": "output", "FilePath": "metrics.json"}
    return {"Name": "Evaluate", "Type": "Processing", "Arguments": request, "PropertyFiles": [figures]}


def registration_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateModelPackage: the model as an approved version of its group, with its figures."""
    evaluated = "ProcessingOutputConfig.Outputs['output'].S3Output.S3Uri"
    container = {
        "Image": arguments.image,
        "ModelDataUrl": of_step("Train", "ModelArtifacts.S3ModelArtifacts"),
    }
    request = {
        "ModelPackageGroupName": arguments.group,
        "ModelApprovalStatus": "Approved",
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": IMAGES,
            "SupportedResponseMIMETypes": ["application/json", "application/jsonlines"],
            "SupportedRealtimeInferenceInstanceTypes": [arguments.hosting_type],
            "SupportedTransformInstanceTypes": [arguments.hosting_type],
        },
        "ModelMetrics": {
            "ModelQuality": {
                "Statistics": {
                    "ContentType": "application/json",
                    "S3Uri": joined("/", of_step("Evaluate", evaluated), "metrics.json"),
                }
            }
        },
    }
    return {"Name": "Register", "Type": "RegisterModel", "Arguments": request}


def deployment_steps(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """CreateModel of the version, CreateEndpointConfig, and an endpoint that is made or updated."""
    package = {"ModelPackageName": of_step("Register", "ModelPackageArn")}
    model = {"PrimaryContainer": package, "ExecutionRoleArn": arguments.role}
    variant: dict[str, Any] = {
        "VariantName": "all",
        "ModelName": of_step("CreateModel", "ModelName"),
        "InstanceType": arguments.hosting_type,
        "InitialInstanceCount": 1,
    }
    if arguments.hosting_type.startswith(("ml.g", "ml.p")):
        variant["InferenceAmiVersion"] = GPU_HOST
    config = {
        "EndpointConfigName": joined("-", arguments.endpoint, {"Get": "Execution.PipelineExecutionId"}),
        "ProductionVariants": [variant],
    }
    endpoint = {
        "EndpointName": arguments.endpoint,
        "EndpointConfigName": of_step("Configure", "EndpointConfigName"),
    }
    return [
        {"Name": "CreateModel", "Type": "Model", "Arguments": model},
        {"Name": "Configure", "Type": "EndpointConfig", "Arguments": config},
        {"Name": "Deploy", "Type": "Endpoint", "Arguments": endpoint},
    ]


def pipeline_definition(arguments: argparse.Namespace) -> dict[str, Any]:
    """The steps, as SageMaker's schema for pipelines wants them."""
    figure = {"PropertyFile": of_step("Evaluate", "PropertyFiles.figures"), "Path": arguments.figure}
    least = {"Get": "Parameters.LeastAP"}
    condition = {
        "Type": "GreaterThanOrEqualTo",
        "LeftValue": {"Std:JsonGet": figure},
        "RightValue": least,
    }
    too_low = joined(" ", arguments.figure, "on the test images is below", least)
    good_enough = {
        "Conditions": [condition],
        "IfSteps": [registration_step(arguments), *deployment_steps(arguments)],
        "ElseSteps": [{"Name": "TooLow", "Type": "Fail", "Arguments": {"ErrorMessage": too_low}}],
    }
    return {
        "Version": "2020-12-01",
        "Parameters": [{"Name": "LeastAP", "Type": "Float", "DefaultValue": arguments.least}],
        "Steps": [
            training_step(arguments),
            evaluation_step(arguments),
            {"Name": "GoodEnough", "Type": "Condition", "Arguments": good_enough},
        ],
    }


def main() -> int:
    """Make the pipeline, or update the one of that name; print its ARN, or that of an execution."""
    parser = create_training_job.parser(__doc__)
    parser.add_argument("--group", required=True, help="model package group of the Model Registry")
    parser.add_argument("--endpoint", required=True, help="which each good model goes to")
    parser.add_argument("--test", default="annotations.json", help="COCO file in test/ (annotations.json)")
    parser.add_argument("--figure", default="AP", help="of `tilewise evaluate`, such as AP50 (default AP)")
    parser.add_argument("--least", type=float, default=0.3, help="that it must be (default 0.3)")
    parser.add_argument("--hosting-type", default="ml.g4dn.xlarge", help="of the endpoint")
    parser.add_argument("--start", action="store_true", help="run it once")
    # of the evaluation
    parser.set_defaults(instances=1, volume_gb=50)
    arguments = parser.parse_intermixed_args()
    if arguments.register:
        parser.error("the pipeline registers the model itself, in --group: leave --register out")
    client = boto3.client("sagemaker")
    groups = client.list_model_package_groups(NameContains=arguments.group)["ModelPackageGroupSummaryList"]
    if arguments.group not in {each["ModelPackageGroupName"] for each in groups}:
        client.create_model_package_group(ModelPackageGroupName=arguments.group)
    request = {
        "PipelineName": arguments.name,
        "PipelineDefinition": json.dumps(pipeline_definition(arguments)),
        "RoleArn": arguments.role,
    }
    known = client.list_pipelines(PipelineNamePrefix=arguments.name)["PipelineSummaries"]
    if arguments.name in {each["PipelineName"] for each in known}:
        answer = client.update_pipeline(**request)
    else:
        answer = client.create_pipeline(**request)
    if arguments.start:
        answer = client.start_pipeline_execution(PipelineName=arguments.name)
    print(answer.get("PipelineExecutionArn") or answer["PipelineArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
