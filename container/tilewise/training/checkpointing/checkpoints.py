"""Checkpoints: all of a training run in one file, so that a job that was interrupted goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from tilewise.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 4
_NAME = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.pt")
_TEMPORARY = ".checkpoint.writing"


class Checkpoints:
    """The checkpoints of a job, in a folder that SageMaker mirrors to S3 and brings back, file by file.

    Each is one file that ``torch.load`` reads without pickled code. Its name has a number that rises and the
    first digits of the SHA-256 of its content: so a file that is not whole, or not what was written, is known
    by its name. It is written under another name and renamed. The two newest good ones are kept.

    Several processes may load; only one of them may save.

    Args:
        folder: is there, and can be written to.

    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._good: Path | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; where the disk does not take it, a warning says so and the old ones stay.

        Args:
            state: of texts, numbers, lists, dicts and tensors.

        """
        temporary = self.folder / _TEMPORARY
        number = 1 + max((_number(path) for path in self._files()), default=0)
        try:
            with temporary.open("wb") as file:
                digest = _write({"format": FORMAT, **state}, file)
            path = self.folder / f"checkpoint-{number:06d}-{digest}.pt"
            temporary.replace(path)
            _sync(self.folder)
            for old in self._files():
                if old not in (path, self._good):
                    old.unlink(missing_ok=True)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            log.warning(
                "the checkpoint could not be written (%s): training goes on, and if the job is interrupted "
                "it begins again at %s",
                error.strerror or error,
                f"the one before, {self._good.name}" if self._good else "the first epoch",
            )
            return
        self._good = path
        log.info("checkpoint: %s (%.1f MB)", path.name, path.stat().st_size / 1e6)

    def newest(self) -> dict[str, Any] | None:
        """What the newest checkpoint holds that is whole, on the CPU; None where there is none.

        A damaged one is skipped with a warning.

        Raises:
            UserError: it is whole, but of another version of Tilewise.

        """
        files = self._files()
        for path in reversed(files):
            problem = _problem(path)
            if not problem:
                self._good = path
                return _load(path)
            log.warning("the checkpoint %s is damaged: %s", path, problem)
        if files:
            log.warning(
                "none of the checkpoints in %s is whole: training starts from the beginning", self.folder
            )
        return None

    @property
    def name(self) -> str:
        """The file that was loaded or saved last, for messages; "" where there is none."""
        return str(self._good or "")

    def _files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_number)


class _Hashing:
    """A file to write to that knows the digest of what was written, and whether the disk refused it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sha256 = file, hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            self.sha256.update(content)
            return self.file.write(content)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(state: Mapping[str, Any], file: IO[bytes]) -> str:
    """Write a state down to the disk; returns its digest as file names have it."""
    hashing = _Hashing(file)
    try:
        torch.save(dict(state), hashing)  # type: ignore[arg-type]  # it asks no more of a file
    except RuntimeError:  # what torch makes of it when the disk is full
        if hashing.refused:
            raise hashing.refused from None
        raise
    file.flush()
    os.fsync(file.fileno())
    return hashing.sha256.hexdigest()[:16]


def _sync(folder: Path) -> None:
    """Let the names in a folder survive a crash of the machine, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _problem(path: Path) -> str:
    """Why a file is not what was written; "" when it is."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    match = _NAME.fullmatch(path.name)
    if match is None or digest != match[2]:
        return "its content is not what was written (it was cut short, or changed)"
    return ""


def _load(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except (RuntimeError, UnpicklingError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of Tilewise ({type(error).__name__}): delete it") from None
    if version != FORMAT:
        raise UserError(
            f"the checkpoint {path} has format {version}, which this version of Tilewise does not know: take "
            "the image that wrote it, or give CheckpointConfig another S3Uri"
        )
    return state
