"""Find objects in large scenes with a SageMaker Processing job: GeoTIFFs in S3 to GeoJSON in S3.

python examples/process_scenes.py --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/tilewise:latest --role ROLE
    --model s3://bucket/job/output/model.tar.gz --scenes s3://bucket/scenes --output s3://bucket/found
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import boto3

SCRIPT = (
    "set -e; mkdir -p /tmp/model; tar -xzf /opt/ml/processing/model/*.tar.gz -C /tmp/model; "
    "python -m tilewise predict --model /tmp/model --tile-size {tile_size} --max-detections {max_detections} "
    "--out /opt/ml/processing/output /opt/ml/processing/scenes/*"
)


def processing_request(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``CreateProcessingJob`` is to be asked for."""
    script = SCRIPT.format(tile_size=arguments.tile_size, max_detections=arguments.max_detections)

    def from_s3(name: str, uri: str) -> dict[str, Any]:
        return {
            "InputName": name,
            "S3Input": {
                "S3Uri": uri,
                "LocalPath": f"/opt/ml/processing/{name}",
                "S3DataType": "S3Prefix",
                "S3InputMode": "File",
                # several instances share the scenes, and all have the model
                "S3DataDistributionType": "ShardedByS3Key" if name == "scenes" else "FullyReplicated",
            },
        }

    return {
        "ProcessingJobName": f"tilewise-scenes-{int(time.time())}",
        "RoleArn": arguments.role,
        "AppSpecification": {
            "ImageUri": arguments.image,
            "ContainerEntrypoint": ["bash", "-c", script],
        },
        "ProcessingInputs": [from_s3("model", arguments.model), from_s3("scenes", arguments.scenes)],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "found",
                    "S3Output": {
                        "S3Uri": arguments.output,
                        "LocalPath": "/opt/ml/processing/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": arguments.instances,
                "InstanceType": arguments.instance_type,
                "VolumeSizeInGB": arguments.volume_gb,
            }
        },
    }


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
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--instance-type", default="ml.m5.xlarge")
    parser.add_argument("--volume-gb", type=int, default=100)
    arguments = parser.parse_args()
    answer = boto3.client("sagemaker").create_processing_job(**processing_request(arguments))
    print(answer["ProcessingJobArn"])


if __name__ == "__main__":
    main()
