"""Train, deploy, predict and transform on this machine, through the SageMaker Python SDK's Local Mode.

    pip install 'sagemaker<3'      # local_mode.py is for version 3. No AWS account, but docker and compose
    python examples/local_mode_v2.py IMAGE DATA PICTURES OUT [name=value …]

DATA holds one folder a channel: train, validation, …, teacher; PICTURES holds images and nothing else. An
entry of an answer is an object, or a class of a classifier's. On AWS the same lines run with another
`instance_type`, S3 addresses for the folders, a role of yours, and the image in ECR.
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

from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession
from sagemaker.serializers import IdentitySerializer

HYPERPARAMETERS = {"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320, "number_of_epochs": 10}
"""Of a job that is given none."""


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
    (out / "answers").mkdir(parents=True, exist_ok=True)
    session = LocalSession()
    settings = {"local_code": True, "serving_port": arguments.port, "container_root": str(out)}
    session.config = {"local": settings}

    hyperparameters: dict[str, Any] = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    hyperparameters = hyperparameters or HYPERPARAMETERS
    job: dict[str, Any] = {
        "image_uri": arguments.image,
        "role": "arn:aws:iam::111111111111:role/local",  # with a slash the SDK does not ask IAM for it
        "instance_type": "local",  # local_gpu uses this machine's GPU
        "output_path": f"file://{out}",
        "sagemaker_session": session,
    }
    folders = [folder for folder in sorted(arguments.data.resolve().iterdir()) if folder.is_dir()]
    channels = {folder.name: TrainingInput(f"file://{folder}") for folder in folders}
    estimator = Estimator(instance_count=arguments.instances, hyperparameters=hyperparameters, **job)
    estimator.fit(channels)
    print(f"fit: {estimator.model_data}")
    if arguments.more_epochs:
        before = out / "before"
        before.mkdir(exist_ok=True)
        shutil.copy(out / "model.tar.gz", before)  # which the second job writes anew
        hyperparameters |= {"number_of_epochs": arguments.more_epochs}
        # model_uri becomes the channel `model`
        estimator = Estimator(
            instance_count=1, hyperparameters=hyperparameters, model_uri=f"file://{before}", **job
        )
        estimator.fit(channels)
        print(f"fit again: {estimator.model_data}")

    predictor = estimator.deploy(
        initial_instance_count=1,
        instance_type="local",
        serializer=IdentitySerializer("image/jpeg"),
        deserializer=JSONDeserializer(),
    )
    try:
        pictures = sorted(arguments.pictures.resolve().iterdir())
        found = predictor.predict(pictures[0].read_bytes())["prediction"]
        print(f"predict: {pictures[0].name}: {len(found)} entries, from {json.dumps(found[:1])} on")
    finally:
        predictor.delete_endpoint()

    transformer = estimator.transformer(
        instance_count=1,
        instance_type="local",
        strategy="SingleRecord",  # an image a request
        accept="application/jsonlines",
        assemble_with="Line",
        output_path=f"file://{out / 'answers'}",
    )
    pictures_address = f"file://{arguments.pictures.resolve()}"
    transformer.transform(pictures_address, content_type="application/x-image", logs=False)
    answers = sorted((out / "answers").rglob("*.out"))
    texts = [
        text for answer in answers for text in answer.read_text().splitlines() if text
    ]  # Line adds its own
    lines = [json.loads(text) for text in texts]
    print(f"transform: {len(answers)} answers, {sum(len(line['prediction']) for line in lines)} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
