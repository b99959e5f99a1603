"""Examples that ask AWS, with moto in its place, and what botocore's models of AWS say of their requests."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.model import Shape
from botocore.validate import ParamValidator

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ROLE = "arn:aws:iam::111111111111:role/sagemaker"
IMAGE = "111111111111.dkr.ecr.us-east-1.amazonaws.com/tilewise:latest"
LOG = "TEST_REQUESTS_LOG"
JOB = ("--image", IMAGE, "--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/out")


def client(aws: dict[str, str], service: str = "sagemaker") -> Any:
    """A client of moto's server."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=aws["AWS_ENDPOINT_URL"], **keys)


def run(aws: dict[str, str], script: str, *arguments: str) -> str:
    """What an example prints; each of its requests is checked before it is sent."""
    command = [sys.executable, __file__, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, env=aws, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sent(aws: dict[str, str], script: str, *arguments: str) -> Any:
    """The last request that an example sends: moto does not keep all of it."""
    with tempfile.NamedTemporaryFile("r") as log:
        run(aws | {LOG: log.name}, script, *arguments)
        return json.loads(log.read())


@cache
def _service(name: str) -> Any:
    return botocore.session.get_session().get_service_model(name)


def check_request(operation: str, request: Any, service: str = "sagemaker") -> None:
    """Fail where AWS would refuse a request's form; botocore itself looks at types and what is required."""
    model = _service(service).operation_model(operation)
    request = dict.fromkeys(model.idempotent_members, 36 * "-") | request
    report = ParamValidator().validate(request, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    wrong = list(_wrong(operation, request, model.input_shape))
    assert not wrong, "\n".join(wrong)


def members(operation: str) -> Any:
    """What an operation answers, by name."""
    return _service("sagemaker").operation_model(operation).output_shape.members


def _wrong(path: str, value: Any, shape: Shape) -> Iterator[str]:
    limits = shape.metadata
    size = len(value) if isinstance(value, (str, list, dict)) else value
    if not isinstance(value, bool) and isinstance(size, (int, float)):
        if size < limits.get("min", size) or size > limits.get("max", size):
            yield f"{path}: {size} is not in {limits.get('min')}..{limits.get('max')}"
    if isinstance(value, str):
        if value not in limits.get("enum", [value]):
            yield f"{path}: {value} is none of {limits['enum']}"
        if not _matches(pattern := limits.get("pattern", "(?s:.*)"), value):
            yield f"{path}: {value!r} is not like {pattern}"
    elif shape.type_name == "structure":
        for name, item in value.items():
            yield from _wrong(f"{path}.{name}", item, shape.members[name])
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _wrong(f"{path}[{index}]", item, shape.member)
    elif shape.type_name == "map":
        for name, item in value.items():
            yield from _wrong(f"{path}.{name}", name, shape.key)
            yield from _wrong(f"{path}.{name}", item, shape.value)


def _matches(pattern: str, text: str) -> bool:
    """Whether it does; a pattern that only Java knows, such as ``\\p{Print}*``, is not asked."""
    try:
        return bool(re.fullmatch(pattern, text))
    except re.error:
        return True


def _run_with_checks() -> None:
    call = BaseClient._make_api_call

    def checked(self: Any, operation: str, request: Any) -> Any:
        check_request(operation, request, self.meta.service_model.service_name)
        if LOG in os.environ:
            Path(os.environ[LOG]).write_text(json.dumps(request))
        return call(self, operation, request)

    BaseClient._make_api_call = checked
    del sys.argv[0]
    sys.path[0] = str(EXAMPLES)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _run_with_checks()
