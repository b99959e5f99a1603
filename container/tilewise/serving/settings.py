"""The server's settings, from the environment variables of SageMaker's own toolkits and a few of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewise.errors import UserError
from tilewise.inference.tile_options import TILE_OPTIONS, read_tile_options
from tilewise.machine import available_cores
from tilewise.serving.responses import ACCEPTED, DEFAULT_FORM, Form, NotAcceptableError, choose_form
from tilewise.tiling.spec import AS_TRAINED, TileOptions

MEGABYTE = 1024 * 1024
DEFAULT_MAX_PAYLOAD_MB = 25
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        port: TCP port, on all interfaces.
        workers: processes, each with a model of its own.
        timeout_s: how long a request may wait for its turn, and a worker be silent before it is replaced.
        max_payload_mb: the largest request body, in 1024 * 1024 bytes.
        max_in_flight: invocations that one worker holds at most, the one being computed included; those that
            would wait for longer than ``timeout_s`` are refused before.
        view_timeout_s: how long the model may look at one batch of views before its worker is replaced.
        max_requests: after so many a worker is recycled; 0 for never.
        log_as_json: a line of JSON for each request, and for all else.
        default_form: the answer's form when a request leaves it open.
        log_level: of :mod:`logging`.
        tiles: in place of the model's own.

    """

    port: int = 8080
    workers: int = 1
    timeout_s: int = 60
    max_payload_mb: int = DEFAULT_MAX_PAYLOAD_MB
    max_in_flight: int = 256
    view_timeout_s: int = 60
    max_requests: int = 10_000
    log_as_json: bool = False
    default_form: Form = DEFAULT_FORM
    log_level: int = logging.INFO
    tiles: TileOptions = AS_TRAINED

    @property
    def max_payload_bytes(self) -> int:
        """The largest request body in bytes."""
        return self.max_payload_mb * MEGABYTE


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables; one that is empty counts as not set.

    Raises:
        UserError: a value is wrong; the message names the variable.

    """
    workers_variable = "SAGEMAKER_MODEL_SERVER_WORKERS"
    if not environ.get(workers_variable):
        workers_variable = "MODEL_SERVER_WORKERS"
    return Settings(
        port=_integer(environ, "SAGEMAKER_BIND_TO_PORT", Settings.port, 1, 65535),
        workers=_integer(environ, workers_variable, 0, 1, 256) or default_workers(environ),
        timeout_s=_integer(environ, "SAGEMAKER_MODEL_SERVER_TIMEOUT", Settings.timeout_s, 1, 86400),
        max_payload_mb=_max_payload_mb(environ),
        max_in_flight=_integer(environ, "TILEWISE_MAX_IN_FLIGHT", Settings.max_in_flight, 1, 512),
        view_timeout_s=_integer(environ, "TILEWISE_VIEW_TIMEOUT", Settings.view_timeout_s, 1, 86400),
        max_requests=_integer(environ, "TILEWISE_MAX_REQUESTS", Settings.max_requests, 0, 1_000_000),
        log_as_json=_choice(environ, "TILEWISE_LOG", ("text", "json")) == "json",
        default_form=_default_form(environ),
        log_level=_log_level(environ),
        tiles=read_tile_options({name: environ.get(_variable(name), "") for name in TILE_OPTIONS}, _variable),
    )


def _variable(tile_option: str) -> str:
    return f"TILEWISE_{tile_option.upper()}"


def default_workers(environ: Mapping[str, str]) -> int:
    """One process where there is a GPU, else one for every four cores."""
    return 1 if _has_gpu(environ) else max(1, available_cores() // 4)


def thread_caps(environ: Mapping[str, str], workers: int, cores: int) -> dict[str, str]:
    """The variables that keep the workers' threads from fighting for the cores, unless the user set them.

    They count only when they are set before torch is imported.
    """
    threads = str(max(1, cores // workers))
    return {name: threads for name in _THREAD_VARIABLES if not environ.get(name)}


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise UserError(f"{name} must be a whole number from {low} to {high}, not {text!r}")


def _choice(environ: Mapping[str, str], name: str, values: Sequence[str]) -> str:
    """One of the values; the first where nothing is given."""
    text = environ.get(name, "").strip().lower() or values[0]
    if text not in values:
        raise UserError(f"{name} must be one of {', '.join(values)}, not {text!r}")
    return text


def _max_payload_mb(environ: Mapping[str, str]) -> int:
    name = "TILEWISE_MAX_PAYLOAD_MB"
    if environ.get(name, "").strip():
        return _integer(environ, name, 0, 1, 1024)
    if environ.get("SAGEMAKER_BATCH", "").strip().lower() not in ("true", "1"):
        return DEFAULT_MAX_PAYLOAD_MB
    return max(DEFAULT_MAX_PAYLOAD_MB, _integer(environ, "SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, 0, 1024))


def _default_form(environ: Mapping[str, str]) -> Form:
    name = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
    try:
        return choose_form(environ.get(name), DEFAULT_FORM)
    except NotAcceptableError:
        raise UserError(f"{name} must be one of {ACCEPTED}, not {environ[name]!r}") from None


def _log_level(environ: Mapping[str, str]) -> int:
    """A name or, as SageMaker's SDK sets it, a number."""
    name = "SAGEMAKER_CONTAINER_LOG_LEVEL"
    text = environ.get(name, "").strip().lower()
    if not text:
        return Settings.log_level
    levels = {level: getattr(logging, level.upper()) for level in _LOG_LEVELS}
    numbers = {str(number): number for number in levels.values()}
    level = levels.get(text, numbers.get(text))
    if level is None:
        raise UserError(f"{name} must be one of {', '.join([*levels, *numbers])}, not {text!r}")
    return int(level)


def _has_gpu(environ: Mapping[str, str]) -> bool:
    """Asked of /dev: the master process must not import torch, for its workers fork from it."""
    if environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))
