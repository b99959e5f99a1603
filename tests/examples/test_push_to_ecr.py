"""examples/push_to_ecr.sh, with an `aws` and a `docker` that only write down what they are asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "push_to_ecr.sh"
AWS = """#!/bin/sh
echo "aws $*" >>"$CALLS"
case "$*" in
*get-caller-identity*) echo 111111111111 ;;
*describe-repositories*) [ -n "$REPOSITORY_EXISTS" ] ;;
*get-login-password*) echo a-password ;;
esac
"""
DOCKER = """#!/bin/sh
case "$1" in
info | --version) exit 0 ;;
image) [ "$3" = tilewise ] ;;
login) echo "docker $* <$(cat)" >>"$CALLS" ;;
*) echo "docker $*" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name, text in (("aws", AWS), ("docker", DOCKER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    facts = {"PATH": path, "CALLS": str(tmp_path / "calls"), "REPOSITORY_EXISTS": "", "ENGINE": ""}
    return os.environ | facts | {"AWS_REGION": "eu-central-1"}


def push(environ: dict[str, str], *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env=environ, capture_output=True, text=True)
    calls = Path(environ["CALLS"])
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_push__makes_the_repository_logs_in_pushes_and_prints_the_uri(environ: dict[str, str]) -> None:
    done, calls = push(environ)
    registry = "111111111111.dkr.ecr.eu-central-1.amazonaws.com"
    assert (done.returncode, done.stdout) == (0, f"{registry}/tilewise:latest\n"), done.stderr
    assert [call.split(" --")[0] for call in calls] == [
        "aws sts get-caller-identity",
        "aws ecr describe-repositories",
        "aws ecr create-repository",
        "aws ecr get-login-password",
        "docker login",
        f"docker tag tilewise {registry}/tilewise:latest",
        f"docker push {registry}/tilewise:latest",
    ]
    assert f"docker login --username AWS --password-stdin {registry} <a-password" in calls
    assert "a-password" not in done.stdout + done.stderr


def test_push__to_a_repository_that_exists_in_china(environ: dict[str, str]) -> None:
    changed = {"REPOSITORY_EXISTS": "1", "AWS_REGION": "cn-north-1"}
    done, calls = push(environ | changed, "tilewise", "teams/cells:v2")
    uri = "111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn/teams/cells:v2"
    assert (done.returncode, done.stdout) == (0, f"{uri}\n"), done.stderr
    assert not any("create-repository" in call for call in calls)
    assert any("--repository-names teams/cells" in call for call in calls)
    assert calls[-1] == f"docker push {uri}"


@pytest.mark.parametrize(
    ("arguments", "changed", "words"),
    [
        (("nothing",), {}, "there is no image nothing: docker build -t nothing ."),
        ((), {"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "set AWS_REGION"),
    ],
    ids=["no_image", "no_region"],
)
def test_push__says_what_is_missing_and_pushes_nothing(
    environ: dict[str, str], arguments: tuple[str, ...], changed: dict[str, str], words: str
) -> None:
    done, calls = push(environ | changed, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not any(call.startswith("docker") for call in calls)
