"""Find the objects in very many images of an S3 folder, with a Processing job of several instances.

    python examples/process_images.py NAME --image URI --role ARN --model s3://…/model.tar.gz
        --images s3://… --output s3://… [--instances 20]

Each instance takes its share of the images (ShardedByS3Key) and writes a manifest with a line for each: its
address, its objects, their scores. Lines are written as images are done. The lines of all together are the
input of a labelling job that corrects them, or a channel to train on. Needs boto3.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3
from processing import UNPACK, processing_request

HOST = r"""$(sed -n 's/.*"current_host": *"\([^"]*\).*/\1/p' /opt/ml/config/resourceconfig.json)"""
SCRIPT = (
    UNPACK + "python -m tilewise prelabel images --model /mnt --to manifest --prefix $IMAGES "
    f"--out output/{HOST}.manifest"
)


def job_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateProcessingJob."""
    images = arguments.images.rstrip("/") + "/"
    inputs = {"model": arguments.model, "images": images}
    request = processing_request(arguments, SCRIPT, inputs, arguments.output, shared="images")
    request["Environment"] = {"IMAGES": images}
    return {"ProcessingJobName": arguments.name} | request


def main() -> int:
    """Start the job and print its ARN."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="of the job")
    parser.add_argument("--image", required=True, help="URI in ECR, as push_to_ecr.sh prints it")
    parser.add_argument("--role", required=True, help="ARN of the role that SageMaker takes on")
    parser.add_argument("--model", required=True, metavar="s3://…/model.tar.gz")
    parser.add_argument("--images", required=True, metavar="s3://…", help="folder of the images")
    parser.add_argument("--output", required=True, metavar="s3://…", help="where the manifests go")
    parser.add_argument("--instances", type=int, default=4, help="which share the images (default 4)")
    parser.add_argument("--instance-type", default="ml.c5.xlarge")
    parser.add_argument("--volume-gb", type=int, default=200, help="of each, for its share (default 200)")
    request = job_request(parser.parse_args())
    answer = boto3.client("sagemaker").create_processing_job(**request)
    print(answer["ProcessingJobArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
