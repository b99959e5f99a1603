"""The Flask app: what a worker answers to which request."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import RequestRedirect

from tilewise.errors import UserError
from tilewise.serving.addresses import Addresses
from tilewise.serving.compute import NEVER, BusyError, ClientLeftError
from tilewise.serving.incoming import ReceivedBody
from tilewise.serving.logs import LOG_FIELDS
from tilewise.serving.model_card import version
from tilewise.serving.models import (
    PAGE,
    LoadedError,
    Model,
    ModelSet,
    NoMemoryError,
    Registered,
    UnknownModelError,
)
from tilewise.serving.openapi import describe
from tilewise.serving.options import ATTRIBUTES, Options, check_names, read_attributes, read_options
from tilewise.serving.requests import Ask, Image, UnsupportedTypeError, read_body
from tilewise.serving.responses import (
    DEFAULT_FORM,
    JSON_LINES,
    PICTURES,
    Form,
    NotAcceptableError,
    choose_form,
    error_body,
    render,
)
from tilewise.serving.served_model import Timings
from tilewise.serving.settings import Settings
from tilewise.tasks.detection_forms import FORMS, Answered, choose

if TYPE_CHECKING:
    from tilewise.serving.metrics import Metrics

BATCH_MEGABYTES = 100
"""A transform job's concurrent requests times their largest payload must stay within this."""
CLIENT_LEFT = 499
"""Nobody sees it; the log has it as nginx has."""
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
PAGE_FILE = Path(__file__).with_name("page.html")
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


OUT_OF_MEMORY_RETRY_S = 10


class Endpoint:
    """What the app's routes do.

    Args:
        models: the endpoint's one model, or those that come and go.
        settings: the server's.
        metrics: counts; None for nobody.

    """

    def __init__(self, models: Model | ModelSet, settings: Settings, metrics: Metrics | None = None):
        self.models, self.settings, self.metrics = models, settings, metrics
        self.slots = BoundedSemaphore(settings.max_in_flight)
        self.addresses = Addresses(settings.fetched, settings.max_payload_bytes)

    @property
    def ready(self) -> bool:
        """What ``/ping`` tells."""
        return self.models.ready if isinstance(self.models, ModelSet) else self.models.served.ready

    def invoke(self, model: Callable[[], Model]) -> Response:
        """Answer the request's images."""
        if not self.slots.acquire(blocking=False):
            raise RefusedError(503, "too many requests are waiting", 1)
        if self.metrics:
            self.metrics.begun(1)
        try:
            return self._invoke(model())
        finally:
            self.slots.release()
            if self.metrics:
                self.metrics.begun(-1)

    def _invoke(self, model: Model) -> Response:
        body = received(request.environ)
        ask = read_body(body.getvalue(), request.headers.get("Content-Type", ""), self.addresses.fetch)
        options = read_options(self._given(ask), (*FORMS, *_PICTURE_NAMES))
        form = self._form(ask, options)
        if form.is_picture and len(ask.images) > 1:
            raise RefusedError(406, f"{form.media_type} holds one image: {len(ask.images)} are asked for")
        if form.name == "yolo" and len(ask.images) > 1:
            raise RefusedError(406, f"YOLO's text holds one image: {len(ask.images)} are asked for")
        threshold = options.threshold
        if form.is_picture and threshold is None:
            threshold = model.card.threshold
        labels = options.labels(model.card.classes or model.served.classes)
        timings = Timings()
        try:
            images = []
            for number, image in enumerate(ask.images, start=1):
                prediction = model.served.predict(
                    image.content, tiles=options.tiles, client_left=body.client_left, timings=timings
                )
                if threshold is not None or labels is not None or options.most is not None:
                    prediction = choose(
                        prediction, threshold=threshold or 0.0, labels=labels, most=options.most
                    )
                images.append(Answered(prediction, model.served.classes, image.name, number))
            if form.is_picture:
                return self._picture(model, ask.images[0], images[0], form.media_type)
        finally:
            self._tell(timings)
        as_list = ask.dialect == "instances" or len(images) > 1
        text = render(images, form, model.answer, as_list=as_list)
        return Response(text, mimetype=form.media_type)

    def _given(self, ask: Ask) -> dict[str, Any]:
        """The request's options: the query goes before the header, and that before the body."""
        check_names(request.args, "the query")
        return {
            **ask.options,
            **read_attributes(request.headers.get(ATTRIBUTES, "")),
            **request.args.to_dict(),
        }

    def _form(self, ask: Ask, options: Options) -> Form:
        if options.form:
            media_type = _PICTURE_NAMES.get(options.form)
            return Form(media_type) if media_type else Form(FORMS[options.form][0], name=options.form)
        default = self.settings.default_form
        if default == DEFAULT_FORM:
            default = _DIALECT_FORMS.get(ask.dialect, default)
        return choose_form(request.headers.get("Accept"), default)

    def _picture(self, model: Model, image: Image, answered: Answered, media_type: str) -> Response:
        """The image with its objects drawn."""

        def draw() -> bytes:
            # Imported here: only few endpoints draw.
            from tilewise.data.decode import decode_reduced
            from tilewise.evaluation.draw import draw_detections

            decoded = decode_reduced(image.content, lambda *_: 1, rendering=model.card.rendering)
            drawn = draw_detections(decoded, answered.prediction.detections, answered.classes)
            stream = io.BytesIO()
            drawn.save(stream, PICTURES[media_type], quality=90)
            return stream.getvalue()

        return Response(model.served.do(draw), mimetype=media_type)

    def _tell(self, timings: Timings) -> None:
        request.environ[LOG_FIELDS] |= {
            "wait_s": round(timings.wait_s, 4),
            "decode_s": round(timings.decode_s, 4),
            "compute_s": round(timings.compute_s, 4),
            "merge_s": round(timings.merge_s, 4),
            "images": [list(size) for size in timings.sizes],
        }
        if self.metrics and timings.sizes:
            self.metrics.computed(timings)

    def welcome(self) -> Response:
        """The page for a browser, and JSON for all others."""
        best = request.accept_mimetypes.best_match(["application/json", "text/html"], "application/json")
        if best == "text/html" and self.settings.page and not self.is_multi_model:
            return Response(PAGE_FILE.read_text(encoding="utf-8"), mimetype="text/html")
        content: dict[str, Any] = version() | {"ready": self.ready}
        if isinstance(self.models, Model):
            content["model"] = self.models.card.to_json()
        return _json(content | {"paths": list(describe(multi_model=self.is_multi_model)["paths"])})

    @property
    def is_multi_model(self) -> bool:
        """Whether models come and go."""
        return isinstance(self.models, ModelSet)

    def execution_parameters(self) -> dict[str, object]:
        """What batch transform may use."""
        payload = min(self.settings.max_payload_mb, BATCH_MEGABYTES)
        return {
            "MaxConcurrentTransforms": min(self.settings.workers, BATCH_MEGABYTES // payload),
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": payload,
        }


_PICTURE_NAMES = {"jpeg": "image/jpeg", "png": "image/png"}
_DIALECT_FORMS = {"azure": Form(FORMS["azure"][0], name="azure"), "lines": Form(JSON_LINES)}
"""How a request is answered by default that does not ask as the built-in algorithm's do."""


def create_app(models: Model | ModelSet, settings: Settings, metrics: Metrics | None = None) -> Flask:
    """The WSGI app of one worker process; see :class:`Endpoint`."""
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    endpoint = Endpoint(models, settings, metrics)

    @app.before_request
    def begin() -> None:
        request.environ[LOG_FIELDS] = {"id": request.headers.get(INFERENCE_ID, "")[:100]}
        refusal = received(request.environ).refusal
        if refusal is not None:
            raise RefusedError(refusal.status, refusal.reason, 1 if refusal.status == 503 else None)
        if isinstance(request.routing_exception, RequestRedirect):
            raise NotFound  # a slash too many

    @app.after_request
    def count(response: Response) -> Response:
        if metrics:
            metrics.answered(request.url_rule.rule if request.url_rule else "", response.status_code)
        return response

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200 if endpoint.ready else 503, mimetype="text/plain")

    @app.get("/")
    def welcome() -> Response:
        return endpoint.welcome()

    @app.get("/version")
    def tell_version() -> Response:
        return _json(version())

    @app.get("/openapi.json")
    def openapi() -> Response:
        return _json(describe(multi_model=endpoint.is_multi_model))

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        return _json(endpoint.execution_parameters())

    if metrics:

        @app.get("/metrics")
        def tell_metrics() -> Response:
            return Response(metrics.render(), content_type=metrics.content_type)

    if isinstance(models, ModelSet):
        _add_model_routes(app, endpoint, models)
    else:

        @app.post("/invocations")
        def invocations() -> Response:
            return endpoint.invoke(lambda: models)

    _add_error_handlers(app, endpoint)
    return app


def _add_model_routes(app: Flask, endpoint: Endpoint, models: ModelSet) -> None:
    """The routes of SageMaker's "Container Contract for Multi-Model Endpoints"."""

    @app.get("/models")
    def list_models() -> Response:
        try:
            first = int(request.args.get("next_page_token") or 0)
        except ValueError:
            raise RefusedError(400, "next_page_token is none that this server has given") from None
        every = models.registry.all()
        content: dict[str, Any] = {"models": [_entry(each) for each in every[first : first + PAGE]]}
        if first + PAGE < len(every):
            content["nextPageToken"] = str(first + PAGE)
        return _json(content)

    @app.post("/models")
    def load_model() -> Response:
        try:
            content = json.loads(received(request.environ).getvalue())
            name, url = content["model_name"], content["url"]
            if not (isinstance(name, str) and name and isinstance(url, str) and url):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise RefusedError(400, 'send {"model_name": "…", "url": "…"}') from None
        models.load(name, url)
        return _json({"modelName": name, "modelUrl": url})

    @app.get("/models/<path:name>")
    def tell_model(name: str) -> Response:
        return _json(_entry(models.registry.get(name)))

    @app.delete("/models/<path:name>")
    def unload_model(name: str) -> Response:
        models.unload(name)
        return _json({"modelName": name})

    @app.post("/models/<path:name>/invoke")
    def invoke_model(name: str) -> Response:
        return endpoint.invoke(lambda: models.get(name))


def _entry(model: Registered) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}


def received(environ: dict[str, Any]) -> ReceivedBody:
    """The body of a request; our worker has read it before, other servers and test clients have not."""
    stream = environ["wsgi.input"]
    if not isinstance(stream, ReceivedBody):
        stream = environ["wsgi.input"] = ReceivedBody(stream.read(), None, NEVER)
    return stream


def _add_error_handlers(app: Flask, endpoint: Endpoint) -> None:
    paths = describe(multi_model=endpoint.is_multi_model)["paths"]
    there_are = ", ".join(f"{'/'.join(methods).upper()} {path}" for path, methods in paths.items())

    def not_here(error: HTTPException) -> Response:
        status = error.code or 500
        reason = f"there is only {there_are}" if status in (404, 405) else error.description or ""
        response = _refused(RefusedError(status, reason))
        response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return response

    app.register_error_handler(RefusedError, _refused)
    app.register_error_handler(BusyError, lambda error: _refused(_as_refusal(error)))
    app.register_error_handler(ClientLeftError, lambda error: _refused(_as_refusal(error)))
    app.register_error_handler(UserError, lambda error: _refused(_as_refusal(error)))
    app.register_error_handler(MemoryError, lambda error: _refused(_as_refusal(error)))
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
    # Imported here: torch comes with it, and is there by the time that an image is too large.
    from tilewise.data.decode import ImageTooLargeError

    return RefusedError(413 if isinstance(error, ImageTooLargeError) else 400, str(error))


def _json(content: object, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, mimetype="application/json")


def _refused(error: RefusedError) -> Response:
    reason = error.reason
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = reason
    if error.retry_after_s is not None:
        reason = f"{reason}: try again in {error.retry_after_s} s"
    response = Response(error_body(reason, error.retry_after_s), mimetype="application/json")
    response.status = f"{error.status} {_phrase(error.status)}"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_LEFT else HTTPStatus(status).phrase


def _failed(error: Exception) -> Response:
    if "can't allocate memory" in str(error):  # torch's words for it
        return _refused(_as_refusal(MemoryError(str(error))))
    logger.error("the request failed", exc_info=error)
    request.environ.setdefault(LOG_FIELDS, {})["reason"] = f"{type(error).__name__}: {error}"
    return _json({"error": "internal error"}, 500)
