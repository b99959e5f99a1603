"""An endpoint without PyTorch, as the image without a GPU's libraries runs it: every form of every task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tilewise.errors import UserError
from tilewise.inference import load
from tilewise.inference.artifact import Artifact
from tilewise.inference.description import ModelDescription
from tilewise.inference.export import write_onnx
from tilewise.inference.load import BackendName
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.spec import DetectorSpec
from tilewise.tasks.classification.task import ClassificationTask
from tilewise.tasks.segmentation.task import SegmentationTask
from tilewise.views.view import CentreCrop, Scaling

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import base64, importlib.util, io, json, sys
from importlib.metadata import packages_distributions

allowed = {"tilewise", *json.loads(sys.argv[2])}
owners = packages_distributions()

class OnlyPinned:
    def find_spec(self, name, path=None, target=None):
        if path is None and (found := owners.get(name)):
            if not allowed & {each.lower().replace("_", "-") for each in found}:
                raise ModuleNotFoundError(f"{name} is not in serving_requirements.txt")

sys.meta_path.insert(0, OnlyPinned())
real_find_spec = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real_find_spec(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec

from pathlib import Path
import numpy as np
from PIL import Image
from tilewise.inference.model_card import ModelCard
from tilewise.inference.two_stages import load_predictor
from tilewise.serving import metrics, server
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model
from tilewise.serving.served_model import ServedModel
from tilewise.serving.settings import Settings

folder = Path(sys.argv[1])
thread = ComputeThread(60, 60, lambda: None)
thread.start()
served = ServedModel(lambda: load_predictor(folder), thread, lambda: None, on_breakdown=lambda: None)
assert served.wait_until_loaded(), served.failure
model = Model(served, ModelCard.read(folder), folder)
client = create_app(model, Settings()).test_client()
pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
answers = {}
for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000"):
    file = io.BytesIO()
    pixels.save(file, kind)
    answers[kind] = client.post("/invocations", data=file.getvalue(), content_type="application/x-image")
for form in model.answers.forms | {"jpeg": 0, "png": 0}:
    answers[form] = client.post(f"/invocations?format={form}", data=file.getvalue())
answers["tiles"] = client.post("/invocations?tile_grid_size=2x2&tta=mirror", data=file.getvalue())
image = base64.b64encode(file.getvalue()).decode()
item = {"image_base64": image, "model_explainability": True}
explained = client.post("/invocations", json={"input_data": {"columns": ["image"], "data": [item]}})
print(json.dumps({name: answer.status_code for name, answer in answers.items()}))
print(explained.get_data(as_text=True))
assert "torch" not in sys.modules
"""


def serve(folder: Path) -> tuple[dict[str, int], str]:
    """Statuses by form, and the answer to a request for an explanation."""
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "serving_requirements.txt").read_text(), re.MULTILINE)
    command = [sys.executable, "-c", SERVE, str(folder), json.dumps(pins)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses, explained = done.stdout.splitlines()
    return json.loads(statuses), explained


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    """A small model with masks and its graph."""
    spec = DetectorSpec(
        name="maskyolox_nano",
        num_classes=2,
        scaling=Scaling(square=128),
        anchor_sizes=None,
        score_threshold=0.0,
        nms_iou_threshold=0.45,
        detections_per_view=20,
    )
    return save(SegmentationTask(), spec, tmp_path)


def save(task: Any, spec: Any, folder: Path) -> Path:
    model = task.build(spec).eval()
    Artifact(model, spec, ("ant", "bee"), {}, {}, task=task.name).save(folder, "model")
    write_onnx(model, spec.scaling, folder / "model.onnx")
    return folder


@pytest.mark.parametrize("model", ["graph_folder", "mask_folder"])
def test_detector__all_forms(model: str, request: pytest.FixtureRequest) -> None:
    statuses, _ = serve(request.getfixturevalue(model))
    assert len(statuses) > 15 and set(statuses.values()) == {200}, statuses


def test_classifier__all_forms_and_no_explanation(tmp_path: Path) -> None:
    spec = ClassifierSpec("resnet18", 2, CentreCrop(square=64, resized=64), 64, False)
    statuses, explained = serve(save(ClassificationTask(), spec, tmp_path))
    assert set(statuses.values()) == {200}, statuses
    assert "needs PyTorch" in explained


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("auto", "PyTorch is not installed here, and there is no graph model.onnx"),
        ("eager", "the backend eager needs PyTorch"),
    ],
)
def test_load__what_needs_pytorch_is_one_sentence(
    model_folder: Path, backend: BackendName, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(UserError, match=message):
        load.load_backend(model_folder, ModelDescription.read(model_folder), backend)
