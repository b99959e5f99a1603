"""What the server logs: a line for each request, as text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from gunicorn.glogging import Logger

from tilewise.serving.incoming import Refusal

TEXT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE = "[%Y-%m-%d %H:%M:%S %z]"
LOG_FIELDS = "tilewise.log_fields"
"""Where a request's environ has what the app knows of it for the log: a dictionary of JSON."""

native = logging.getLogger("tilewise.native")


class JsonFormatter(logging.Formatter):
    """Each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a request's log_fields are its own keys."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "worker": record.process,
        }
        log_fields = getattr(record, "log_fields", None)
        line |= log_fields if log_fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class ServerLogger(Logger):
    """Gunicorn's log without a line for every health check, and with what the app knows of a request."""

    def setup(self, cfg: Any) -> None:
        """Configure."""
        super().setup(cfg)
        if os.environ.get("TILEWISE_LOG") == "json":
            for logger in (self.error_log, self.access_log):
                for handler in logger.handlers:
                    handler.setFormatter(JsonFormatter())

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log one request, unless it is SageMaker's ``GET /ping``, which comes every few seconds."""
        if environ.get("PATH_INFO") == "/ping":
            return
        if os.environ.get("TILEWISE_LOG") != "json":
            super().access(resp, req, environ, request_time)
            return
        log_fields = {
            "method": environ.get("REQUEST_METHOD"),
            "path": environ.get("PATH_INFO"),
            "status": int(str(resp.status).split()[0]),
            "seconds": round(request_time.total_seconds(), 4),
            "sent_bytes": resp.sent,
            **environ.get(LOG_FIELDS, {}),
        }
        self.access_log.info("", extra={"log_fields": log_fields})

    def refused(self, client: Any, refusal: Refusal) -> None:
        """Log what was answered without being a request."""
        address = client[0] if isinstance(client, tuple) else str(client)
        log_fields = {"status": refusal.status, "client": address, "reason": refusal.reason}
        self.access_log.info('"-" %d %s', refusal.status, refusal.reason, extra={"log_fields": log_fields})


def configure_logging(level: int, *, as_json: bool) -> None:
    """Ours at the level that the user chose; other libraries' only from warnings on."""
    logging.basicConfig(level=max(level, logging.WARNING), format=TEXT, datefmt=DATE)
    logging.getLogger("tilewise").setLevel(level)
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


def label_native_lines() -> None:
    """Log what libraries in C write to the standard error, libjpeg above all, as such.

    Their lines, such as ``Corrupt JPEG data: premature end of data segment``, say not where they come from.
    They go through a pipe to a thread of this process; Python's own keep the real standard error. It is to be
    called once, before logging is configured and before workers are forked: they share the pipe, so that the
    last words of one that dies are read.
    """
    reading, writing = os.pipe()
    real = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(real, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    lines = os.fdopen(reading, encoding="utf-8", errors="replace")

    def read() -> None:
        for line in lines:
            if line.strip():
                native.warning("a library (libjpeg or another) says: %s", line.strip())

    threading.Thread(target=read, name="native lines", daemon=True).start()
