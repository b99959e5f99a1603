"""How gunicorn runs the app."""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from tilewise.serving.settings import Settings

GRACEFUL_TIMEOUT_S = 25
"""SageMaker sends SIGKILL 30 seconds after SIGTERM."""
SPARE_THREADS = 8
"""Beyond those that hold invocations: for /ping, refusals, and connections that send nothing yet."""
SHORTEST_TIMEOUT_S = 10
"""A gthread worker gives its sign of life once a second, between requests and during them."""
SHARED_MEMORY = "/dev/shm"


class Worker(ThreadWorker):
    """Gunicorn's threaded worker, which stops listening as soon as it is told to stop.

    Its own would keep the port open while it answers what it holds: a client that connected meanwhile would
    wait for an answer that never comes, instead of being refused.
    """

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001  # as gunicorn has it
        """Take new connections, or leave them to others."""
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()


class AccessLogger(Logger):
    """Gunicorn's log without a line for every health check."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log one request, unless it is SageMaker's ``GET /ping``, which comes every few seconds."""
        if environ.get("PATH_INFO") != "/ping":
            super().access(resp, req, environ, request_time)


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's settings, by its own names."""
    return {
        "bind": f"0.0.0.0:{settings.port}",
        "workers": settings.workers,
        "worker_class": f"{__name__}.{Worker.__name__}",
        "threads": settings.max_in_flight + SPARE_THREADS,
        "timeout": max(settings.timeout_s, SHORTEST_TIMEOUT_S),
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "keepalive": 75,  # longer than most callers keep a connection: the caller closes it, not we
        "worker_tmp_dir": _worker_tmp_dir(),
        "control_socket_disable": True,  # it would want a writable home
        "preload_app": False,
        "proc_name": "tilewise",
        "loglevel": logging.getLevelName(settings.log_level).lower(),
        "logger_class": AccessLogger,
        "errorlog": "-",
        "accesslog": "-",
        "access_log_format": '%(t)s "%(r)s" %(s)s %(B)s bytes %(M)s ms',
    }


def _worker_tmp_dir() -> str:
    """Where each worker keeps the empty file whose time is its sign of life: memory, if it can."""
    return SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else tempfile.gettempdir()
