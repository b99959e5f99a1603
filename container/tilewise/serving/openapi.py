"""What ``GET /openapi.json`` says: the server's paths, in the form of OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tilewise
from tilewise.serving.options import IMAGE_TYPES
from tilewise.serving.responses import PICTURE_NAMES
from tilewise.tasks.answers import AnswerForm

_ERROR = {
    "description": "what is wrong, and after how many seconds to try again if that is worth while",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}, "retry_after": {"type": "integer"}},
                "required": ["error"],
            }
        }
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "threshold": (
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "recommended"}]},
        "the lowest score of what is answered; recommended: what the model recommends for each class",
    ),
    "max_detections": ({"type": "integer", "minimum": 1}, "objects of an image at most, the best ones"),
    "classes": ({"type": "string"}, "names or numbers of classes, with commas between them"),
    "tile_grid_size": ({"type": "string", "examples": ["3x2"]}, "columns x rows of tiles, or none"),
    "tile_size": ({"type": "string", "examples": ["640"]}, "pixels of tiles of a fixed size, or none"),
    "overlap": ({"type": "number"}, "share of a tile that neighbours have in common"),
    "tta": ({"enum": ["none", "mirror"]}, "mirror: each view is looked at mirrored, too"),
    "scores": (
        {"enum": ["model", "calibrated"]},
        "calibrated: the share of such detections that were right in validation, for threshold, too",
    ),
    "export_as_image": (
        {"enum": ["0", "1", "false", "true"]},
        "whether format=azure of a model with masks has these as pictures, too",
    ),
    "image_type": ({"enum": list(IMAGE_TYPES)}, "the type of these pictures; alone it asks for them"),
}


def paths(*, multi_model: bool) -> dict[str, str]:
    """The methods of each path of the server, as ``GET/POST``."""
    described = describe({}, {}, multi_model=multi_model)["paths"]
    return {
        path: "/".join(method.upper() for method in item if method != "parameters")
        for path, item in described.items()
    }


def describe(
    forms: Mapping[str, AnswerForm], schema: Mapping[str, Any], *, multi_model: bool
) -> dict[str, Any]:
    """The document.

    Args:
        forms: of answers, beside the task's own JSON.
        schema: of that JSON.
        multi_model: whether models come and go.

    """
    invocation = _invocation(forms, schema)
    paths: dict[str, Any] = {"/ping": {"get": _get("whether the model answers", {"200": {}, "503": {}})}}
    if multi_model:
        paths["/models"] = {
            "get": _get("the models that are loaded", {"200": {}}),
            "post": _get("load a model", {"200": {}, "409": _ERROR, "507": _ERROR}),
        }
        paths["/models/{name}"] = {
            "get": _get("a model that is loaded", {"200": {}, "404": _ERROR}),
            "delete": _get("unload a model", {"200": {}, "404": _ERROR}),
        }
        paths["/models/{name}/invoke"] = {"post": invocation}
        for path in ("/models/{name}", "/models/{name}/invoke"):
            paths[path]["parameters"] = [
                {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            ]
    else:
        paths["/invocations"] = {"post": invocation}
    paths["/execution-parameters"] = {"get": _get("what batch transform may use", {"200": {}})}
    paths["/metrics"] = {"get": _get("figures for Prometheus", {"200": {}})}
    paths["/version"] = {"get": _get("the server's version", {"200": {}})}
    paths["/openapi.json"] = {"get": _get("this document", {"200": {}})}
    paths["/"] = {"get": _get("a page for browsers, and JSON for others", {"200": {}})}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tilewise", "version": tilewise.__version__},
        "paths": paths,
    }


def _get(summary: str, responses: dict[str, dict[str, Any]]) -> dict[str, Any]:
    described = {status: each or {"description": "as it says"} for status, each in responses.items()}
    return {"summary": summary, "responses": described}


def _invocation(forms: Mapping[str, AnswerForm], schema: Mapping[str, Any]) -> dict[str, Any]:
    instances = {"type": "array", "items": _BASE64}
    table = {"type": "object", "properties": {"columns": {"const": ["image"]}, "data": instances}}
    asked = {
        "type": "object",
        "properties": {
            "image": _BASE64,
            "instances": instances,
            "input_data": table,
            "parameters": {"type": "object"},
        },
    }
    bodies = {
        **dict.fromkeys(("application/x-image", "image/jpeg", "image/png"), _BINARY),
        "application/json": {"schema": asked},
        "application/jsonlines": {"schema": {"type": "string"}},
        "multipart/form-data": {"schema": {"type": "object"}},
    }
    answers: dict[str, Any] = {
        "application/json": {"schema": schema},
        "application/jsonlines": {"schema": {"type": "string"}},
        **{f"{form.media_type};format={name}": {} for name, form in forms.items()},
        "image/jpeg": _BINARY,
        "image/png": _BINARY,
    }
    names = {"enum": [*forms, *PICTURE_NAMES]}
    options = {**_OPTIONS, "format": (names, "the form of the answer, in place of the Accept header")}
    return {
        "summary": "what the model says of images",
        "parameters": [
            {"name": name, "in": "query", "schema": values, "description": text}
            for name, (values, text) in options.items()
        ],
        "requestBody": {"required": True, "content": bodies},
        "responses": {
            "200": {"description": "what was found", "content": answers},
            **dict.fromkeys(("400", "406", "408", "413", "415", "503"), _ERROR),
        },
    }
