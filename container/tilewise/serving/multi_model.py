"""The routes of SageMaker's "Container Contract for Multi-Model Endpoints"."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, request

from tilewise.serving.errors import RefusedError
from tilewise.serving.invocation import Invocations, received
from tilewise.serving.models import PAGE, ModelSet, Registered


def add_model_routes(app: Flask, models: ModelSet, invocations: Invocations) -> None:
    """List, load, tell of, unload and ask models."""

    @app.get("/models")
    def list_models() -> Response:
        try:
            first = int(request.args.get("next_page_token") or 0)
            if first < 0:
                raise ValueError
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
            name.encode()  # half of a surrogate pair is no name
        except (ValueError, KeyError, TypeError, RecursionError):
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
        return invocations.answer(lambda: models.get(name))


def _entry(model: Registered) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}


def _json(content: object) -> Response:
    return Response(json.dumps(content), mimetype="application/json")
