"""The server process: gunicorn's master, and the workers that it forks."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import IO, cast

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from tilewise.errors import UserError
from tilewise.inference.model_card import ModelCard
from tilewise.machine import (
    MAX_PIXELS,
    OF_VIEWS,
    available_cores,
    forget_garbage,
    keep_freed_memory,
    max_pixels,
    visible_gpus,
)
from tilewise.platform import model_dir
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.gunicorn_config import gunicorn_options
from tilewise.serving.logs import configure_logging, label_native_lines
from tilewise.serving.models import Model, ModelRegistry, ModelSet
from tilewise.serving.served_model import Predicts, ServedModel
from tilewise.serving.settings import Settings, read_settings, thread_caps

USAGE_ERROR = 2
SHARED_MEMORY = "/dev/shm"
LAST_WORDS_S = 3.0
"""For a worker that is replaced to answer what it holds."""


class Server(BaseApplication):
    """Gunicorn with Tilewise's app and settings; it reads no configuration file and no command line."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        super().__init__()

    def load_config(self) -> None:
        """Take the settings, but for those that this version of gunicorn does not have."""
        for name, value in gunicorn_options(self.settings, self.folder).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """The app of one worker; called after the fork."""
        # Imported here: prometheus_client looks at the environment when it is imported.
        from tilewise.serving.metrics import Metrics

        self.metrics = Metrics()
        thread = ComputeThread(self.settings.timeout_s, self.settings.view_timeout_s, retire_worker)
        use_own_gpu(self.folder)
        thread.start()
        return create_app(self.models(thread), self.settings, self.metrics)

    def models(self, thread: ComputeThread) -> Model | ModelSet:
        """What this worker serves."""
        from tilewise import platform

        if self.settings.multi_model:
            registry = ModelRegistry(self.folder / "models")
            return ModelSet(registry, thread, partial(self.load_model, thread), workers=self.settings.workers)
        return self.load_model(thread, platform.model_dir(), stop_server)

    def load_model(self, thread: ComputeThread, folder: Path, on_failure: Callable[[], None]) -> Model:
        """Begin to load the model in a folder."""
        load = partial(load_predictor, folder, self.settings)
        served = ServedModel(
            load,
            thread,
            on_failure,
            on_breakdown=retire_worker,
            batch_delay_s=self.settings.batch_delay_s,
        )
        card = ModelCard.read(folder)
        self.metrics.model(folder=folder, card=card)
        return Model(served, card, folder)


def use_own_gpu(folder: Path) -> None:
    """Let this worker see one GPU, the first that no other worker has; each has one before any has two.

    A worker holds a lock for as long as it lives. To be called before PyTorch is loaded.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return
    for number in count():
        file = (folder / f"worker-{number}").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _own_locks.append(file)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        return


_own_locks: list[IO[str]] = []


def load_predictor(folder: Path, settings: Settings) -> Predicts:
    """The predictor of the model in a folder, with the tiles and on the backend that the settings ask for.

    Raises:
        UserError: the folder holds no usable model.

    """
    from tilewise.inference.two_stages import load_predictor as load

    predictor = load(folder, settings.tiles, backend=settings.backend)
    forget_garbage()
    return cast(Predicts, predictor)


def stop_server() -> None:
    """End this worker so that gunicorn stops, rather than forking it again and again."""
    logging.shutdown()
    os._exit(Arbiter.WORKER_BOOT_ERROR)


def retire_worker() -> None:
    """Let this worker answer what it holds and end; gunicorn forks another.

    It ends also where its model never returns.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    end = threading.Timer(LAST_WORDS_S, os._exit, (1,))
    end.daemon = True
    end.start()


def main() -> int:
    """Serve until SIGTERM.

    Returns:
        The exit status, where gunicorn does not end the process itself: 2 for a wrong environment variable,
        3 for a model that cannot be served.

    """
    # As PID 1 a process without a handler ignores SIGTERM; gunicorn takes over once it has started.
    signal.signal(signal.SIGTERM, _leave)
    try:
        settings = read_settings(os.environ, model_dir())
        folder = make_folder()
    except UserError as error:
        print(error, file=sys.stderr)
        return USAGE_ERROR
    os.environ.update(thread_caps(os.environ, settings.workers, available_cores()))
    os.environ[MAX_PIXELS] = str(settings.max_pixels or max_pixels(settings.workers))
    keep_freed_memory(OF_VIEWS, one_heap=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    master = os.getpid()
    label_native_lines()
    configure_logging(settings.log_level, as_json=settings.log_as_json)
    try:
        Server(settings, folder).run()
    except HaltServer as halt:  # a second worker failed to boot while gunicorn stopped for the first
        return int(halt.exit_status)
    finally:
        if os.getpid() == master:  # workers, which are forked, pass here too
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def make_folder() -> Path:
    """A folder for the few small files of the running server: in memory, if it can be.

    Raises:
        UserError: there is no place for it.

    """
    shared = os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    try:
        return Path(tempfile.mkdtemp(prefix="tilewise-", dir=SHARED_MEMORY if shared else None))
    except OSError:
        raise UserError(
            "the server needs a folder for a few small files, and neither /dev/shm nor /tmp can be written: "
            "start the container with --tmpfs /tmp, or name a folder in TMPDIR"
        ) from None


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)
