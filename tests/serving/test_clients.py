"""Clients that people have, against a real server behind a stand-in for SageMaker's runtime."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from endpoint_process import EndpointProcess, standing_in

JPEG = b"\xff\xd8\xff"
PASSED_ON = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id")


class Runtime(http.server.BaseHTTPRequestHandler):
    """Does what SageMaker does between InvokeEndpoint and the container: paths, headers, ModelError."""

    port = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        model = self.headers.get("X-Amzn-SageMaker-Target-Model")
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", f"/models/{model}/invoke" if model else "/invocations", body, headers)
        response = connection.getresponse()
        content, status = response.read(), response.status
        connection.close()
        if status != 200:
            error = {"OriginalStatusCode": status, "OriginalMessage": content.decode(), "Message": "failed"}
            content, status = json.dumps(error).encode(), 424
            self.send_response(424)
            self.send_header("x-amzn-errortype", "ModelError")
        else:
            self.send_response(200)
            self.send_header("Content-Type", response.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with standing_in(tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.fixture(scope="module")
def runtime(server: EndpointProcess) -> Iterator[Any]:
    handler = type("Handler", (Runtime,), {"port": server.port})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    client = boto3.client(
        "sagemaker-runtime",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{proxy.server_port}",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()
    proxy.shutdown()
    proxy.server_close()


def test_boto3__invoke_endpoint(runtime: Any) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="cells",
        ContentType="application/x-image",
        Accept="application/json;annotation=1",
        CustomAttributes="threshold=0.4;max_detections=5",
        Body=JPEG + b" views=9",
    )
    content = json.loads(answer["Body"].read())
    assert answer["ContentType"].startswith("application/json")
    assert len(content["annotations"]) == 5
    assert content["categories"][0] == {"class_id": 0, "name": "ant"}


def test_boto3__model_error_has_our_reason(runtime: Any) -> None:
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(
            EndpointName="cells", ContentType="image/jpeg", CustomAttributes="threshold=2", Body=JPEG
        )
    error = caught.value.response
    assert error["OriginalStatusCode"] == 400
    assert "from 0 to 1" in json.loads(error["OriginalMessage"])["error"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl__a_file_and_a_form(server: EndpointProcess, tmp_path: Path) -> None:
    image = tmp_path / "large.jpg"
    image.write_bytes(JPEG + bytes(3_000_000))  # so large that curl waits for "100 Continue"
    url = f"http://127.0.0.1:{server.port}/invocations"
    for arguments in (
        ("--data-binary", f"@{image}", "-H", "Content-Type: image/jpeg"),
        ("-F", f"image=@{image}", "-F", "threshold=0.4"),
        (
            "-T",
            str(image),
            "-X",
            "POST",
            "-H",
            "Content-Type: image/jpeg",
            "-H",
            "Transfer-Encoding: chunked",
        ),
    ):
        ran = subprocess.run(["curl", "-sS", *arguments, url], capture_output=True, timeout=30, check=True)
        assert json.loads(ran.stdout)["prediction"][0][0] == 0.0
