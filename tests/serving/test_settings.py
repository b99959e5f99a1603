from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tilewise.errors import UserError
from tilewise.serving import settings
from tilewise.serving.gunicorn_config import gunicorn_options
from tilewise.serving.responses import Form
from tilewise.serving.settings import MEGABYTE, Settings, default_workers, read_settings, thread_caps
from tilewise.tiling.spec import TileOptions


def test_read_settings__defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "available_cores", lambda: 1)
    assert read_settings({}) == Settings()
    assert read_settings({"SAGEMAKER_BIND_TO_PORT": "", "TILEWISE_MAX_IN_FLIGHT": " "}) == Settings()


def test_read_settings__everything_set() -> None:
    read = read_settings(
        {
            "SAGEMAKER_BIND_TO_PORT": "9000",
            "SAGEMAKER_MODEL_SERVER_WORKERS": "3",
            "MODEL_SERVER_WORKERS": "5",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT": "120",
            "TILEWISE_MAX_PAYLOAD_MB": "6",
            "TILEWISE_MAX_IN_FLIGHT": "4",
            "TILEWISE_VIEW_TIMEOUT": "30",
            "TILEWISE_MAX_REQUESTS": "0",
            "TILEWISE_MAX_PIXELS": "1000000",
            "TILEWISE_LOG": "json",
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "application/jsonlines;annotation=1",
            "SAGEMAKER_CONTAINER_LOG_LEVEL": "10",
        }
    )
    lines = Form("application/jsonlines", annotation=True)
    assert read == Settings(
        port=9000,
        workers=3,
        timeout_s=120,
        max_payload_mb=6,
        max_in_flight=4,
        view_timeout_s=30,
        max_pixels=1_000_000,
        max_requests=0,
        log_as_json=True,
        default_form=lines,
        log_level=logging.DEBUG,
    )
    assert read.max_payload_bytes == 6 * 1024 * 1024


def test_read_settings__the_other_name_of_workers() -> None:
    assert read_settings({"MODEL_SERVER_WORKERS": "5"}).workers == 5


@pytest.mark.parametrize(
    ("environ", "megabytes"),
    [
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "100"}, 25),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "100", "SAGEMAKER_BATCH": "true"}, 100),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "6", "SAGEMAKER_BATCH": "True"}, 25),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0", "SAGEMAKER_BATCH": "true"}, 25),
        ({"SAGEMAKER_BATCH": "true"}, 25),
        (
            {
                "SAGEMAKER_MAX_PAYLOAD_IN_MB": "100",
                "SAGEMAKER_BATCH": "true",
                "TILEWISE_MAX_PAYLOAD_MB": "50",
            },
            50,
        ),
    ],
)
def test_read_settings__largest_payload(environ: dict[str, str], megabytes: int) -> None:
    assert read_settings(environ).max_payload_mb == megabytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("SAGEMAKER_BIND_TO_PORT", "0"),
        ("SAGEMAKER_BIND_TO_PORT", "65536"),
        ("SAGEMAKER_BIND_TO_PORT", "-1"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "two"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "0"),
        ("MODEL_SERVER_WORKERS", "1.5"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "0"),
        ("TILEWISE_MAX_PAYLOAD_MB", "1e3"),
        ("TILEWISE_MAX_PIXELS", "0"),
        ("TILEWISE_MAX_IN_FLIGHT", "9" * 5000),
        ("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/html"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "loud"),
    ],
)
def test_read_settings__wrong_value_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(UserError, match=name):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("TILEWISE_TILE_OVERLAP", "TILE_OVERLAP_RATIO"), ("TILEWISE_MAX_PIXEL", "MAX_PIXELS")],
)
def test_read_settings__a_misspelt_name(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"no environment variable {name}: TILEWISE_{meant} is meant"):
        read_settings({name: "0.5"})


def test_read_settings__names_of_others() -> None:
    names = ("TILEWISE_PORT", "TILEWISE_SERVICE_HOST", "TILEWISE_PORT_8080_TCP_ADDR", "TILEWISE_PROCESSES")
    assert read_settings(dict.fromkeys((*names, "TILEWISE_WEIGHTS"), "1")) == read_settings({})


@pytest.mark.parametrize(("text", "level"), [("warning", 30), ("ERROR", 40), ("20", 20), ("", 20)])
def test_read_settings__log_level(text: str, level: int) -> None:
    assert read_settings({"SAGEMAKER_CONTAINER_LOG_LEVEL": text}).log_level == level


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Lets the machine have so many cores and GiB of memory, and no GPU."""

    def has(cores: int, gib: float) -> None:
        monkeypatch.setattr(settings, "available_cores", lambda: cores)
        monkeypatch.setattr(settings, "memory_limit", lambda: int(gib * 1024**3))
        monkeypatch.setattr(settings, "visible_gpus", lambda: [])

    return has


@pytest.fixture
def graph_folder(tmp_path: Path) -> Path:
    """A model of 100 MiB with its graph."""
    (tmp_path / "model-0001.onnx").touch()
    with (tmp_path / "model-0001.safetensors").open("wb") as file:
        file.truncate(100 * MEGABYTE)
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "cores", "gib", "workers"),
    [
        ({}, 1, 16, 1),
        ({}, 8, 64, 8),
        ({}, 8, 2, 2),  # a worker needs 400 MB, and three times the weights
        ({}, 2, 0.5, 1),
        ({"TILEWISE_BACKEND": "pytorch"}, 8, 4, 2),
        ({"OMP_NUM_THREADS": "2"}, 8, 64, 4),
        ({"OMP_NUM_THREADS": "16"}, 8, 64, 1),
    ],
)
def test_default_workers__one_a_core_as_far_as_the_memory_goes(
    machine: Callable[[int, float], None],
    graph_folder: Path,
    environ: dict[str, str],
    cores: int,
    gib: float,
    workers: int,
) -> None:
    machine(cores, gib)
    assert default_workers(environ, graph_folder) == workers


def test_default_workers__one_a_gpu(monkeypatch: pytest.MonkeyPatch, graph_folder: Path) -> None:
    monkeypatch.setattr(settings, "visible_gpus", lambda: ["0", "1", "3"])
    monkeypatch.setattr(settings, "available_cores", lambda: 2)
    assert default_workers({}, graph_folder) == 3
    assert default_workers({"TILEWISE_BACKEND": "onnx"}, graph_folder) == 2


def test_backend__is_one_that_there_is() -> None:
    assert read_settings({"TILEWISE_BACKEND": "ONNX"}).backend == "onnx"
    with pytest.raises(
        UserError, match="TILEWISE_BACKEND must be one of auto, onnx, pytorch, eager, not 'tf'"
    ):
        read_settings({"TILEWISE_BACKEND": "tf"})


def test_thread_caps__share_the_cores() -> None:
    assert set(thread_caps({}, workers=2, cores=8).values()) == {"4"}
    assert thread_caps({}, workers=4, cores=2)["OMP_NUM_THREADS"] == "1"


def test_thread_caps__leave_what_the_user_set() -> None:
    caps = thread_caps({"OMP_NUM_THREADS": "3,1", "NUMEXPR_NUM_THREADS": "5"}, workers=1, cores=8)
    # set alone, it holds for all
    assert caps == {"MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}


def test_gunicorn_options__follow_the_settings(tmp_path: Path) -> None:
    settings = Settings(port=9000, workers=3, timeout_s=1, log_level=logging.WARNING)
    options = gunicorn_options(settings, tmp_path)
    assert options["bind"] == "0.0.0.0:9000"
    assert options["workers"] == 3
    assert options["threads"] > Settings.max_in_flight
    assert options["timeout"] == 10
    assert options["graceful_timeout"] < 30
    assert options["loglevel"] == "warning"
    assert not options["preload_app"]
    assert gunicorn_options(Settings(timeout_s=300), tmp_path)["timeout"] == 300


def test_read_settings__tiles() -> None:
    environ = {"TILEWISE_TILE_GRID_SIZE": "3x2", "TILEWISE_TILE_OVERLAP_RATIO": "0.1"}
    assert read_settings(environ).tiles == TileOptions(grid=(3, 2), overlap=0.1)
    with pytest.raises(UserError, match="TILEWISE_TILE_MERGE='best': must be one of fragment, nms, wbf"):
        read_settings({"TILEWISE_TILE_MERGE": "best"})
