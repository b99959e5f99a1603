"""The Flask app of a worker: its routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import NotFound
from werkzeug.routing import RequestRedirect

import tilewise
from tilewise.serving.errors import add_error_handlers
from tilewise.serving.invocation import Invocations
from tilewise.serving.logs import LOG_FIELDS
from tilewise.serving.models import Model, ModelSet
from tilewise.serving.multi_model import add_model_routes
from tilewise.serving.openapi import describe, paths
from tilewise.serving.settings import Settings
from tilewise.tasks.answers import all_forms

if TYPE_CHECKING:
    from tilewise.serving.metrics import Metrics

BATCH_MEGABYTES = 100
"""A transform job's concurrent requests times their largest payload must stay within this."""
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
PAGE_FILE = Path(__file__).with_name("page.html")
VERSION = {"name": "tilewise", "version": tilewise.__version__}


class Endpoint:
    """What the server says of itself.

    Args:
        models: the endpoint's one model, or those that come and go.
        settings: the server's.

    """

    def __init__(self, models: Model | ModelSet, settings: Settings):
        self.models, self.settings = models, settings

    @property
    def ready(self) -> bool:
        """What ``/ping`` tells."""
        return self.models.ready if isinstance(self.models, ModelSet) else self.models.served.ready

    @property
    def is_multi_model(self) -> bool:
        """Whether models come and go."""
        return isinstance(self.models, ModelSet)

    def welcome(self) -> Response:
        """The page for a browser, and JSON for all others."""
        best = request.accept_mimetypes.best_match(["application/json", "text/html"], "application/json")
        if best == "text/html" and self.settings.page and not self.is_multi_model:
            return Response(PAGE_FILE.read_text(encoding="utf-8"), mimetype="text/html")
        content: dict[str, Any] = VERSION | {"ready": self.ready}
        if isinstance(self.models, Model):
            content["model"] = self.models.card.to_json()
        return _json(content | {"paths": list(paths(multi_model=self.is_multi_model))})

    def openapi(self) -> dict[str, Any]:
        """What ``/openapi.json`` says."""
        if isinstance(self.models, ModelSet):
            return describe(all_forms(), {}, multi_model=True)
        answers = self.models.answers
        return describe(answers.forms, answers.schema, multi_model=False)

    def execution_parameters(self) -> dict[str, object]:
        """What batch transform may use."""
        payload = min(self.settings.max_payload_mb, BATCH_MEGABYTES)
        return {
            "MaxConcurrentTransforms": min(self.settings.workers, BATCH_MEGABYTES // payload),
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": payload,
        }


def create_app(models: Model | ModelSet, settings: Settings, metrics: Metrics | None = None) -> Flask:
    """The WSGI app of one worker process.

    Args:
        models: the endpoint's one model, or those that come and go.
        settings: the server's.
        metrics: counts; None for nobody.

    """
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    endpoint, invocations = Endpoint(models, settings), Invocations(settings, metrics)

    @app.before_request
    def begin() -> None:
        request.environ[LOG_FIELDS] = {"id": request.headers.get(INFERENCE_ID, "")[:100]}
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
        return _json(VERSION)

    @app.get("/openapi.json")
    def openapi() -> Response:
        return _json(endpoint.openapi())

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        return _json(endpoint.execution_parameters())

    if metrics:

        @app.get("/metrics")
        def tell_metrics() -> Response:
            return Response(metrics.render(), content_type=metrics.content_type)

    if isinstance(models, ModelSet):
        add_model_routes(app, models, invocations)
    else:

        @app.post("/invocations")
        def invoke() -> Response:
            return invocations.answer(lambda: models)

    every = paths(multi_model=endpoint.is_multi_model)
    add_error_handlers(app, ", ".join(f"{methods} {path}" for path, methods in every.items()))
    return app


def _json(content: object) -> Response:
    return Response(json.dumps(content), mimetype="application/json")
