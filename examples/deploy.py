"""Put a model behind an endpoint on AWS.

    python examples/deploy.py NAME --image URI --role ARN --model s3://…/model.tar.gz [--kind KIND]

KIND is real-time, async (for large images: requests lie in S3; needs --output) or serverless (on CPU; costs
nothing while nobody asks). Needs boto3.
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
    arguments = parser.parse_args()
    if arguments.kind == "async" and not arguments.output:
        parser.error("--kind async needs --output s3://…")
    client = boto3.client("sagemaker")
    client.create_model(**model_request(arguments))
    client.create_endpoint_config(**endpoint_config_request(arguments))
    print(
        client.create_endpoint(EndpointName=arguments.name, EndpointConfigName=arguments.name)["EndpointArn"]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
