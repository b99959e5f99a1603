"""Choose the next images to label: a Processing job that ranks unlabelled ones by a model (active learning).

    python examples/rank_images.py NAME --image URI --role ARN --model s3://…/model.tar.gz
        --images s3://… --output s3://… [--top 200]

The job leaves order.csv, with what a label of each image would teach, and order.manifest: the best ones as
the input manifest of a labelling job in Ground Truth. What that writes is a channel of the next training,
which may go on from this model (docs/labelling.md). Needs boto3.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3
from processing import UNPACK, processing_request

SCRIPT = (
    UNPACK + "python -m tilewise rank images --model /mnt --top {top} --out output/order.csv "
    "--s3-prefix $IMAGES"
)


def job_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """CreateProcessingJob. One instance, since images are ranked among all."""
    images = arguments.images.rstrip("/") + "/"
    inputs = {"model": arguments.model, "images": images}
    request = processing_request(arguments, SCRIPT.format(top=arguments.top), inputs, arguments.output)
    return {"ProcessingJobName": arguments.name, **request, "Environment": {"IMAGES": images}}


def main() -> int:
    """Start the job and print its ARN."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="of the job")
    parser.add_argument("--image", required=True, help="URI in ECR, as push_to_ecr.sh prints it")
    parser.add_argument("--role", required=True, help="ARN of the role that SageMaker takes on")
    parser.add_argument("--model", required=True, metavar="s3://…/model.tar.gz")
    parser.add_argument("--images", required=True, metavar="s3://…", help="folder of unlabelled images")
    parser.add_argument("--output", required=True, metavar="s3://…", help="where the order goes")
    parser.add_argument("--top", type=int, default=200, help="images to label next (default 200)")
    parser.add_argument("--instance-type", default="ml.c5.2xlarge")
    parser.add_argument("--volume-gb", type=int, default=100)
    parser.set_defaults(instances=1)
    request = job_request(parser.parse_args())
    answer = boto3.client("sagemaker").create_processing_job(**request)
    print(answer["ProcessingJobArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
