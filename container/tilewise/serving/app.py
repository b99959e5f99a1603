"""The Flask app: ``GET /ping``, ``POST /invocations`` and ``GET /execution-parameters``."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from tilewise.serving.compute import NEVER, BusyError, ClientLeftError
from tilewise.serving.incoming import ReceivedBody
from tilewise.serving.logs import LOG_FIELDS
from tilewise.serving.responses import NotAcceptableError, choose_form, error_body, render
from tilewise.serving.served_model import ServedModel, Timings
from tilewise.serving.settings import Settings
from tilewise.tasks.answers import Answer

IMAGE_TYPES = "application/x-image, image/jpeg, image/png, any other image/*, application/octet-stream"
BATCH_MEGABYTES = 100
"""A transform job's concurrent requests times their largest payload must stay within this."""
CLIENT_LEFT = 499
"""Nobody sees it; the log has it as nginx has."""
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"

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


def create_app(model: ServedModel, settings: Settings, answer: Answer) -> Flask:
    """The WSGI app of one worker process; ``answer`` is the model's task's."""
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    slots = BoundedSemaphore(settings.max_in_flight)

    @app.before_request
    def begin() -> None:
        request.environ[LOG_FIELDS] = {"id": request.headers.get(INFERENCE_ID, "")}
        refusal = received(request.environ).refusal
        if refusal is not None:
            raise RefusedError(refusal.status, refusal.reason, 1 if refusal.status == 503 else None)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200 if model.ready else 503, mimetype="text/plain")

    @app.post("/invocations")
    def invocations() -> Response:
        if not slots.acquire(blocking=False):
            raise RefusedError(503, "too many requests are waiting", 1)
        try:
            return _invoke(model, settings, answer)
        finally:
            slots.release()

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        return _json(_execution_parameters(settings))

    app.register_error_handler(RefusedError, _refused)
    app.register_error_handler(HTTPException, _not_here)
    app.register_error_handler(Exception, _failed)
    return app


def received(environ: dict[str, Any]) -> ReceivedBody:
    """The body of a request; our worker has read it before, other servers and test clients have not."""
    stream = environ["wsgi.input"]
    if not isinstance(stream, ReceivedBody):
        stream = environ["wsgi.input"] = ReceivedBody(stream.read(), None, NEVER)
    return stream


def _invoke(model: ServedModel, settings: Settings, answer: Answer) -> Response:
    body = received(request.environ)
    image = body.getvalue()
    _require_image_type(request.mimetype)
    try:
        form = choose_form(request.headers.get("Accept"), settings.default_form)
    except NotAcceptableError as error:
        raise RefusedError(406, str(error)) from None
    if not image:
        raise RefusedError(400, "the body is empty: send the bytes of one image")
    timings = Timings()
    try:
        prediction = model.predict(image, client_left=body.client_left, timings=timings)
    except BusyError as error:
        raise RefusedError(503, str(error), error.retry_after_s) from None
    except ClientLeftError:
        raise RefusedError(CLIENT_LEFT, "the client has left") from None
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from None
    return Response(render(answer(prediction, form.annotation), form), mimetype=form.media_type)


def _refusal(error: Exception) -> RefusedError | None:
    """What to tell the client of an image that cannot be read; None when the fault is ours."""
    # Imported here: torch comes with it, and is there by the time that a prediction fails.
    from tilewise.data.decode import DecodeError, ImageTooLargeError

    if isinstance(error, ImageTooLargeError):
        return RefusedError(413, str(error))
    if isinstance(error, DecodeError):
        return RefusedError(400, str(error))
    return None


def _require_image_type(mimetype: str) -> None:
    """Refuse what is clearly no image; the bytes themselves decide which kind of image it is."""
    if mimetype.startswith("image/"):
        return
    if mimetype not in ("", "application/x-image", "application/octet-stream", "binary/octet-stream"):
        raise RefusedError(415, f"the Content-Type is not an image's; accepted are {IMAGE_TYPES}")


def _execution_parameters(settings: Settings) -> dict[str, object]:
    payload = min(settings.max_payload_mb, BATCH_MEGABYTES)
    return {
        "MaxConcurrentTransforms": min(settings.workers, BATCH_MEGABYTES // payload),
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload,
    }


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")


def _refused(error: RefusedError) -> Response:
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = error.reason
    reason = error.reason
    if error.retry_after_s is not None:
        reason = f"{reason}: try again in {error.retry_after_s} s"
    response = Response(error_body(reason, error.retry_after_s), mimetype="application/json")
    response.status = f"{error.status} {_phrase(error.status)}"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_LEFT else HTTPStatus(status).phrase


def _not_here(error: HTTPException) -> Response:
    reasons = {
        404: "there is only GET /ping, POST /invocations and GET /execution-parameters",
        405: "/invocations takes POST, /ping and /execution-parameters take GET",
    }
    status = error.code or 500
    response = _refused(RefusedError(status, reasons.get(status, error.description or "")))
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _failed(error: Exception) -> Response:
    logger.error("the request failed", exc_info=error)
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = f"{type(error).__name__}: {error}"
    return _json({"error": "internal error"}, 500)
