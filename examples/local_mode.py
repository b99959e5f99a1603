"""Train, deploy, predict and transform on this machine, through the SageMaker Python SDK's Local Mode.

    pip install 'sagemaker>=3'     # local_mode_v2.py is for version 2. No AWS account, but docker and compose
    python examples/local_mode.py IMAGE DATA PICTURES OUT [name=value …]

DATA holds one folder a channel: train, validation, …, teacher; PICTURES holds images and nothing else. An
entry of an answer is an object, or a class of a classifier's. On AWS the same ModelTrainer runs without
`training_mode`, with a role and an instance in `Compute`: images_to_endpoint.ipynb. ModelBuilder's own Local
Mode knows some servers and no image of yours, so that the SDK's LocalSession serves the model here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # Local Mode wants one, and uses none

from sagemaker.core.local.local_session import LocalSession
from sagemaker.core.training.configs import Compute, InputData
from sagemaker.train.model_trainer import Mode, ModelTrainer

HYPERPARAMETERS = {"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320, "number_of_epochs": 10}
"""Of a job that is given none."""
NAME = "tilewise"


def train(
    image: str, folders: list[Path], hyperparameters: dict[str, Any], root: Path, *, instances: int
) -> Path:
    """Train in containers, and return the model's archive."""
    root.mkdir(parents=True)
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=image,
        compute=Compute(instance_type="local_cpu", instance_count=instances),  # local_gpu: this machine's GPU
        hyperparameters=hyperparameters,
        local_container_root=str(root),
    )
    channels = [InputData(channel_name=each.name, data_source=str(each)) for each in folders]
    trainer.train(input_data_config=channels, wait=True)
    return root / "compressed_artifacts" / "model.tar.gz"


def main() -> int:
    """Print what each step answered."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("image", metavar="IMAGE", help="of Tilewise, as docker images lists it")
    for name in ("data", "pictures", "out"):
        parser.add_argument(name, metavar=name.upper(), type=Path)
    parser.add_argument("hyperparameters", metavar="name=value", nargs="*")
    parser.add_argument("--port", type=int, default=8080, help="of the endpoint (default 8080)")
    parser.add_argument("--instances", type=int, default=1, help="of training (default 1)")
    parser.add_argument(
        "--more-epochs", type=int, help="of a second job, which goes on from the first's model"
    )
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    answers = out / "answers"
    answers.mkdir(parents=True)

    hyperparameters: dict[str, Any] = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    hyperparameters = hyperparameters or HYPERPARAMETERS
    folders = [folder for folder in sorted(arguments.data.resolve().iterdir()) if folder.is_dir()]
    model = train(arguments.image, folders, hyperparameters, out / "job", instances=arguments.instances)
    print(f"fit: {model}")
    if arguments.more_epochs:
        channel = out / "model"  # a channel of its name: SageMaker gives the archive in its folder
        channel.mkdir()
        shutil.copy(model, channel)
        hyperparameters |= {"number_of_epochs": arguments.more_epochs}
        model = train(arguments.image, [*folders, channel], hyperparameters, out / "job-2", instances=1)
        print(f"fit again: {model}")

    session = LocalSession()
    settings = {"local_code": True, "serving_port": arguments.port, "container_root": str(out)}
    session.config = {"local": settings}
    client, runtime = session.sagemaker_client, session.sagemaker_runtime_client
    container = {"Image": arguments.image, "ModelDataUrl": f"file://{model}", "Environment": {}}
    client.create_model(ModelName=NAME, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": NAME, "InstanceType": "local", "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    client.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    pictures = sorted(arguments.pictures.resolve().iterdir())
    try:
        answer = runtime.invoke_endpoint(
            Body=pictures[0].read_bytes(),
            EndpointName=NAME,
            ContentType="image/jpeg",
            Accept="application/json",
        )
        found = json.loads(answer["Body"].read())["prediction"]
        print(f"predict: {pictures[0].name}: {len(found)} entries, from {json.dumps(found[:1])} on")
    finally:
        client.delete_endpoint(EndpointName=NAME)

    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"file://{arguments.pictures.resolve()}"}}
    client.create_transform_job(
        TransformJobName=NAME,
        ModelName=NAME,
        BatchStrategy="SingleRecord",
        TransformInput={"DataSource": source, "ContentType": "application/x-image"},
        TransformOutput={"S3OutputPath": f"file://{answers}", "Accept": "application/jsonlines"},
        TransformResources={"InstanceType": "local", "InstanceCount": 1},
    )
    counts = {
        file.name: len(json.loads(file.read_text().splitlines()[0])["prediction"])
        for file in sorted(answers.rglob("*.out"))
    }
    print(f"transform: {len(counts)} answers, {sum(counts.values())} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
