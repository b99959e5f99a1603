"""All that Tilewise knows of the SageMaker platform: folders, configuration, channels, signals, failure."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from tilewise.errors import UserError

log = logging.getLogger(__name__)

FAILURE_LIMIT = 1024
"""SageMaker shows this many characters of ``/opt/ml/output/failure`` as the job's FailureReason."""


CLIENT_ERROR = "ClientError"
"""Begins the reason of a failure that the user can fix."""


def base_dir() -> Path:
    """``/opt/ml``, or where ``SAGEMAKER_BASE_DIR`` moves it."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def model_dir() -> Path:
    """The folder that SageMaker packs as ``model.tar.gz`` after training and unpacks before serving."""
    return base_dir() / "model"


def output_data_dir() -> Path:
    """The folder that SageMaker packs as ``output.tar.gz`` after training."""
    return base_dir() / "output" / "data"


def checkpoint_dir() -> Path | None:
    """The folder that SageMaker mirrors to S3 while a job runs, and fills again when the job is restarted.

    None where a job wants no checkpoints: then there is neither that folder nor ``checkpointconfig.json``.
    """
    usual = Path("/opt/ml/checkpoints")
    config = base_dir() / "input" / "config" / "checkpointconfig.json"
    local_path: object = None
    if config.is_file():
        try:
            local_path = json.loads(config.read_text(encoding="utf-8")).get("LocalPath")
        except (ValueError, AttributeError, OSError):
            log.warning("%s cannot be read: checkpoints are kept where they usually are", config)
    if isinstance(local_path, str) and local_path and Path(local_path) != usual:
        return Path(local_path)
    folder = base_dir() / "checkpoints"
    return folder if config.is_file() or folder.is_dir() else None


def tensorboard_dir() -> Path | None:
    """The folder that SageMaker mirrors to the job's ``TensorBoardOutputConfig``; None where it has none."""
    config = base_dir() / "input" / "config" / "tensorboardoutputconfig.json"
    folder = base_dir() / "output" / "tensorboard"
    if not config.is_file():
        return folder if folder.is_dir() else None
    try:
        local_path = json.loads(config.read_text(encoding="utf-8")).get("LocalPath")
    except (ValueError, AttributeError, OSError):
        log.warning("%s cannot be read: TensorBoard's events are also written to %s", config, folder)
        return folder
    usual = "/opt/ml/output/tensorboard"
    moved = isinstance(local_path, str) and local_path.rstrip("/") not in ("", usual)
    return Path(local_path) if moved else folder


def job_name() -> str:
    """What the job is called, as SageMaker says in its environment; "" elsewhere."""
    return os.environ.get("TRAINING_JOB_NAME", "")


@dataclass(frozen=True)
class JobChannel:
    """One input channel of a job, as ``inputdataconfig.json`` describes it.

    Attributes:
        name: ``train``, ``validation``, ``train_annotation``, …
        path: the folder that holds its files (File and FastFile mode).
        content_type: as the user gave it, with its parameters, in lower case; "" when not given.
        input_mode: ``File``, ``FastFile`` or ``Pipe``; then pass k is the FIFO ``<path>_<k>``.
        distribution: ``FullyReplicated``, or ``ShardedByS3Key`` where each host gets a part of its own.

    """

    name: str
    path: Path
    content_type: str = ""
    input_mode: str = "File"
    distribution: str = "FullyReplicated"


@dataclass(frozen=True)
class Job:
    """What SageMaker tells a training container: hyperparameters, channels and hosts."""

    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, JobChannel]
    hosts: tuple[str, ...]
    current_host: str
    network_interface: str


def read_job() -> Job:
    """Read the job's configuration below :func:`base_dir` through sagemaker-training's environment.

    Raises:
        UserError: there is no ``/opt/ml`` here, or a configuration file is missing or not JSON.

    """
    config = base_dir() / "input" / "config"
    if not config.is_dir():
        raise UserError(
            f"{config} does not exist: run this in a SageMaker training job, mount a folder with its layout "
            "at /opt/ml, or name such a folder in SAGEMAKER_BASE_DIR"
        )
    environment = _toolkit()
    hyperparameters = _read(config / "hyperparameters.json", environment.read_hyperparameters)
    channels = _read(config / "inputdataconfig.json", environment.read_input_data_config)
    resources = _read(config / "resourceconfig.json", environment.read_resource_config)
    return Job(
        hyperparameters=hyperparameters,
        channels={name: _channel(name, entry) for name, entry in channels.items()},
        hosts=tuple(sorted(resources.get("hosts") or ["algo-1"])),
        current_host=resources.get("current_host") or "algo-1",
        network_interface=resources.get("network_interface_name") or "eth0",
    )


def _toolkit() -> Any:
    """sagemaker-training's environment; its import makes ``/opt/ml/code``, which no job needs."""
    # Imported here: it takes boto3 with it, and it makes folders where it finds no /opt/ml.
    logging.getLogger("sagemaker-training-toolkit").setLevel(logging.WARNING)
    try:
        from sagemaker_training import environment
    except OSError:  # a user who is not root, or a read-only /opt/ml
        with patch("os.makedirs"):
            from sagemaker_training import environment
    return environment


def _read(path: Path, reader: Any) -> dict[str, Any]:
    try:
        content = reader()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); SageMaker writes it for every job, and for a folder "
            "of your own local_test/compose has one to copy"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    except AttributeError:  # sagemaker-training asks a list or a number for its items
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one JSON object, {{…}}")
    return content


def _channel(name: str, entry: Any) -> JobChannel:
    config = entry if isinstance(entry, dict) else {}
    content_type = str(config.get("ContentType") or "").strip().lower()
    input_mode = str(config.get("TrainingInputMode") or "File")
    distribution = str(config.get("S3DistributionType") or "FullyReplicated")
    return JobChannel(name, base_dir() / "input" / "data" / name, content_type, input_mode, distribution)


def require_writable(folder: Path) -> None:
    """Make ``folder`` if it is not there, and prove that a file can be written into it.

    Raises:
        UserError: it cannot.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} is not a folder that this user can write to ({error.strerror}): mount it writable"
        ) from None


def failure_sentence(error: BaseException) -> str:
    """The reason of a failure as SageMaker's own algorithms put it.

    ``ClientError: …`` stands for what the user can fix, ``AlgorithmError: …`` for what is ours to fix.
    """
    if isinstance(error, UserError):
        sentence = f"{CLIENT_ERROR}: {error}"
    elif _is_disk_full(error):
        sentence = (
            f"{CLIENT_ERROR}: the disk is full ({error}): give the job a larger volume (VolumeSizeInGB)"
        )
    else:
        sentence = f"AlgorithmError: {type(error).__name__}: {error}"
    # A file name that is not UTF-8 holds surrogates, which no UTF-8 file can.
    return sentence.encode("utf-8", "backslashreplace").decode()


def _is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for lack of room; safetensors says so in its text alone."""
    code = error.errno if isinstance(error, OSError) else None
    return code in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(error)


def remove_failure() -> None:
    """Remove what an earlier run in the same folder left: SageMaker would take it for this run's."""
    path = base_dir() / "output" / "failure"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s, of an earlier run, cannot be removed (%s)", path, error.strerror)


def write_failure(sentence: str) -> str:
    """Leave the reason of a failure where SageMaker looks for it, and return it as it was written."""
    if len(sentence) > FAILURE_LIMIT:
        sentence = sentence[: FAILURE_LIMIT - 1] + "…"
    folder = base_dir() / "output"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure").write_text(sentence, encoding="utf-8")
    except OSError as problem:
        print(f"{folder / 'failure'} cannot be written ({problem.strerror})", flush=True)
    return sentence


class StopRequest:
    """The platform's stop token: SageMaker sends SIGTERM, and SIGKILL 120 seconds later."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> StopRequest:
        """Turn SIGTERM from now on into :attr:`requested`."""
        signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        # os.write, not print: a signal may arrive while print holds its lock.
        os.write(1, b"SIGTERM received: finishing the step, then leaving with the best model so far\n")
