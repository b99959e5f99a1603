"""What a client is told of an error: a status of HTTP, and a sentence as JSON."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from tilewise.errors import UserError
from tilewise.serving.compute import BusyError, ClientLeftError
from tilewise.serving.incoming import error_body
from tilewise.serving.logs import LOG_FIELDS
from tilewise.serving.models import LoadedError, NoMemoryError, UnknownModelError
from tilewise.serving.requests import UnsupportedTypeError
from tilewise.serving.responses import NotAcceptableError

CLIENT_LEFT = 499
"""Nobody sees it; the log has it as nginx has."""
OUT_OF_MEMORY_RETRY_S = 10
_STATUSES = {
    UnknownModelError: 404,
    NotAcceptableError: 406,
    LoadedError: 409,
    UnsupportedTypeError: 415,
    NoMemoryError: 507,
}

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        reason: a sentence for the client.
        retry_after_s: when it is worth while to ask again.

    """

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None):
        super().__init__(reason)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s


def add_error_handlers(app: Flask, there_are: str) -> None:
    """Answer all errors of the app's routes as JSON; ``there_are``: its paths, in words."""

    def not_here(error: HTTPException) -> Response:
        status = error.code or 500
        reason = f"there is only {there_are}" if status in (404, 405) else error.description or ""
        response = _refused(RefusedError(status, reason))
        response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return response

    app.register_error_handler(RefusedError, _refused)
    for kind in (BusyError, ClientLeftError, UserError, MemoryError):
        app.register_error_handler(kind, lambda error: _refused(_as_refusal(error)))
    app.register_error_handler(HTTPException, not_here)
    app.register_error_handler(Exception, _failed)


def _as_refusal(error: Exception) -> RefusedError:
    """What to tell the client of an error that is its own, or that will pass."""
    if isinstance(error, BusyError):
        return RefusedError(503, str(error), error.retry_after_s)
    if isinstance(error, ClientLeftError):
        return RefusedError(CLIENT_LEFT, "the client has left")
    if isinstance(error, MemoryError):
        return RefusedError(503, f"there is not enough memory for this image: {error}", OUT_OF_MEMORY_RETRY_S)
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return RefusedError(status, str(error))
    # Imported here: the server answers /ping before the decoders are loaded.
    from tilewise.data.decoding.decode import ImageTooLargeError

    return RefusedError(413 if isinstance(error, ImageTooLargeError) else 400, str(error))


def _refused(error: RefusedError) -> Response:
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = error.reason
    response = Response(error_body(error.reason, error.retry_after_s), mimetype="application/json")
    phrase = "Client Closed Request" if error.status == CLIENT_LEFT else HTTPStatus(error.status).phrase
    response.status = f"{error.status} {phrase}"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _failed(error: Exception) -> Response:
    if "can't allocate memory" in str(error):  # torch's words for it
        return _refused(_as_refusal(MemoryError(str(error))))
    logger.error("the request failed", exc_info=error)
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = f"{type(error).__name__}: {error}"
    content = json.dumps({"error": "internal error"})
    return Response(content, status=500, mimetype="application/json")
