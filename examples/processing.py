"""What the examples' Processing jobs have in common: a script in the image, folders of S3 in and out.

Not an example of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOLDER = "/opt/ml/processing"
UNPACK = f"set -e; cd {FOLDER}; tar xzf model/*.tar.gz -C /mnt; "
"""What a script begins with that takes a model: an input named `model` brings its archive."""


def processing_request(
    arguments: Any, script: str, inputs: Mapping[str, Any], output: Any, *, shared: str = ""
) -> dict[str, Any]:
    """CreateProcessingJob without its name.

    Args:
        arguments: of the command line: `image`, `role`, `instance_type`, `instances`, `volume_gb`.
        script: for bash, at most 256 characters; an input is a folder of its name below :data:`FOLDER`, and
            what the script writes to the folder `output` there goes to S3.
        inputs: addresses in S3 by name, or what a pipeline puts an address for.
        output: the same.
        shared: the input whose objects the instances share; the others each instance has whole.

    """
    return {
        "RoleArn": arguments.role,
        "AppSpecification": {"ImageUri": arguments.image, "ContainerEntrypoint": ["bash", "-c", script]},
        "ProcessingInputs": [
            {
                "InputName": name,
                "S3Input": {
                    "S3Uri": uri,
                    "LocalPath": f"{FOLDER}/{name}",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                    "S3DataDistributionType": "ShardedByS3Key" if name == shared else "FullyReplicated",
                },
            }
            for name, uri in inputs.items()
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "output",
                    "S3Output": {
                        "S3Uri": output,
                        "LocalPath": f"{FOLDER}/output",
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
