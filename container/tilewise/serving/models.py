"""The models that a worker serves: the one of an endpoint, or those that come and go."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from tilewise.errors import UserError
from tilewise.inference.description import model_in
from tilewise.inference.model_card import ModelCard
from tilewise.machine import available_memory, forget_garbage
from tilewise.registry import find_task
from tilewise.serving.compute import ComputeThread
from tilewise.serving.served_model import ServedModel
from tilewise.tasks.answers import Answers, Explains, answers_of

logger = logging.getLogger(__name__)
LIBRARIES_BYTES = 400 * 2**20
"""What the first model takes beside its weights: the libraries."""
TIMES_ITS_WEIGHTS = 3
"""What a model takes, with what it computes."""
PAGE = 100


class UnknownModelError(UserError):
    """There is no model of this name."""


class LoadedError(UserError):
    """A model of this name is loaded already."""


class NoMemoryError(UserError):
    """There is not enough memory for another model."""


@dataclass(frozen=True)
class Model:
    """A model with what its answers need.

    Attributes:
        served: computes.
        card: what its folder says of it.
        folder: the folder.

    """

    served: ServedModel
    card: ModelCard
    folder: Path | None = None

    def explain(self, image: bytes, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What speaks for the model's answer about an encoded image; see :class:`Explains`.

        Raises:
            UserError: it cannot be so explained.
            BusyError, DecodeError: as :meth:`ServedModel.predict`.

        """
        task = find_task(self.card.task)()
        if not isinstance(task, Explains) or self.folder is None:
            raise UserError(
                f"model_explainability: the model is one for task={self.card.task}; only what classifies "
                "images is explained"
            )
        explanation = task.explanation(self.folder, asked)
        return self.served.with_pixels(image, lambda pixels: explanation(pixels, self.served.pulse))

    @property
    def answers(self) -> Answers:
        """What its task answers."""
        return answers_of(self.card.task)


class Loader(Protocol):
    """Makes what serves the model in a folder."""

    def __call__(self, folder: Path, on_failure: Callable[[], None]) -> Model:
        """Begin to load it."""


@dataclass(frozen=True)
class Registered:
    """A model that the platform has loaded: its name and its folder, and which loading it was."""

    name: str
    url: str
    loading: int


class ModelRegistry:
    """The models of all workers: a file for each in a folder that they share.

    A load through one worker so holds for all, and for those that are forked later.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[Registered]:
        """Those that are loaded, by name."""
        models = (self._read(path) for path in sorted(self._folder.glob("*.json")))
        return sorted((each for each in models if each is not None), key=lambda each: each.name)

    def get(self, name: str) -> Registered:
        """One of them.

        Raises:
            UnknownModelError: there is none of this name.

        """
        model = self._read(self._path(name))
        if model is None:
            raise UnknownModelError(f"the model {name[:200]} is not loaded")
        return model

    def add(self, name: str, url: str) -> None:
        """Add one.

        Raises:
            LoadedError: there is one of this name.

        """
        path = self._path(name)
        written = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        written.write_text(json.dumps({"name": name, "url": url}), encoding="utf-8")
        try:
            os.link(written, path)  # whole at once, and only if it is not there
        except FileExistsError:
            raise LoadedError(f"the model {name[:200]} is loaded already") from None
        finally:
            written.unlink()

    def remove(self, name: str) -> None:
        """Remove one.

        Raises:
            UnknownModelError: there is none of this name.

        """
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise UnknownModelError(f"the model {name[:200]} is not loaded") from None

    def _path(self, name: str) -> Path:
        # A name is a key of S3, of up to 1,024 characters of any kind.
        return self._folder / f"{sha256(name.encode()).hexdigest()}.json"

    def _read(self, path: Path) -> Registered | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Registered(content["name"], content["url"], path.stat().st_ino)
        except FileNotFoundError:
            return None


class ModelSet:
    """The models of one worker of a multi-model endpoint; those that others have loaded, it loads when asked.

    Args:
        registry: of all workers.
        thread: computes for all models.
        load: makes what serves a model.
        workers: how many processes share the memory.
        free_memory: bytes that can still be taken.

    """

    def __init__(
        self,
        registry: ModelRegistry,
        thread: ComputeThread,
        load: Loader,
        *,
        workers: int = 1,
        free_memory: Callable[[], int] = available_memory,
    ):
        self.registry = registry
        self._thread = thread
        self._load = load
        self._workers = workers
        self._free_memory = free_memory
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[Registered, Model]] = {}  # least recently used first

    @property
    def ready(self) -> bool:
        """Whether it can load and ask models."""
        return not self._thread.broken

    def load(self, name: str, url: str) -> None:
        """Load a model for all workers.

        Raises:
            LoadedError: there is one of this name.
            NoMemoryError: the workers' memory does not suffice for it.
            UserError: there is no model that can be used.

        """
        if any(each.name == name for each in self.registry.all()):
            raise LoadedError(f"the model {name[:200]} is loaded already")
        nothing = UserError(f"there is no model of Tilewise in {url[:200]}")
        try:
            folder = model_in(Path(url))
        except OSError:  # longer than a path can be
            raise nothing from None
        if not (folder / "model.json").is_file():
            raise nothing
        with self._lock:
            self._require_memory(folder, self._workers)
            model = self._start(folder)
            self.registry.add(name, url)
            self._loaded[name] = (self.registry.get(name), model)

    def unload(self, name: str) -> None:
        """Unload a model for all workers.

        Raises:
            UnknownModelError: there is none of this name.

        """
        self.registry.remove(name)
        self.sweep()

    def get(self, name: str) -> Model:
        """A model, loaded here if another worker was told to load it.

        Raises:
            UnknownModelError: none of this name is loaded.
            NoMemoryError: its memory is not there, also after those that were not used for longest have gone.

        """
        self.sweep()
        registered = self.registry.get(name)
        with self._lock:
            entry = self._loaded.pop(name, None)
            if entry is None:
                self._make_room(model_in(Path(registered.url)))
                entry = (registered, self._start(Path(registered.url)))
            self._loaded[name] = entry  # the most recently used one
            return entry[1]

    def sweep(self) -> None:
        """Let go of models that another worker was told to unload."""
        registered = {each.name: each for each in self.registry.all()}
        with self._lock:
            gone = [name for name, (own, _) in self._loaded.items() if registered.get(name) != own]
            for name in gone:
                del self._loaded[name]
        if gone:
            forget_garbage()

    def _start(self, folder: Path) -> Model:
        model = self._load(folder, lambda: None)
        if not model.served.wait_until_loaded():
            raise UserError(f"the model in {folder} cannot be used: {model.served.failure}")
        return model

    def _make_room(self, folder: Path) -> None:
        while True:
            try:
                return self._require_memory(folder, 1)
            except NoMemoryError:
                if not self._loaded:
                    raise
                name = next(iter(self._loaded))
                logger.info("the model %s goes, which was not used for longest", name)
                del self._loaded[name]
                forget_garbage()

    def _require_memory(self, folder: Path, workers: int) -> None:
        weights = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        needed = workers * (TIMES_ITS_WEIGHTS * weights + (0 if self._loaded else LIBRARIES_BYTES))
        free = self._free_memory()
        if needed > free:
            raise NoMemoryError(
                f"the model takes about {needed // 2**20} MB, and {free // 2**20} MB of memory are free"
            )
