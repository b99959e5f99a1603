"""The Flask app: ``GET /ping``, ``POST /invocations`` and ``GET /execution-parameters``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from threading import BoundedSemaphore

from flask import Flask, Request, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    NotAcceptable,
    RequestEntityTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    UnsupportedMediaType,
)

from tilewise.serving.responses import NotAcceptableError, choose_form, render
from tilewise.serving.served_model import BusyError, ServedModel
from tilewise.serving.settings import MEGABYTE, Settings
from tilewise.tasks.answers import Answer

IMAGE_TYPES = "application/x-image, image/jpeg, image/png, any other image/*, application/octet-stream"
BATCH_MEGABYTES = 100
"""A transform job's concurrent requests times their largest payload must stay within this."""
STALLED_BODY_S = 30.0
RETRY_AFTER_S = 1

logger = logging.getLogger(__name__)


def create_app(model: ServedModel, settings: Settings, answer: Answer) -> Flask:
    """The WSGI app of one worker process; ``answer`` is the model's task's."""
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    slots = BoundedSemaphore(settings.max_in_flight)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200 if model.ready else 503, mimetype="text/plain")

    @app.post("/invocations")
    def invocations() -> Response:
        if not slots.acquire(blocking=False):
            _discard(request, 2 * settings.max_payload_bytes)
            raise ServiceUnavailable("too many requests are waiting", retry_after=RETRY_AFTER_S)
        try:
            return _invoke(model, settings, answer)
        finally:
            slots.release()

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        return _json(_execution_parameters(settings))

    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(Exception, _failed)
    return app


def _invoke(model: ServedModel, settings: Settings, answer: Answer) -> Response:
    # The body first: an answer sent while the client still writes is lost to many clients.
    image = read_body(request, settings.max_payload_bytes)
    _require_image_type(request.mimetype)
    try:
        form = choose_form(request.headers.get("Accept"), settings.default_form)
    except NotAcceptableError as error:
        raise NotAcceptable(str(error)) from None
    if not image:
        raise BadRequest("the body is empty: send the bytes of one image")
    try:
        prediction = model.predict(image)
    except BusyError as error:
        raise ServiceUnavailable(str(error), retry_after=RETRY_AFTER_S) from None
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from None
    return Response(render(answer(prediction, form.annotation), form), mimetype=form.media_type)


def _refusal(error: Exception) -> HTTPException | None:
    """What to tell the client of an image that cannot be read; None when the fault is ours."""
    # Imported here: torch comes with it, and is there by the time that a prediction fails.
    from tilewise.data.decode import DecodeError, ImageTooLargeError

    if isinstance(error, ImageTooLargeError):
        return RequestEntityTooLarge(str(error))
    if isinstance(error, DecodeError):
        return BadRequest(str(error))
    return None


def read_body(request: Request, limit: int) -> bytes:
    """Read a request's whole body, whether its length is declared or it comes in chunks.

    Raises:
        RequestEntityTooLarge: it has more than ``limit`` bytes. Some more are read and dropped first: a
            client that is still sending when the connection closes sees a reset, not the answer.
        BadRequest: it ends before its declared length, or its chunks are malformed.
        RequestTimeout: the client stopped sending.

    """
    too_large = RequestEntityTooLarge(f"the body is larger than {limit // MEGABYTE} MB")
    declared = request.content_length
    if declared is not None and declared > limit:
        _discard(request, 2 * limit)
        raise too_large
    body = b"".join(_pieces(request, limit + 1))
    if len(body) > limit:
        _discard(request, limit)
        raise too_large
    if declared is not None and len(body) < declared:
        raise BadRequest("the body ended before its declared length")
    return body


def _pieces(request: Request, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes of the body that are left; fewer only at its end."""
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALLED_BODY_S)  # gunicorn's threads would wait for ever
    try:
        while size > 0 and (piece := request.stream.read(min(size, MEGABYTE))):
            size -= len(piece)
            yield piece
    except TimeoutError:
        raise RequestTimeout("the body did not arrive in time") from None
    except (OSError, ParseException):
        raise BadRequest("the body could not be read") from None


def _discard(request: Request, size: int) -> None:
    for _ in _pieces(request, size):
        pass


def _require_image_type(mimetype: str) -> None:
    """Refuse what is clearly no image; the bytes themselves decide which kind of image it is."""
    if mimetype.startswith("image/"):
        return
    if mimetype not in ("", "application/x-image", "application/octet-stream", "binary/octet-stream"):
        raise UnsupportedMediaType(f"the Content-Type is not an image's; accepted are {IMAGE_TYPES}")


def _execution_parameters(settings: Settings) -> dict[str, object]:
    payload = min(settings.max_payload_mb, BATCH_MEGABYTES)
    return {
        "MaxConcurrentTransforms": min(settings.workers, BATCH_MEGABYTES // payload),
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload,
    }


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")


def _refused(error: HTTPException) -> Response:
    reasons = {
        404: "there is only GET /ping, POST /invocations and GET /execution-parameters",
        405: "/invocations takes POST, /ping and /execution-parameters take GET",
    }
    status = error.code or 500
    response = _json({"error": reasons.get(status, error.description)}, status)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _failed(error: Exception) -> Response:
    logger.error("the request failed", exc_info=error)
    return _json({"error": "internal error"}, 500)
