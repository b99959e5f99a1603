"""Put a model behind an endpoint on AWS.

    python examples/deploy.py NAME --image URI --role ARN --model s3://…/model.tar.gz [--kind KIND]

KIND is real-time, async (for large images: requests lie in S3; needs --output) or serverless (on CPU; costs
nothing while nobody asks). --max-instances scales with the requests, --capture keeps them. Needs boto3.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3

GPU_HOST = "al2-ami-sagemaker-inference-gpu-2"
"""A host with driver 535. The default host of GPU instances has 470, which is too old for CUDA 12."""


def model_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateModel: the image, and the archive that a training job left."""
    environment = {} if arguments.kind != "async" else {"TILEWISE_MAX_PAYLOAD_MB": "1024"}
    container = {"Image": arguments.image, "ModelDataUrl": arguments.model, "Environment": environment}
    return {"ModelName": arguments.name, "PrimaryContainer": container, "ExecutionRoleArn": arguments.role}


def endpoint_config_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateEndpointConfig of one variant."""
    variant: dict[str, Any] = {"VariantName": "all", "ModelName": arguments.name}
    request: dict[str, Any] = {"EndpointConfigName": arguments.name, "ProductionVariants": [variant]}
    if arguments.capture:
        request["DataCaptureConfig"] = capture_config(arguments.capture, arguments.capture_percent)
    if arguments.kind == "serverless":
        variant["ServerlessConfig"] = {"MemorySizeInMB": 4096, "MaxConcurrency": 5}
        return request
    variant |= {"InstanceType": arguments.instance_type, "InitialInstanceCount": 1}
    if arguments.instance_type.startswith(("ml.g", "ml.p")):
        variant["InferenceAmiVersion"] = GPU_HOST
    if arguments.kind == "async":
        request["AsyncInferenceConfig"] = {
            "OutputConfig": {"S3OutputPath": arguments.output},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 4},
        }
    return request


def capture_config(address: str, percent: int) -> dict[str, Any]:
    """DataCaptureConfig: requests, which are images, and answers, as files in S3."""
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": percent,
        "DestinationS3Uri": address,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }


def scaling_requests(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """RegisterScalableTarget and PutScalingPolicy: from one instance to so many, by the load.

    A real-time endpoint keeps its invocations of an instance and minute near a target: `/metrics` say what an
    instance takes (docs/serving.md). An asynchronous one keeps its backlog near four an instance.
    """
    asynchronous = arguments.kind == "async"
    resource = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{arguments.name}/variant/all",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    target = resource | {"MinCapacity": 1, "MaxCapacity": arguments.max_instances}
    tracking: dict[str, Any] = {"ScaleInCooldown": 300, "ScaleOutCooldown": 60}
    if asynchronous:
        tracking |= {
            "TargetValue": 4.0,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": arguments.name}],
                "Statistic": "Average",
            },
        }
    else:
        tracking |= {
            "TargetValue": float(arguments.requests_per_minute),
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
        }
    policy = resource | {
        "PolicyName": f"{arguments.name}-load",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    return target, policy


def main() -> int:
    """Make model, configuration and endpoint; print the endpoint's ARN."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="of model, endpoint configuration and endpoint")
    parser.add_argument("--image", required=True, help="URI in ECR, as push_to_ecr.sh prints it")
    parser.add_argument("--role", required=True, help="ARN of the role that SageMaker takes on")
    parser.add_argument("--model", required=True, metavar="s3://…/model.tar.gz")
    parser.add_argument("--kind", choices=("real-time", "async", "serverless"), default="real-time")
    parser.add_argument("--instance-type", default="ml.g4dn.xlarge")
    parser.add_argument("--output", metavar="s3://…", help="where asynchronous answers go")
    parser.add_argument("--max-instances", type=int, help="scale up to so many by the load (default: one)")
    parser.add_argument(
        "--requests-per-minute", type=int, default=60, help="that one instance takes (default 60)"
    )
    parser.add_argument("--capture", metavar="s3://…", help="keep requests and answers there")
    parser.add_argument("--capture-percent", type=int, default=10, help="of them (default 10)")
    arguments = parser.parse_args()
    if arguments.kind == "serverless" and (arguments.max_instances or arguments.capture):
        parser.error("a serverless endpoint scales by itself and captures nothing: leave these options out")
    if arguments.kind == "async" and not arguments.output:
        parser.error("--kind async needs --output s3://…")
    client = boto3.client("sagemaker")
    client.create_model(**model_request(arguments))
    client.create_endpoint_config(**endpoint_config_request(arguments))
    answer = client.create_endpoint(EndpointName=arguments.name, EndpointConfigName=arguments.name)
    if arguments.max_instances:
        client.get_waiter("endpoint_in_service").wait(EndpointName=arguments.name)
        target, policy = scaling_requests(arguments)
        scaling = boto3.client("application-autoscaling")
        scaling.register_scalable_target(**target)
        scaling.put_scaling_policy(**policy)
    print(answer["EndpointArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
