"""The server's settings, from the environment variables of SageMaker's own toolkits and a few of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from tilewise.errors import UserError
from tilewise.inference.description import GRAPH_SUFFIX, model_in
from tilewise.inference.load import BACKENDS, BackendName
from tilewise.inference.tile_options import TILE_OPTIONS, read_tile_options
from tilewise.machine import MAX_PIXELS, available_cores, memory_limit, visible_gpus
from tilewise.serving.addresses import KINDS
from tilewise.serving.responses import DEFAULT_FORM, Form, NotAcceptableError, accepted, choose_form
from tilewise.tasks.answers import all_forms
from tilewise.tiling.spec import AS_TRAINED, TileOptions

MEGABYTE = 1024 * 1024
DEFAULT_MAX_PAYLOAD_MB = 25
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
MEMORY_SHARE = 0.8
GRAPH_WORKER_BYTES, TORCH_WORKER_BYTES = 400 * MEGABYTE, 1100 * MEGABYTE
PREFIX = "TILEWISE_"
_OURS = (
    *("BACKEND", "BATCH_DELAY_MS", "FETCH", "LOG", "MAX_IN_FLIGHT", "MAX_PAYLOAD_MB", "MAX_PIXELS"),
    *("MAX_REQUESTS", "PAGE", "VIEW_TIMEOUT"),
)
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
        max_pixels: of an image; 0 for as many as the memory allows.
        max_requests: after so many a worker is recycled; 0 for never.
        log_as_json: a line of JSON for each request, and for all else.
        multi_model: whether models come and go, as SageMaker's multi-model endpoints have them.
        fetched: kinds of addresses from which images are fetched that a request names: ``s3``, ``https``.
        page: whether browsers get a page.
        default_form: the answer's form when a request leaves it open.
        log_level: of :mod:`logging`.
        tiles: in place of the model's own.
        backend: what runs the model.
        batch_delay_s: how long a GPU waits for more images to look at together.

    """

    port: int = 8080
    workers: int = 1
    timeout_s: int = 60
    max_payload_mb: int = DEFAULT_MAX_PAYLOAD_MB
    max_in_flight: int = 256
    view_timeout_s: int = 60
    max_pixels: int = 0
    max_requests: int = 10_000
    log_as_json: bool = False
    multi_model: bool = False
    fetched: frozenset[str] = frozenset()
    page: bool = True
    default_form: Form = DEFAULT_FORM
    log_level: int = logging.INFO
    tiles: TileOptions = AS_TRAINED
    backend: BackendName = "auto"
    batch_delay_s: float = 0.0

    @property
    def max_payload_bytes(self) -> int:
        """The largest request body in bytes."""
        return self.max_payload_mb * MEGABYTE


def read_settings(environ: Mapping[str, str], model_dir: Path | None = None) -> Settings:
    """Read the settings from environment variables; one that is empty counts as not set.

    Args:
        environ: the variables.
        model_dir: the model's folder, whose size decides how many workers fit into the memory.

    Raises:
        UserError: a value is wrong; the message names the variable.

    """
    _check_names(environ)
    workers_variable = "SAGEMAKER_MODEL_SERVER_WORKERS"
    if not environ.get(workers_variable):
        workers_variable = "MODEL_SERVER_WORKERS"
    return Settings(
        port=_integer(environ, "SAGEMAKER_BIND_TO_PORT", Settings.port, 1, 65535),
        workers=_integer(environ, workers_variable, 0, 1, 256) or default_workers(environ, model_dir),
        timeout_s=_integer(environ, "SAGEMAKER_MODEL_SERVER_TIMEOUT", Settings.timeout_s, 1, 86400),
        max_payload_mb=_max_payload_mb(environ),
        max_in_flight=_integer(environ, "TILEWISE_MAX_IN_FLIGHT", Settings.max_in_flight, 1, 512),
        view_timeout_s=_integer(environ, "TILEWISE_VIEW_TIMEOUT", Settings.view_timeout_s, 1, 86400),
        max_pixels=_integer(environ, MAX_PIXELS, 0, 1, 999_999_999),
        max_requests=_integer(environ, "TILEWISE_MAX_REQUESTS", Settings.max_requests, 0, 1_000_000),
        log_as_json=_choice(environ, "TILEWISE_LOG", ("text", "json")) == "json",
        multi_model=_choice(environ, "SAGEMAKER_MULTI_MODEL", ("false", "true", "0", "1")) in ("true", "1"),
        fetched=_fetched(environ),
        page=_choice(environ, "TILEWISE_PAGE", ("on", "off")) == "on",
        default_form=_default_form(environ),
        log_level=_log_level(environ),
        tiles=read_tile_options({name: environ.get(_variable(name), "") for name in TILE_OPTIONS}, _variable),
        backend=read_backend(environ),
        batch_delay_s=_integer(environ, "TILEWISE_BATCH_DELAY_MS", 0, 0, 1000) / 1000,
    )


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse a name of ours that is misspelt. Others may begin like ours: Kubernetes names services so."""
    ours = [*_OURS, *(_variable(option).removeprefix(PREFIX) for option in TILE_OPTIONS)]
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if name != rest and rest not in ours and (meant := get_close_matches(rest, ours, n=1, cutoff=0.75)):
            raise UserError(f"there is no environment variable {name}: {PREFIX}{meant[0]} is meant?")


def _variable(tile_option: str) -> str:
    return f"{PREFIX}{tile_option.upper()}"


def read_backend(environ: Mapping[str, str]) -> BackendName:
    """What is to run the model.

    Raises:
        UserError: there is no such backend.

    """
    return cast("BackendName", _choice(environ, "TILEWISE_BACKEND", BACKENDS))


def default_workers(environ: Mapping[str, str], model_dir: Path | None = None) -> int:
    """A process a GPU; without one a process a core, as far as the memory goes.

    Several processes of one thread answer more requests than one of several threads, and go on when somebody
    else takes a core (benchmarks/serving_speed.py). Where the user says how many threads compute together,
    that is how many cores a process has.
    """
    gpus = len(visible_gpus())
    if gpus and read_backend(environ) != "onnx":
        return gpus
    cores = max(1, available_cores() // (_given_threads(environ) or 1))
    return max(1, min(cores, int(MEMORY_SHARE * memory_limit() / _worker_bytes(environ, model_dir))))


def _worker_bytes(environ: Mapping[str, str], model_dir: Path | None) -> int:
    """About what a worker needs: its libraries, the model, and an image of some 10 million pixels."""
    weights = sum(path.stat().st_size for path in model_dir.rglob("*.safetensors")) if model_dir else 0
    graph = model_dir is not None and any(model_in(model_dir).glob(f"*{GRAPH_SUFFIX}"))
    without_torch = graph and read_backend(environ) in ("auto", "onnx")
    return (GRAPH_WORKER_BYTES if without_torch else TORCH_WORKER_BYTES) + 3 * weights


def thread_caps(environ: Mapping[str, str], workers: int, cores: int) -> dict[str, str]:
    """The variables that keep the workers' threads from fighting for the cores, unless the user set them.

    ``OMP_NUM_THREADS`` of the user's holds for all libraries. They count only when they are set before these
    are loaded.
    """
    threads = str(_given_threads(environ) or max(1, cores // workers))
    return {name: threads for name in _THREAD_VARIABLES if not environ.get(name)}


def _given_threads(environ: Mapping[str, str]) -> int:
    """What the user's ``OMP_NUM_THREADS`` says first, as it may be a list; 0 for nothing that is a number."""
    first = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise UserError(f"{name} must be a whole number from {low} to {high}, not {text!r}")


def _fetched(environ: Mapping[str, str]) -> frozenset[str]:
    name = "TILEWISE_FETCH"
    kinds = frozenset(part.strip().lower() for part in environ.get(name, "").split(",") if part.strip())
    if kinds - set(KINDS):
        raise UserError(
            f"{name} must be of {', '.join(KINDS)}, with commas between them, not {environ[name]!r}"
        )
    return kinds


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
    text = environ.get(name, "").strip()
    if not text:
        return DEFAULT_FORM
    forms = all_forms()  # of which model, is not known before it is loaded
    try:
        return choose_form(text, DEFAULT_FORM, forms)
    except NotAcceptableError:
        raise UserError(f"{name} must be one of {accepted(forms)}, not {text!r}") from None


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
