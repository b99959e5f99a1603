from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from tilewise import platform
from tilewise.errors import UserError

CONFIG = ("hyperparameters", "inputdataconfig", "resourceconfig")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /opt/ml, which sagemaker-training sees as well."""
    folder = tmp_path / "opt" / "ml"
    config = folder / "input" / "config"
    config.mkdir(parents=True)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(folder))
    from sagemaker_training import environment  # computes its paths when it is imported

    monkeypatch.setattr(environment, "hyperparameters_file_dir", str(config / "hyperparameters.json"))
    monkeypatch.setattr(environment, "input_data_config_file_dir", str(config / "inputdataconfig.json"))
    monkeypatch.setattr(environment, "resource_config_file_dir", str(config / "resourceconfig.json"))
    return folder


def configure(base: Path, **contents: Any) -> None:
    for name in CONFIG:
        file = base / "input" / "config" / f"{name}.json"
        file.write_text(json.dumps(contents.get(name, {})), encoding="utf-8")


def test_base_dir__is_opt_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAGEMAKER_BASE_DIR", raising=False)
    assert platform.base_dir() == Path("/opt/ml")
    assert platform.model_dir() == Path("/opt/ml/model")
    assert platform.output_data_dir() == Path("/opt/ml/output/data")


def test_base_dir__moved_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", "/somewhere/else")
    assert platform.base_dir() == Path("/somewhere/else")
    assert platform.model_dir() == Path("/somewhere/else/model")


def test_read_job__all_of_it(base: Path) -> None:
    configure(
        base,
        hyperparameters={"epochs": "30", "base_network": "resnet-50", "lr_scheduler_step": "10,20"},
        inputdataconfig={
            "train": {
                "ContentType": "Image/JPEG; charset=binary",
                "TrainingInputMode": "FastFile",
                "S3DistributionType": "FullyReplicated",
                "RecordWrapperType": "None",
            },
            "validation": {"TrainingInputMode": "Pipe", "S3DistributionType": "ShardedByS3Key"},
            "train_annotation": None,
        },
        resourceconfig={
            "current_host": "algo-2",
            "hosts": ["algo-2", "algo-10", "algo-1"],
            "network_interface_name": "ethwe",
            "topology": None,
        },
    )
    job = platform.read_job()
    assert job.hyperparameters["base_network"] == "resnet-50"
    assert str(job.hyperparameters["epochs"]) == "30"
    assert job.hyperparameters["lr_scheduler_step"] == "10,20"
    data = base / "input" / "data"
    assert dict(job.channels) == {
        "train": platform.JobChannel("train", data / "train", "image/jpeg; charset=binary", "FastFile"),
        "validation": platform.JobChannel("validation", data / "validation", "", "Pipe", "ShardedByS3Key"),
        "train_annotation": platform.JobChannel("train_annotation", data / "train_annotation", "", "File"),
    }
    assert job.hosts == ("algo-1", "algo-10", "algo-2")
    assert (job.current_host, job.network_interface) == ("algo-2", "ethwe")


def test_read_job__bare_resource_config(base: Path) -> None:
    configure(base)
    job = platform.read_job()
    assert (job.hosts, job.current_host, job.network_interface) == (("algo-1",), "algo-1", "eth0")


def test_read_job__in_a_fresh_process(base: Path) -> None:
    configure(base, hyperparameters={"num_classes": "2"}, inputdataconfig={"train": {}})
    code = "from tilewise.platform import read_job; j = read_job(); print(j.hyperparameters, *j.channels)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "{'num_classes': 2} train"


def test_read_job__without_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"nothing/input/config does not exist: .*SAGEMAKER_BASE_DIR"):
        platform.read_job()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", CONFIG)
def test_read_job__missing_file(base: Path, name: str) -> None:
    configure(base)
    (base / "input" / "config" / f"{name}.json").unlink()
    with pytest.raises(UserError, match=rf"/{name}\.json cannot be read \(No such file or directory\)"):
        platform.read_job()


@pytest.mark.parametrize("name", CONFIG)
@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b'{"a": "\xff"}', b"[" * 100_000])
def test_read_job__not_json(base: Path, name: str, content: bytes) -> None:
    configure(base)
    (base / "input" / "config" / f"{name}.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"/{name}\.json is not JSON: "):
        platform.read_job()


@pytest.mark.parametrize("name", CONFIG)
@pytest.mark.parametrize("content", ["[]", '[{"a": "1"}]', "3", '"text"', "null"])
def test_read_job__no_object(base: Path, name: str, content: str) -> None:
    configure(base)
    (base / "input" / "config" / f"{name}.json").write_text(content)
    with pytest.raises(UserError, match=rf"/{name}\.json must hold one JSON object, \{{…\}}"):
        platform.read_job()


def test_require_writable__makes_folder(tmp_path: Path) -> None:
    platform.require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert not list((tmp_path / "a" / "b").iterdir())


def test_require_writable__file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(UserError, match=r"/model is not a folder .+ can write to \(.+\): mount it writable"):
        platform.require_writable(tmp_path / "model")


def fail(error: BaseException) -> str:
    return platform.write_failure(platform.failure_sentence(error))


def test_write_failure__client_error(base: Path) -> None:
    sentence = fail(UserError("num_classes is missing"))
    assert sentence == "ClientError: num_classes is missing"
    assert (base / "output" / "failure").read_text() == sentence


def test_write_failure__algorithm_error(base: Path) -> None:
    sentence = fail(ZeroDivisionError("division by zero"))
    assert sentence == "AlgorithmError: ZeroDivisionError: division by zero"
    assert (base / "output" / "failure").read_text() == sentence


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_failure_sentence__a_full_disk_is_for_the_user_to_mend(error: Exception) -> None:
    sentence = f"ClientError: the disk is full ({error}): give the job a larger volume (VolumeSizeInGB)"
    assert platform.failure_sentence(error) == sentence


@pytest.mark.parametrize("letter", ["x", "ä", "木", "🐜"])
def test_write_failure__at_most_1024_characters(base: Path, letter: str) -> None:
    short = fail(UserError(letter * (1024 - len("ClientError: "))))
    assert len(short) == 1024 and short.endswith(letter)
    fail(UserError(letter * 5000))
    written = (base / "output" / "failure").read_text(encoding="utf-8")
    assert len(written) == 1024
    assert written.startswith("ClientError: " + letter) and written.endswith(letter + "…")


def test_write_failure__file_name_that_is_not_utf_8(base: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert fail(UserError(f"{name} is damaged")) == r"ClientError: caf\udce9.jpg is damaged"
    assert (base / "output" / "failure").read_text() == r"ClientError: caf\udce9.jpg is damaged"


def test_write_failure__nowhere_to_write(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "output").write_text("")
    assert fail(UserError("no")) == "ClientError: no"
    assert "output/failure cannot be written" in capsys.readouterr().out


LISTENER = """
import time
from tilewise.platform import StopRequest
stop = StopRequest().listen()
assert not stop.requested
print("listening", flush=True)
while not stop.requested:
    time.sleep(0.01)
print("stopping", flush=True)
"""


def test_stop_request__on_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        assert not select.select([process.stdout], [], [], 0.1)[0]
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert rest.splitlines() == [
        "SIGTERM received: finishing the step, then leaving with the best model so far",
        "stopping",
    ]


def test_checkpoint_dir__only_where_the_job_wants_checkpoints(base: Path) -> None:
    assert platform.checkpoint_dir() is None
    config = base / "input" / "config" / "checkpointconfig.json"
    config.write_text(json.dumps({"S3Uri": "s3://bucket/a", "LocalPath": "/opt/ml/checkpoints"}))
    assert platform.checkpoint_dir() == base / "checkpoints"
    config.write_text(json.dumps({"S3Uri": "s3://bucket/a", "LocalPath": "/somewhere/else"}))
    assert platform.checkpoint_dir() == Path("/somewhere/else")
    for text in ("{", "[]", "{}"):
        config.write_text(text)
        assert platform.checkpoint_dir() == base / "checkpoints"
    config.unlink()
    (base / "checkpoints").mkdir()
    assert platform.checkpoint_dir() == base / "checkpoints"


def test_tensorboard_dir__only_where_the_job_has_a_place_for_it(base: Path) -> None:
    assert platform.tensorboard_dir() is None
    config = base / "input" / "config" / "tensorboardoutputconfig.json"
    usual = base / "output" / "tensorboard"
    for local_path in ({"LocalPath": "/opt/ml/output/tensorboard/"}, {"LocalPath": None}, {}):
        config.write_text(json.dumps({"S3OutputPath": "s3://bucket/a"} | local_path))
        assert platform.tensorboard_dir() == usual
    config.write_text(json.dumps({"S3OutputPath": "s3://bucket/a", "LocalPath": "/somewhere/else"}))
    assert platform.tensorboard_dir() == Path("/somewhere/else")
    for text in ("{", "[]"):
        config.write_text(text)
        assert platform.tensorboard_dir() == usual
    config.unlink()
    usual.mkdir(parents=True)
    assert platform.tensorboard_dir() == usual


def test_read_job__by_a_user_who_may_not_make_the_code_folder(base: Path) -> None:
    configure(base, hyperparameters={"num_classes": "2"})
    code = (
        "import os\n"
        "make = os.makedirs\n"
        "def refuse(path, *rest, **more):\n"
        "    if str(path).endswith('code'): raise PermissionError(13, 'Permission denied', path)\n"
        "    make(path, *rest, **more)\n"
        "os.makedirs = refuse\n"
        "from tilewise.platform import read_job\n"
        "print(read_job().hyperparameters, os.makedirs is refuse)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "{'num_classes': 2} True"
    assert not (base / "code").exists()


def test_remove_failure__of_an_earlier_run(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    platform.remove_failure()
    platform.write_failure("ClientError: an earlier one")
    platform.remove_failure()
    assert not (base / "output" / "failure").exists()
    (base / "output" / "failure").mkdir()
    platform.remove_failure()
    assert "of an earlier run, cannot be removed" in caplog.text
