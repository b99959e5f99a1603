from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_instances import make_instances
from tilewise.serving.responses import DEFAULT_FORM, Form, NotAcceptableError, choose_form, render
from tilewise.tasks.answers import Answered
from tilewise.tasks.detection.answers import DetectionAnswers
from tilewise.tasks.detection.forms import FORMS

if TYPE_CHECKING:
    from tilewise.inference.detections import Prediction

ANNOTATION = Form("application/json", annotation=True)
LINES = Form("application/jsonlines")


def prediction(
    boxes: list[list[float]], scores: list[float], labels: list[int], width: int = 500, height: int = 400
) -> Prediction:
    detections = make_instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )
    return cast("Prediction", SimpleNamespace(width=width, height=height, detections=detections))


def answer(found: Prediction, form: Form) -> str:
    return render([Answered(found)], form, DetectionAnswers())


TWO = prediction([[111, 134, 172.4, 262], [50, 100, 250, 300]], [0.943, 0.25], [0, 4])


def test_render__fractions_of_the_image_all_floats() -> None:
    text = answer(TWO, DEFAULT_FORM)
    rows = json.loads(text)["prediction"]
    assert rows[0] == pytest.approx([0.0, 0.943, 0.222, 0.335, 0.3448, 0.655])
    assert rows[1] == [4.0, 0.25, 0.1, 0.25, 0.5, 0.75]
    assert all(isinstance(number, float) for row in rows for number in row)
    assert "[4.0," in text
    assert "\n" not in text


def test_render__annotation_is_whole_pixels() -> None:
    content = json.loads(answer(TWO, ANNOTATION))
    assert content["image_size"] == [{"width": 500, "height": 400, "depth": 3}]
    first = content["annotations"][0]
    assert first["score"] == pytest.approx(0.943)
    del first["score"]
    assert first == {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128}
    assert all(isinstance(number, int) for number in first.values())


def test_render__json_lines_is_one_line() -> None:
    assert answer(TWO, LINES) == answer(TWO, DEFAULT_FORM) + "\n"
    line = answer(TWO, Form("application/jsonlines", annotation=True))
    assert line == answer(TWO, ANNOTATION) + "\n"
    assert line.count("\n") == 1


def test_render__nothing_found() -> None:
    nothing = prediction([], [], [])
    assert json.loads(answer(nothing, DEFAULT_FORM)) == {"prediction": [], "classes": []}
    assert json.loads(answer(nothing, ANNOTATION))["annotations"] == []


def test_render__not_a_number_is_refused() -> None:
    with pytest.raises(ValueError):
        answer(prediction([[0, 0, 1, 1]], [float("nan")], [0]), DEFAULT_FORM)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_render__scores_are_read_back_exactly(scores: list[float]) -> None:
    found = prediction([[0, 0, 1, 1]] * len(scores), scores, [0] * len(scores))
    answered = [row[1] for row in json.loads(answer(found, DEFAULT_FORM))["prediction"]]
    assert torch.equal(torch.tensor(answered, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32))


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), min_size=1), st.integers(1, 40_000))
def test_render__boxes_are_read_back_to_a_thousandth_of_a_pixel(
    fractions: list[tuple[float, ...]], size: int
) -> None:
    boxes = torch.tensor(fractions, dtype=torch.float32) * size
    found = prediction(boxes.tolist(), [0.5] * len(boxes), [0] * len(boxes), width=size, height=size)
    answered = torch.tensor([row[2:] for row in json.loads(answer(found, DEFAULT_FORM))["prediction"]])
    assert torch.allclose(answered.double() * size, boxes.double(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, DEFAULT_FORM),
        ("", DEFAULT_FORM),
        ("*/*", DEFAULT_FORM),
        ("application/*", DEFAULT_FORM),
        ("application/json", DEFAULT_FORM),
        ("application/json; charset=utf-8", DEFAULT_FORM),
        ("Application/JSON", DEFAULT_FORM),
        ("application/json;annotation=1", ANNOTATION),
        ("application/json; annotation=1", ANNOTATION),
        ('application/json;annotation="1"', ANNOTATION),
        ("application/json;annotation=0", DEFAULT_FORM),
        ("application/jsonlines", LINES),
        ("application/jsonlines;annotation=1", Form("application/jsonlines", annotation=True)),
        ("text/html, application/jsonlines;q=0.9, */*;q=0.1", LINES),
        ("*/*, application/jsonlines;q=0.5", DEFAULT_FORM),
        ("application/json;q=0.2, application/jsonlines;q=0.8", LINES),
        ("application/jsonlines;annotation=1;q=0.3, application/json;annotation=1;q=0.6", ANNOTATION),
        ("application/json;annotation=2, application/jsonlines;q=0.5", LINES),
        ("image/*", Form("image/jpeg")),
        ("image/webp, image/*;q=0.9", Form("image/jpeg")),
    ],
)
def test_choose_form__accept_headers(accept: str | None, form: Form) -> None:
    assert choose_form(accept, DEFAULT_FORM, FORMS) == form


@pytest.mark.parametrize(
    "accept",
    [
        "text/csv",
        "image/webp, text/*",
        "application/json;q=0",
        "json",
        "application/json;annotation=2",
        "application/jsonlines;annotation=true",
    ],
)
def test_choose_form__nothing_that_we_make(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="application/jsonlines"):
        choose_form(accept, DEFAULT_FORM, FORMS)


def test_choose_form__default_of_the_server() -> None:
    assert choose_form("*/*", LINES, FORMS) == LINES
    assert choose_form(None, ANNOTATION, FORMS) == ANNOTATION
    assert choose_form("application/json", LINES, FORMS) == DEFAULT_FORM
