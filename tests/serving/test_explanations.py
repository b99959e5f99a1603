"""Explanations of a classifier's answers, as Azure's requests ask for them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from PIL import Image
from tilewise.errors import UserError
from tilewise.inference.artifact import Artifact
from tilewise.inference.model_card import ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model
from tilewise.serving.served_model import ServedModel
from tilewise.serving.settings import Settings
from tilewise.tasks.classification.task import ClassificationTask, MultilabelTask
from tilewise.tasks.classification.xai_parameters import read_parameters
from tilewise.views.view import CentreCrop

SIDE = 64
CLASSES = ("bright", "dark")
ALGORITHMS = ("xrai", "integrated_gradients", "guided_gradcam", "guided_backprop")


def save_model(folder: Path, *, several: bool = False) -> Path:
    """A ResNet-18 whose first class is the likelier one for all images."""
    torch.manual_seed(0)
    task = MultilabelTask() if several else ClassificationTask()
    spec = ClassifierSpec("resnet18", 2, CentreCrop(square=SIDE, resized=SIDE), SIDE, several)
    model = task.build(spec).eval()
    with torch.no_grad():
        bias = model.network.get_parameter("body.fc.bias")
        bias.copy_(torch.tensor([50.0, 40.0 if several else -50.0]))
    Artifact(model, spec, CLASSES, {}, {}, task=task.name).save(folder, "model")
    return folder


def serve(folder: Path) -> FlaskClient:
    thread = ComputeThread(60, 60, lambda: None)
    thread.start()
    served = ServedModel(lambda: Predictor.load(folder), thread, lambda: None, on_breakdown=lambda: None)
    assert served.wait_until_loaded()
    return create_app(Model(served, ModelCard.read(folder), folder), Settings()).test_client()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    yield serve(save_model(tmp_path_factory.mktemp("model")))


def photograph() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 60, (80, 100, 3), dtype=np.uint8)
    pixels[20:50, 30:70] = (230, 200, 40)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(http: FlaskClient, **parameters: Any) -> tuple[int, Any]:
    """As Azure's notebook: an item of data is itself a JSON text."""
    item = {
        "image_base64": base64.b64encode(photograph()).decode(),
        "model_explainability": True,
        "xai_parameters": parameters,
    }
    body = {"input_data": {"columns": ["image"], "data": [json.dumps(item)]}}
    answer = http.post("/invocations", json=body)
    return answer.status_code, answer.get_json(silent=True) or answer.get_data(as_text=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_explanation__has_a_sheet_and_attributions(http: FlaskClient, algorithm: str) -> None:
    steps = {} if algorithm.startswith("guided") else {"n_steps": 4}
    status, answer = ask(http, xai_algorithm=algorithm, attributions=True, **steps)
    assert status == 200, answer
    (entry,) = answer
    assert entry["labels"] == list(CLASSES) and entry["probs"][0] == pytest.approx(1)
    sheet = Image.open(io.BytesIO(base64.b64decode(entry["visualizations"])))
    assert (sheet.format, sheet.size) == ("PNG", (2 * SIDE, 2 * SIDE))
    values = np.array(entry["attributions"])
    assert values.shape == ((SIDE, SIDE) if algorithm == "xrai" else (3, SIDE, SIDE))
    assert np.isfinite(values).all() and values.any()


def test_integrated_gradients__sum_to_what_the_image_changes(tmp_path: Path) -> None:
    """Their completeness: all pixels together are the logit's difference to a black image's."""
    folder = save_model(tmp_path)
    model = Artifact.load(folder).model
    _, answer = ask(serve(folder), xai_algorithm="integrated_gradients", attributions=True, n_steps=60)
    view = Predictor.load(folder).plan.views(100, 80)[0]
    crop = view.pixels_from_image(np.moveaxis(np.asarray(Image.open(io.BytesIO(photograph()))), 2, 0))
    with torch.no_grad():
        both = [torch.from_numpy(crop.copy()), torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)]
        logits = model.outputs(model.transform(both)).logits[:, 0]
    assert np.sum(answer[0]["attributions"]) == pytest.approx(
        float(logits[0] - logits[1]), rel=0.05, abs=0.02
    )


def test_explanation__is_of_the_model_that_is_in_the_folder_now(tmp_path: Path) -> None:
    """An endpoint of several models may load another one from the same folder."""
    folder = save_model(tmp_path)
    _, before = ask(serve(folder), xai_algorithm="guided_backprop", attributions=True)
    artifact = Artifact.load(folder)
    with torch.no_grad():
        artifact.model.network.get_parameter("body.fc.weight").neg_()
    artifact.save(folder, "another")
    _, after = ask(serve(folder), xai_algorithm="guided_backprop", attributions=True)
    assert before[0]["attributions"] != after[0]["attributions"]


def test_several__a_sheet_for_each_class_that_is_found(tmp_path: Path) -> None:
    http = serve(save_model(tmp_path, several=True))
    status, answer = ask(http, xai_algorithm="guided_gradcam")
    assert status == 200 and len(answer[0]["visualizations"]) == 2 and "attributions" not in answer[0]
    status, answer = ask(http, xai_algorithm="guided_gradcam", visualizations=False, attributions=True)
    assert np.shape(answer[0]["attributions"]) == (2, 3, SIDE, SIDE) and "visualizations" not in answer[0]


def test_not_wanted__is_a_plain_answer(http: FlaskClient) -> None:
    image = base64.b64encode(photograph()).decode()
    item = {"image_base64": image, "model_explainability": False}
    body = {"input_data": {"columns": ["image"], "data": [item, image]}}
    first, second = http.post("/invocations", json=body).get_json()
    assert first == second and set(first) == {"probs", "labels"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"xai_algorithm": "lime"},
            "xai_parameters: xai_algorithm: Input should be 'xrai', 'integrated_grad",
        ),
        ({"n_steps": 1}, "xai_parameters: n_steps: Input should be greater than or equal to 2"),
        ({"steps": 5}, "xai_parameters: steps: there is none of this name (they are xai_algorithm, visual"),
    ],
)
def test_wrong_parameters__are_told(http: FlaskClient, parameters: dict[str, Any], message: str) -> None:
    status, answer = ask(http, **parameters)
    assert status == 400 and message in json.dumps(answer)


@pytest.mark.parametrize("model", ["mobilenetv2", "vits16r224"])
def test_guided__needs_relus(model: str) -> None:
    with pytest.raises(UserError, match=f"xai_algorithm=guided_backprop follows ReLUs, of which {model} has"):
        read_parameters({"xai_algorithm": "guided_backprop"}, model)


def test_other_tasks__are_not_explained(model_folder: Path) -> None:
    status, answer = ask(serve(model_folder))
    assert status == 400 and "the model is one for task=detection; only what classifies" in json.dumps(answer)
