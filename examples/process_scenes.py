"""Find objects in large scenes with a SageMaker Processing job: GeoTIFFs in S3 to GeoJSON in S3.

python examples/process_scenes.py --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/tilewise:latest --role ROLE
    --model s3://bucket/job/output/model.tar.gz --scenes s3://bucket/scenes --output s3://bucket/found
"""

from __future__ import annotations

import argparse
import time

import boto3
from processing import UNPACK, processing_request

SCRIPT = (
    UNPACK + "python -m tilewise predict --model /mnt --tile-size {tile_size} "
    "--max-detections {max_detections} --out output scenes/*"
)


def main() -> None:
    """Start the job."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scenes", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--tile-size", type=int, default=1024)
    parser.add_argument("--max-detections", type=int, default=1_000_000, help="of a scene")
    parser.add_argument("--instances", type=int, default=1, help="which share the scenes")
    parser.add_argument("--instance-type", default="ml.m5.xlarge")
    parser.add_argument("--volume-gb", type=int, default=100)
    arguments = parser.parse_args()
    script = SCRIPT.format(tile_size=arguments.tile_size, max_detections=arguments.max_detections)
    inputs = {"model": arguments.model, "scenes": arguments.scenes}
    request = processing_request(arguments, script, inputs, arguments.output, shared="scenes")
    name = f"tilewise-scenes-{int(time.time())}"
    answer = boto3.client("sagemaker").create_processing_job(ProcessingJobName=name, **request)
    print(answer["ProcessingJobArn"])


if __name__ == "__main__":
    main()
