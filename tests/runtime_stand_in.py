"""A stand-in for SageMaker's runtime: what lies between InvokeEndpoint and a container."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config

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


@contextmanager
def runtime_before(port: int) -> Iterator[str]:
    """The address of a stand-in before the container that listens on a port."""
    handler = type("Handler", (Runtime,), {"port": port})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()


@contextmanager
def boto3_runtime(port: int) -> Iterator[Any]:
    """boto3's client of the stand-in."""
    with runtime_before(port) as address:
        client = boto3.client(
            "sagemaker-runtime",
            region_name="us-east-1",
            endpoint_url=address,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(retries={"total_max_attempts": 1}),
        )
        yield client
        client.close()
