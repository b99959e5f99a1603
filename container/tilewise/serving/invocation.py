"""From a request with images to its answer, whatever the model's task."""

from __future__ import annotations

import io
from collections.abc import Callable
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from flask import Response, request

from tilewise.errors import UserError
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.serving.addresses import Addresses
from tilewise.serving.compute import NEVER
from tilewise.serving.errors import RefusedError
from tilewise.serving.incoming import ReceivedBody
from tilewise.serving.logs import LOG_FIELDS
from tilewise.serving.models import Model
from tilewise.serving.options import ATTRIBUTES, Options, check_names, read_attributes, read_options
from tilewise.serving.requests import Ask, Image, UnsupportedTypeError, read_body
from tilewise.serving.responses import (
    DEFAULT_FORM,
    JSON_LINES,
    PICTURE_NAMES,
    PICTURES,
    Form,
    NotAcceptableError,
    accepted,
    choose_form,
    form_named,
    render,
)
from tilewise.serving.served_model import Timings
from tilewise.serving.settings import Settings
from tilewise.tasks.answers import Answered, Answers, Threshold

if TYPE_CHECKING:
    from tilewise.arrays import Array
    from tilewise.serving.metrics import Metrics


class Invocations:
    """Answers requests with images; one that waits holds a slot.

    Args:
        settings: the server's.
        metrics: counts; None for nobody.

    """

    def __init__(self, settings: Settings, metrics: Metrics | None):
        self._settings, self._metrics = settings, metrics
        self._slots = BoundedSemaphore(settings.max_in_flight)
        self._addresses = Addresses(settings.fetched, settings.max_payload_bytes)

    def answer(self, model: Callable[[], Model]) -> Response:
        """Answer the request's images with a model, which is asked for when there is a slot."""
        if not self._slots.acquire(blocking=False):
            raise RefusedError(503, "too many requests are waiting", 1)
        if self._metrics:
            self._metrics.begun(1)
        try:
            return self._answer(model())
        finally:
            self._slots.release()
            if self._metrics:
                self._metrics.begun(-1)

    def _answer(self, model: Model) -> Response:
        body, answers = received(request.environ), model.answers
        _check_encoding(request.headers.get("Content-Encoding", ""))
        ask = read_body(body.getvalue(), request.headers.get("Content-Type", ""), self._addresses.fetch)
        options = read_options(_given(ask), (*answers.forms, *PICTURE_NAMES))
        form = self._form(ask, options, answers)
        _check_one_image(form, answers, len(ask.images))
        with_pictures = _with_pictures(form, options, answers)
        timings = Timings()
        try:
            images = []
            for number, image in enumerate(ask.images, start=1):
                try:
                    prediction = model.served.predict(
                        image.content, tiles=options.tiles, client_left=body.client_left, timings=timings
                    )
                except UserError as error:
                    if len(ask.images) > 1:  # not a new error, which would keep this one and its image
                        error.args = (f"{_place(image, number, len(ask.images))}: {error}",)
                    raise
                chosen = _choose(prediction, options, model, shown=form.is_picture)
                chosen = with_pictures(chosen) if with_pictures else chosen
                explained = {} if image.explain is None else model.explain(image.content, image.explain)
                images.append(Answered(chosen, model.served.classes, image.name, number, explained))
            if form.is_picture:
                return _picture(model, ask.images[0].content, images[0], form.media_type)
        finally:
            self._tell(timings)
        as_list = ask.dialect == "instances" or len(images) > 1
        return Response(render(images, form, answers, as_list=as_list), mimetype=form.media_type)

    def _form(self, ask: Ask, options: Options, answers: Answers) -> Form:
        if named := form_named(options.form, answers.forms):
            return named
        default = self._settings.default_form
        if default == DEFAULT_FORM and ask.dialect == "lines":
            default = Form(JSON_LINES)
        elif default == DEFAULT_FORM:  # as those who ask so expect it
            default = form_named(ask.dialect, answers.forms) or default
        form = choose_form(request.headers.get("Accept"), default, answers.forms)
        if form.name and form.name not in answers.forms:
            raise NotAcceptableError(
                f"the model's task has no form {form.name}, which is the server's default: ask for one with "
                f"Accept: {accepted(answers.forms)}"
            )
        return form

    def _tell(self, timings: Timings) -> None:
        request.environ[LOG_FIELDS] |= {
            "wait_s": round(timings.wait_s, 4),
            "decode_s": round(timings.decode_s, 4),
            "compute_s": round(timings.compute_s, 4),
            "merge_s": round(timings.merge_s, 4),
            "images": [list(size) for size in timings.sizes],
        }
        if self._metrics and timings.sizes:
            self._metrics.computed(timings)


def received(environ: dict[str, Any]) -> ReceivedBody:
    """The body of a request; our worker has read it before, other servers and test clients have not."""
    stream = environ["wsgi.input"]
    if not isinstance(stream, ReceivedBody):
        stream = environ["wsgi.input"] = ReceivedBody(stream.read(), NEVER)
    return stream


def _check_encoding(encoding: str) -> None:
    """Refuse a body that is packed, which would be taken for a damaged image.

    Raises:
        UnsupportedTypeError: it is.

    """
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedTypeError(
            f"the Content-Encoding is {encoding[:50]}: send the body as it is, without packing it"
        )


def _given(ask: Ask) -> dict[str, Any]:
    """The request's options: the query goes before the header, and that before the body."""
    check_names(request.args, "the query")
    return {
        **ask.options,
        **read_attributes(request.headers.get(ATTRIBUTES, "")),
        **{name: ",".join(values) for name, values in request.args.lists()},
    }


def _place(image: Image, number: int, count: int) -> str:
    """Which image of a request is meant."""
    return f"image {number} of {count}" + (f", {image.name[:100]}" if image.name else "")


def _check_one_image(form: Form, answers: Answers, count: int) -> None:
    one_image = form.is_picture or (form.name and answers.forms[form.name].one_image)
    if one_image and count > 1:
        raise RefusedError(406, f"{form.name or form.media_type} holds one image: {count} are asked for")


def _with_pictures(form: Form, options: Options, answers: Answers) -> Callable[[Any], Any] | None:
    """What shows a prediction's masks as pictures, as the request wants it; None where it says nothing.

    Raises:
        RefusedError: it wants them in a form, or of a model, that has none.

    """
    known = {name: each.with_pictures for name, each in answers.forms.items() if each.with_pictures}
    pictures = options.pictures
    if pictures is None or (form.name not in known and not pictures.wanted):
        return None
    if form.name not in known:
        where = f"format={', '.join(known)}" if known else "a model of instance segmentation"
        raise RefusedError(400, f"export_as_image and image_type: masks come as pictures with {where} only")
    show = known[form.name]
    assert show is not None
    return lambda prediction: show(prediction, pictures)


def _choose(prediction: Any, options: Options, model: Model, *, shown: bool) -> Any:
    """What of a prediction is asked for; of a picture, where nothing is said, what the model recommends."""
    classes = model.card.classes or model.served.classes
    labels = options.labels(classes)
    recommended = options.threshold == "recommended" or (shown and options.threshold is None)
    threshold: Threshold | None = (
        model.card.recommended(classes) if recommended else cast("float | None", options.threshold)
    )
    if options.calibrated:
        calibration = _calibration(model)
        prediction = prediction.rescored(calibration)
        if recommended:
            threshold = calibration(np.array(threshold)).tolist()
    if threshold is None and labels is None and options.most is None:
        return prediction
    return model.answers.choose(
        prediction,
        threshold=threshold or 0.0,
        labels=labels,
        most=options.most,
    )


def _calibration(model: Model) -> ScoreCalibration:
    if model.card.calibration is None:
        raise UserError(
            "scores=calibrated: nothing calibrates the scores of this model, which takes a training with "
            "enough validation images: ask for scores=model"
        )
    return model.card.calibration


def _picture(model: Model, image: bytes, answered: Answered, media_type: str) -> Response:
    """The image with the answer drawn on it."""

    def draw(pixels: Array) -> bytes:
        stream = io.BytesIO()
        model.answers.draw(pixels, answered).save(stream, PICTURES[media_type], quality=90)
        return stream.getvalue()

    return Response(model.served.with_pixels(image, draw), mimetype=media_type)
