"""Predictors of the SageMaker Python SDK, version 2, ask the runtime at the address; prints their answers.

It runs in the SDK's own environment, see tests/image/setup_sdk.sh.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
from sagemaker.deserializers import (
    BytesDeserializer,
    JSONDeserializer,
    JSONLinesDeserializer,
    StringDeserializer,
)
from sagemaker.predictor import Predictor
from sagemaker.serializers import DataSerializer, IdentitySerializer, JSONLinesSerializer, JSONSerializer
from sagemaker.session import Session

JPEG = b"\xff\xd8\xff"
BASE64 = base64.b64encode(JPEG).decode()
IMAGE = IdentitySerializer("application/x-image")


def main() -> None:
    """Ask in the ways in which notebooks do."""
    boto_session = boto3.Session(region_name="us-east-1")
    runtime = boto_session.client("sagemaker-runtime", endpoint_url=sys.argv[1])
    session = Session(boto_session, sagemaker_runtime_client=runtime, default_bucket="none")

    def ask(serializer: Any, deserializer: Any, data: Any, **options: Any) -> Any:
        predictor = Predictor("cells", session, serializer=serializer, deserializer=deserializer)
        return predictor.predict(data, **options)

    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Path(file.name).write_bytes(JPEG)
        from_file = ask(DataSerializer(content_type="image/jpeg"), JSONDeserializer(), file.name)
    answers = {
        "image": ask(IMAGE, JSONDeserializer(), JPEG),
        "file": from_file,
        "instances": ask(JSONSerializer(), JSONDeserializer(), {"instances": [BASE64, BASE64]}),
        "lines": ask(JSONLinesSerializer(), JSONLinesDeserializer(), [{"image": BASE64}, {"image": BASE64}]),
        "yolo": [
            line.split()
            for line in ask(
                IMAGE, StringDeserializer(accept="text/plain"), JPEG, custom_attributes="max_detections=1"
            ).splitlines()
        ],
        "threshold": ask(IMAGE, JSONDeserializer(), JPEG, custom_attributes="threshold=0.4"),
        "png": ask(IMAGE, BytesDeserializer(accept="image/png"), JPEG)[:4].decode("latin-1"),
    }
    try:
        ask(IMAGE, JSONDeserializer(), JPEG, custom_attributes="threshold=2")
    except runtime.exceptions.ModelError as error:
        response = error.response
        reason = json.loads(response["OriginalMessage"])["error"]
        answers["refused"] = f"{response['OriginalStatusCode']}: {reason}"
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
