"""Detect objects in all images of an S3 folder.

    python examples/batch_transform.py NAME --model MODEL --images s3://… --output s3://…

MODEL is the name of a model in SageMaker, as deploy.py makes one. Each image gets a file IMAGE.out with one
line of JSON. Needs boto3.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3


def transform_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateTransformJob: one image a request."""
    return {
        "TransformJobName": arguments.name,
        "ModelName": arguments.model,
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": arguments.max_payload_mb,
        "MaxConcurrentTransforms": 1,  # a worker computes one image at a time
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": arguments.images}},
            "ContentType": "application/x-image",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": arguments.output,
            "Accept": "application/jsonlines",
            "AssembleWith": "Line",
        },
        "TransformResources": {
            "InstanceType": arguments.instance_type,
            "InstanceCount": arguments.instances,
        },
    }


def main() -> int:
    """Start the job and print its ARN."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="of the job")
    for option, meaning in (("model", "name in SageMaker"), ("images", "s3://…"), ("output", "s3://…")):
        parser.add_argument(f"--{option}", required=True, metavar=meaning)
    parser.add_argument("--instance-type", default="ml.c5.2xlarge")
    parser.add_argument("--instances", type=int, default=1, help="which share the images (default 1)")
    parser.add_argument("--max-payload-mb", type=int, default=25, help="of the largest image, to 100")
    arguments = parser.parse_args()
    answer = boto3.client("sagemaker").create_transform_job(**transform_request(arguments))
    print(answer["TransformJobArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
