"""Start a training job on AWS.

    python examples/create_training_job.py NAME --image URI --role ARN --data s3://… --output s3://… epochs=30

What --data names holds the folders train/ and validation/; docs/data_formats.md says what may lie in them.
With --manifest it holds two augmented manifests, train.manifest and validation.manifest, which stream (Pipe
mode). Needs boto3.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import boto3

LOSS = r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train {} <loss>=\((\S+)\)"
FIGURES = (
    *("AP", "AP50", "AP75", "AP_very_tiny", "AP_small", "AP_medium", "AP_large"),
    *("AR", "AR_small", "AR_medium", "AR_large"),
)
METRIC_DEFINITIONS = [  # SageMaker attaches these to its own algorithm, and none to an image of yours
    {
        "Name": "validation:mAP",
        "Regex": r"#quality_metric: host=\S+, epoch=\S+, validation mAP <score>=\((\S+)\)",
    },
    {"Name": "train:cross_entropy", "Regex": LOSS.format("cross_entropy")},
    {"Name": "train:smooth_l1", "Regex": LOSS.format("smooth_l1")},
    {"Name": "train:progress", "Regex": r"#progress_metric: host=\S+, completed (\S+) %"},
    {
        "Name": "train:throughput",
        "Regex": r"#throughput_metric: host=\S+, train throughput=(\S+) records/second",
    },
    *({"Name": f"validation:{name}", "Regex": f"validation: (?:.*, )?{name} ([0-9.]+)"} for name in FIGURES),
]


def channel(name: str, data: str, manifest_attribute: str = "") -> dict[str, Any]:
    """One channel: a folder of S3, or an augmented manifest whose labels have this attribute."""
    if not manifest_attribute:
        source = {"S3DataType": "S3Prefix", "S3Uri": f"{data}/{name}/"}
        return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}
    streamed = {
        "S3DataType": "AugmentedManifestFile",
        "S3Uri": f"{data}/{name}.manifest",
        "AttributeNames": ["source-ref", manifest_attribute],
    }
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": streamed},
        "ContentType": "application/x-recordio",
        "RecordWrapperType": "RecordIO",
        "InputMode": "Pipe",
        "ShuffleConfig": {"Seed": 1},
    }


def training_definition(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a training job and each job of a tuning have in common."""
    channels = [channel(name, arguments.data, arguments.manifest) for name in ("train", "validation")]
    hours = 3600 * arguments.hours
    resources = {"InstanceType": arguments.instance_type, "InstanceCount": 1, "VolumeSizeInGB": 50}
    if arguments.warm_pool:
        resources["KeepAlivePeriodInSeconds"] = 60 * arguments.warm_pool
    definition: dict[str, Any] = {
        "AlgorithmSpecification": {
            "TrainingImage": arguments.image,
            "TrainingInputMode": "Pipe" if arguments.manifest else "File",
            "MetricDefinitions": METRIC_DEFINITIONS,
        },
        "RoleArn": arguments.role,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": arguments.output},
        "ResourceConfig": resources,
        "StoppingCondition": {"MaxRuntimeInSeconds": hours},
        "EnableNetworkIsolation": True,  # nothing is downloaded in a job: the weights are in the image
    }
    if arguments.register:
        definition["ModelPackageConfig"] = {"ModelPackageGroupArn": arguments.register}
    if arguments.spot:
        definition["EnableManagedSpotTraining"] = True
        definition["StoppingCondition"]["MaxWaitTimeInSeconds"] = 2 * hours
        definition["CheckpointConfig"] = {"S3Uri": f"{arguments.output}/checkpoints/{arguments.name}"}
    return definition


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a training job."""
    command = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    command.add_argument("name", help="of the job")
    command.add_argument("--image", required=True, help="URI in ECR, as push_to_ecr.sh prints it")
    command.add_argument("--role", required=True, help="ARN of the role that SageMaker takes on")
    command.add_argument("--data", required=True, metavar="s3://…", help="where train and validation lie")
    command.add_argument("--output", required=True, metavar="s3://…", help="where the model goes")
    command.add_argument("--manifest", default="", metavar="ATTRIBUTE", help="of the augmented manifests")
    command.add_argument("--instance-type", default="ml.g5.xlarge")
    command.add_argument(
        "--spot", action="store_true", help="spot instances: cheaper; an interrupted job resumes"
    )
    command.add_argument(
        "--register", metavar="ARN", help="of a model package group, which gets the model as a version"
    )
    command.add_argument(
        "--warm-pool", type=int, metavar="MINUTES", help="keep the instance for a next job; not with --spot"
    )
    command.add_argument("--hours", type=int, default=4, help="after which the job is stopped (default 4)")
    command.add_argument("hyperparameters", nargs="*", metavar="name=value")
    return command


def hyperparameters_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The command line's ``name=value`` pairs; SageMaker takes strings only."""
    return dict(pair.split("=", 1) for pair in arguments.hyperparameters)


def main() -> int:
    """Start the job and print its ARN."""
    arguments = parser(__doc__).parse_intermixed_args()
    answer = boto3.client("sagemaker").create_training_job(
        TrainingJobName=arguments.name,
        HyperParameters=hyperparameters_of(arguments),
        **training_definition(arguments),
    )
    print(answer["TrainingJobArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
