"""How gunicorn runs the app."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tilewise.serving.logs import ServerLogger
from tilewise.serving.settings import Settings
from tilewise.serving.worker import KEEP_ALIVE_S, Worker

GRACEFUL_TIMEOUT_S = 25
"""SageMaker sends SIGKILL 30 seconds after SIGTERM."""
SPARE_THREADS = 8
"""Beyond those that hold invocations: for /ping and refusals."""
CONNECTIONS = 2000
SHORTEST_TIMEOUT_S = 10
"""A worker gives its sign of life once a second, between requests and during them."""


def gunicorn_options(settings: Settings, folder: Path) -> dict[str, Any]:
    """Gunicorn's settings, by its own names.

    Args:
        settings: ours.
        folder: where each worker keeps the empty file whose time is its sign of life.

    """
    return {
        "bind": f"0.0.0.0:{settings.port}",
        "workers": settings.workers,
        "worker_class": f"{Worker.__module__}.{Worker.__name__}",
        "worker_connections": CONNECTIONS,
        "threads": settings.max_in_flight + SPARE_THREADS,
        "timeout": max(settings.timeout_s, SHORTEST_TIMEOUT_S),
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "keepalive": int(KEEP_ALIVE_S),
        "max_requests": settings.max_requests,
        "max_requests_jitter": settings.max_requests // 2,  # so that workers are not recycled all at once
        "worker_tmp_dir": str(folder),
        "child_exit": forget_worker,
        "control_socket_disable": True,  # it would want a writable home
        "preload_app": False,
        "proc_name": "tilewise",
        "loglevel": logging.getLevelName(settings.log_level).lower(),
        "logger_class": f"{ServerLogger.__module__}.{ServerLogger.__name__}",
        "errorlog": "-",
        "accesslog": "-",
        "access_log_format": '%(t)s "%(r)s" %(s)s %(B)s bytes %(M)s ms',
    }


def forget_worker(_arbiter: object, worker: Any) -> None:
    """A worker has ended: its memory is no longer to be counted."""
    # Imported here: prometheus_client looks at the environment when it is imported.
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
