"""SageMaker's "Container Contract for Multi-Model Endpoints", asked of a real server with two workers."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from endpoint_process import EndpointProcess, standing_in
from tilewise.inference.model_card import ModelCard
from tilewise.machine import forget_garbage
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import (
    LoadedError,
    Model,
    ModelRegistry,
    ModelSet,
    NoMemoryError,
    UnknownModelError,
)
from tilewise.serving.served_model import ServedModel

JPEG = b"\xff\xd8\xff"
MEGABYTE = 1024 * 1024
LOADED: Any = SimpleNamespace(classes=(), warm_up=lambda: None, watch=lambda tell: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EndpointProcess]:
    variables = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_MODEL_SERVER_WORKERS": "2"}
    with standing_in(tmp_path, **variables) as running:
        yield running


def make_model(folder: Path, classes: list[str], size: int = 10) -> str:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"classes": classes}))
    with (folder / "weights").open("wb") as file:
        file.truncate(size)
    return str(folder)


def send(server: EndpointProcess, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    kind = "image/jpeg" if isinstance(content, bytes) else "application/json"
    status, _, answer = server.request(method, path, body, Content_Type=kind)
    return status, json.loads(answer) if answer else None


def load(server: EndpointProcess, name: str, url: str) -> tuple[int, Any]:
    return send(server, "POST", "/models", {"model_name": name, "url": url})


def test_contract__load_list_get_invoke_unload(server: EndpointProcess, tmp_path: Path) -> None:
    first = make_model(tmp_path / "models" / "a" / "model", ["ant", "bee"])
    second = make_model(tmp_path / "models" / "b" / "model", ["cat", "dog"])
    assert send(server, "GET", "/models") == (200, {"models": []})
    assert load(server, "a", first)[0] == 200
    assert load(server, "dir/b.tar.gz", second)[0] == 200
    assert load(server, "a", first)[0] == 409
    listed = [{"modelName": "a", "modelUrl": first}, {"modelName": "dir/b.tar.gz", "modelUrl": second}]
    assert send(server, "GET", "/models") == (200, {"models": listed})
    assert send(server, "GET", "/models/a") == (200, listed[0])
    assert send(server, "GET", "/models/dir/b.tar.gz") == (200, listed[1])
    for _ in range(10):  # whichever worker answers
        assert send(server, "POST", "/models/a/invoke", JPEG)[1]["classes"] == ["ant", "bee"]
        assert send(server, "POST", "/models/dir/b.tar.gz/invoke", JPEG)[1]["classes"] == ["cat", "dog"]
    assert send(server, "DELETE", "/models/a")[0] == 200
    for _ in range(10):
        assert send(server, "POST", "/models/a/invoke", JPEG)[0] == 404
    assert send(server, "DELETE", "/models/a")[0] == 404
    assert send(server, "GET", "/models/a")[0] == 404
    assert load(server, "a", second)[0] == 200
    for _ in range(10):
        assert send(server, "POST", "/models/a/invoke", JPEG)[1]["classes"] == ["cat", "dog"]
    assert send(server, "POST", "/invocations", JPEG)[0] == 404


def test_load__wrong_ones(server: EndpointProcess, tmp_path: Path) -> None:
    assert load(server, "a", str(tmp_path / "nowhere"))[0] == 400
    assert send(server, "POST", "/models", {"model_name": "a"})[0] == 400
    assert send(server, "POST", "/models", b"[" * 100_000)[0] == 400
    assert load(server, "a", "/" + "x" * 5000)[0] == 400
    assert load(server, "\ud800", "/opt/ml/models/a")[0] == 400
    assert send(server, "GET", "/models?next_page_token=-1")[0] == 400
    broken = make_model(tmp_path / "broken", ["broken"])
    status, answer = load(server, "broken", broken)
    assert status == 400 and "cannot be used" in answer["error"]
    assert send(server, "GET", "/models") == (200, {"models": []})


def test_load__no_memory(server: EndpointProcess, tmp_path: Path) -> None:
    url = make_model(tmp_path / "large", ["ant"])
    with (Path(url) / "weights").open("wb") as file:
        file.truncate(2**43)
    status, answer = load(server, "large", url)
    assert status == 507 and "memory" in answer["error"]
    assert send(server, "GET", "/models/large")[0] == 404


def test_list__in_pages(server: EndpointProcess, tmp_path: Path) -> None:
    url = make_model(tmp_path / "model", ["ant"])
    for number in range(101):
        assert load(server, f"model-{number:03}", url)[0] == 200
    first = send(server, "GET", "/models")[1]
    assert len(first["models"]) == 100
    rest = send(server, "GET", f"/models?next_page_token={first['nextPageToken']}")[1]
    assert [each["modelName"] for each in rest["models"]] == ["model-100"]
    assert "nextPageToken" not in rest
    assert send(server, "GET", "/models?next_page_token=x")[0] == 400


def test_models__least_recently_used_goes_first(tmp_path: Path) -> None:
    """Three models where memory holds two; an unloaded one comes back when it is asked for."""
    urls = {name: make_model(tmp_path / name, [name], size=100 * MEGABYTE) for name in "abc"}
    asked: list[str] = []

    def load(folder: Path, on_failure: Callable[[], None]) -> Model:
        asked.append(folder.name)
        thread = ComputeThread(1, 60, on_failure)
        thread.start()
        served = ServedModel(lambda: LOADED, thread, on_failure, on_breakdown=on_failure)
        return Model(served, ModelCard.read(folder))

    def free() -> int:
        taken = 400 + 300 * len(models._loaded) if models._loaded else 0  # libraries, and each with its work
        return (1010 - taken) * MEGABYTE

    thread = ComputeThread(1, 60, lambda: None)
    models = ModelSet(ModelRegistry(tmp_path / "registry"), thread, load, free_memory=free)
    for name in "ab":
        models.load(name, urls[name])
    with pytest.raises(NoMemoryError):  # AWS's contract: 507, and the platform unloads one
        models.load("c", urls["c"])
    models.registry.add("c", urls["c"])  # through another worker
    assert asked == ["a", "b"]
    models.get("a")
    assert models.get("c").card.classes == ("c",)
    assert [*models._loaded] == ["a", "c"], "b was not used for longest"
    models.get("b")
    assert [*models._loaded] == ["c", "b"]
    assert asked == ["a", "b", "c", "b"]
    assert [each.name for each in models.registry.all()] == ["a", "b", "c"]


def test_models__an_unloaded_one_leaves_the_memory_at_once(tmp_path: Path) -> None:
    class Predictor:
        """It knows whom it tells of batches, and so forms a circle with the one that holds it."""

        def warm_up(self) -> None:
            forget_garbage()  # as a worker does when it has loaded a model
            time.sleep(1.1)  # so that who watches for work that does not end has looked at it

        classes = ()
        backend = None

        def watch(self, tell: Callable[[int, float], None]) -> None:
            self.tell = tell

    def start(folder: Path, on_failure: Callable[[], None]) -> Model:
        predictor: Any = Predictor()
        predictors.append(weakref.ref(predictor))
        served = ServedModel(partial(iter([predictor]).__next__), thread, on_failure, on_breakdown=on_failure)
        return Model(served, ModelCard.read(folder))

    predictors: list[weakref.ref[Predictor]] = []
    thread = ComputeThread(1, 60, lambda: None)
    thread.start()
    models = ModelSet(ModelRegistry(tmp_path / "registry"), thread, start, free_memory=lambda: 1 << 40)
    try:
        models.load("a", make_model(tmp_path / "a", ["ant"]))
        assert predictors[0]() is not None
        thread.submit(lambda: None).result()  # the thread holds nothing of the loading any more
        models.unload("a")
        assert predictors[0]() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", ["a", "../../etc/passwd", "a/b", "ü", "%2e%2e", ".", "..", "x" * 1024])
def test_registry__any_name(tmp_path: Path, name: str) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.add(name, "/somewhere")
    with pytest.raises(LoadedError):
        registry.add(name, "/somewhere")
    assert [(each.name, each.url) for each in registry.all()] == [(name, "/somewhere")]
    assert registry.get(name).name == name
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "models"]
    registry.remove(name)
    with pytest.raises(UnknownModelError):
        registry.get(name)
