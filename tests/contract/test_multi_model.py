"""The steps of AWS's multi-model endpoints with real models, as its platform takes them, through boto3."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from endpoint_process import EndpointProcess
from PIL import Image
from runtime_stand_in import boto3_runtime
from tilewise.inference.artifact import add_to_description
from tilewise.inference.predictor import Predictor


def photograph() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EndpointProcess]:
    variables = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_MODEL_SERVER_WORKERS": "2"}
    running = EndpointProcess(tmp_path, **variables, CUDA_VISIBLE_DEVICES="")
    try:
        assert running.wait_until_ready() is not None
        yield running
        assert "Traceback" not in running.log
    finally:
        running.close()


@pytest.fixture
def models(graph_folder: Path, model_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """As the platform unpacks them: one with a graph, and one without, of other classes."""
    folders = {}
    for name, source, classes in (
        ("cells.tar.gz", graph_folder, ["ant", "bee"]),
        ("ships.tar.gz", model_folder, ["tug", "ferry"]),
    ):
        folders[name] = tmp_path / "models" / name / "model"
        shutil.copytree(source, folders[name])
        add_to_description(folders[name], {"classes": classes})
    return folders


def test_steps__of_the_platform(server: EndpointProcess, models: dict[str, Path]) -> None:
    image = photograph()

    def send(method: str, path: str, content: Any = None) -> tuple[int, Any]:
        body = None if content is None else json.dumps(content).encode()
        status, _, answer = server.request(method, path, body, Content_Type="application/json")
        return status, json.loads(answer)

    with boto3_runtime(server.port) as runtime:

        def invoke(name: str) -> Any:
            answer = runtime.invoke_endpoint(
                EndpointName="many", TargetModel=name, ContentType="application/x-image", Body=image
            )
            return json.loads(answer["Body"].read())

        with pytest.raises(ClientError) as caught:  # the platform loads a model when this says 404
            invoke("cells.tar.gz")
        assert caught.value.response["OriginalStatusCode"] == 404
        for name, folder in models.items():
            assert send("POST", "/models", {"model_name": name, "url": str(folder)})[0] == 200
            assert send("POST", "/models", {"model_name": name, "url": str(folder)})[0] == 409
        listed = [{"modelName": name, "modelUrl": str(models[name])} for name in sorted(models)]
        assert send("GET", "/models") == (200, {"models": listed})
        for name, folder in models.items():
            expected = Predictor.load(folder, backend="eager").predict(image).detections
            for _ in range(4):  # whichever worker answers
                answer = invoke(name)
                assert answer["classes"] == (["ant", "bee"] if "cells" in name else ["tug", "ferry"])
                scores = [row[1] for row in answer["prediction"]]
                np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
        large = models["cells.tar.gz"].parent / "large"
        shutil.copytree(models["cells.tar.gz"], large)
        with (large / "more.safetensors").open("wb") as file:
            file.truncate(2**43)
        assert send("POST", "/models", {"model_name": "large", "url": str(large)})[0] == 507
        assert send("DELETE", "/models/cells.tar.gz")[0] == 200  # to make room, as the platform then does
        with pytest.raises(ClientError):
            invoke("cells.tar.gz")
        assert invoke("ships.tar.gz")["classes"] == ["tug", "ferry"]
        again = {"model_name": "cells.tar.gz", "url": str(models["cells.tar.gz"])}
        assert send("POST", "/models", again)[0] == 200
        assert invoke("cells.tar.gz")["classes"] == ["ant", "bee"]
