"""The server process: gunicorn's master, and the workers that it forks."""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from types import FrameType

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from tilewise import platform
from tilewise.errors import UserError
from tilewise.machine import OF_VIEWS, available_cores, keep_freed_memory
from tilewise.serving.app import create_app
from tilewise.serving.gunicorn_config import gunicorn_options
from tilewise.serving.served_model import Predicts, ServedModel
from tilewise.serving.settings import Settings, read_settings, thread_caps
from tilewise.tasks.answers import answer_of
from tilewise.tiling.spec import TileOptions

USAGE_ERROR = 2


class Server(BaseApplication):
    """Gunicorn with Tilewise's app and settings; it reads no configuration file and no command line."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Take the settings, but for those that this version of gunicorn does not have."""
        for name, value in gunicorn_options(self.settings).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """The app of one worker; called after the fork."""
        model = ServedModel(
            partial(load_predictor, self.settings.tiles),
            patience_s=self.settings.timeout_s,
            on_load_failure=stop_server,
            on_breakdown=retire_worker,
        )
        model.start()
        return create_app(model, self.settings, answer_of(platform.model_dir()))


def load_predictor(tiles: TileOptions) -> Predicts:
    """The predictor of the model folder, with the tiles that the settings ask for.

    Raises:
        UserError: the folder holds no usable model.

    """
    from tilewise.inference.predictor import Predictor

    return Predictor.load(platform.model_dir(), tiles)


def stop_server() -> None:
    """End this worker so that gunicorn stops, rather than forking it again and again."""
    logging.shutdown()
    os._exit(Arbiter.WORKER_BOOT_ERROR)


def retire_worker() -> None:
    """Let this worker finish what it holds and end; gunicorn forks another."""
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Serve until SIGTERM.

    Returns:
        The exit status, where gunicorn does not end the process itself: 2 for a wrong environment variable,
        3 for a model that cannot be served.

    """
    # As PID 1 a process without a handler ignores SIGTERM; gunicorn takes over once it has started.
    signal.signal(signal.SIGTERM, _leave)
    try:
        settings = read_settings(os.environ)
    except UserError as error:
        print(error, file=sys.stderr)
        return USAGE_ERROR
    os.environ.update(thread_caps(os.environ, settings.workers, available_cores()))
    keep_freed_memory(OF_VIEWS, one_heap=True)
    _configure_logging(settings.log_level)
    try:
        Server(settings).run()
    except HaltServer as halt:  # a second worker failed to boot while gunicorn stopped for the first
        return int(halt.exit_status)
    return 0


def _configure_logging(level: int) -> None:
    """Ours at the level that the user chose; other libraries' only from warnings on."""
    logging.basicConfig(
        level=max(level, logging.WARNING),
        format="%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        datefmt="[%Y-%m-%d %H:%M:%S %z]",
    )
    logging.getLogger("tilewise").setLevel(level)


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)
