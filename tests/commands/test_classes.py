"""The commands with models that say which classes an image shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Tilewise
from labelled_images import class_folders, several_labels
from PIL import Image
from tilewise.data.channel import ChannelFolder, read_data_set
from tilewise.data.choice import DataChoice
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.inference.artifact import Artifact
from tilewise.inference.export import write_onnx
from tilewise.inference.predictor import Predictor
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.tasks.classification.task import ClassificationTask, MultilabelTask
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.view import CentreCrop
from training_job import Job

CLASSES = ("blue", "green", "red")


def save_classifier(
    folder: Path, name: str = "resnet18", *, several: bool = False, tiling: Tiling = WHOLE_IMAGE
) -> Path:
    torch.manual_seed(0)
    spec = ClassifierSpec(name, 3, CentreCrop(square=32, resized=36), 32, several, tiling=tiling)
    task = MultilabelTask() if several else ClassificationTask()
    folder.mkdir(parents=True, exist_ok=True)
    Artifact(task.build(spec).eval(), spec, CLASSES, {}, {}, task=task.name).save(folder, "model")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


def test_predict__writes_the_scores_and_a_picture(tilewise: Tilewise, model: Path, image: Path) -> None:
    code, output, errors = tilewise("predict", image, "--model", model, "--out", image.parent)
    assert code == 0, errors
    answer = json.loads((image.parent / "a photo-classes.json").read_text())
    expected = Predictor.load(model).predict(image).scores
    assert answer["classes"] == list(CLASSES)
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    best = int(expected.argmax())
    assert f"a photo-classes.png: {CLASSES[best]} {expected[best]:.2f}, " in output
    with Image.open(image.parent / "a photo-classes.png") as picture:
        assert picture.size == (80, 60)
    code, _, errors = tilewise("predict", image, "--model", model, "--max-detections", 3)
    assert code == 2 and "is a model for task=classification, which finds no objects" in errors


def test_errors__takes_a_detector(tilewise: Tilewise, model: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "data", 1)
    code, _, errors = tilewise("errors", tmp_path / "data", "--model", model, "--out", tmp_path / "out")
    assert code == 2 and f"{model} holds a model of task classification: errors looks for wrong" in errors


def test_evaluate__gives_the_figures(tilewise: Tilewise, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "validation"
    class_folders(folder, 3)
    code, output, errors = tilewise("evaluate", folder, folder, "--model", model)
    assert code == 0, errors
    predictor = Predictor.load(model)
    paths = sorted(folder.rglob("*.png"))
    best = [CLASSES[int(predictor.predict(path).scores.argmax())] for path in paths]
    right = np.mean([name == path.parent.name for name, path in zip(best, paths, strict=True)])
    assert json.loads(output)["accuracy"] == pytest.approx(right)


def test_evaluate__of_several_labels_by_a_file(tilewise: Tilewise, tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "model", several=True)
    several_labels(tmp_path / "images", 6)
    labels = tmp_path / "images" / "labels.jsonl"
    code, output, errors = tilewise("evaluate", labels, tmp_path / "images", "--model", model)
    assert code == 0, errors
    assert 0 <= json.loads(output)["iou"] <= 1
    (tmp_path / "no.json").write_text("{}")
    code, _, errors = tilewise("evaluate", tmp_path / "no.json", tmp_path / "images", "--model", model)
    assert code == 2 and "no.json holds no labels of images: give Azure JSON lines" in errors
    code, _, errors = tilewise("evaluate", tmp_path / "not.csv", tmp_path / "images", "--model", model)
    assert (code, errors) == (2, f"tilewise evaluate: {tmp_path / 'not.csv'} is not there\n")


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "resnest50", "seresnext", "vits16r224"])
def test_export__the_graphs_say_the_same(tilewise: Tilewise, name: str, image: Path, tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "model", name)
    expected = Predictor.load(model, backend="eager").predict(image).scores
    for form in ("onnx", "torchscript"):
        code, output, errors = tilewise("export", model, "--to", form, "--out", tmp_path / form)
        assert code == 0, errors
        assert "facts.json, labels.json" in output
    facts = json.loads((tmp_path / "onnx" / "facts.json").read_text())
    assert facts["outputs"] == {"scores": "(C,) float32: by index into labels.json"}
    assert facts["scaling"]["resized"] == 36
    command = [sys.executable, "classify.py", str(image)]
    said = subprocess.run(command, cwd=tmp_path / "onnx", capture_output=True, text=True, check=True).stdout
    assert said.split()[2:4] == [CLASSES[int(expected.argmax())], f"{expected.max():.3f}"]
    (tmp_path / "onnx" / "model.onnx").rename(model / "model.onnx")
    np.testing.assert_allclose(
        Predictor.load(model, backend="onnx").predict(image).scores, expected, atol=1e-5
    )
    graph = torch.jit.load(tmp_path / "torchscript" / "model.pt")
    view = Predictor.load(model).plan.views(80, 60)[0]
    pixels = view.pixels_from_image(np.moveaxis(np.asarray(Image.open(image)), 2, 0))
    (scores,) = graph(torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 0, 2))))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_graph__is_served_without_pytorch(model: Path, image: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    write_onnx(
        Artifact.load(model).model, CentreCrop(square=32, resized=36), tmp_path / "model" / "model.onnx"
    )
    code = f"""
import sys
from pathlib import Path
from tilewise.inference.two_stages import load_predictor
found = load_predictor(Path({str(tmp_path / "model")!r}), backend="onnx").predict(Path({str(image)!r}))
assert len(found.scores) == 3 and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_export__tiles_are_pooled_by_the_example(tilewise: Tilewise, image: Path, tmp_path: Path) -> None:
    tiling = Tiling("grid", (2, 2), merge="pool")
    model = save_classifier(tmp_path / "model", several=True, tiling=tiling)
    assert tilewise("export", model, "--to", "onnx", "--out", tmp_path / "onnx")[0] == 0
    command = [sys.executable, "classify.py", str(image)]
    said = subprocess.run(command, cwd=tmp_path / "onnx", capture_output=True, text=True, check=True).stdout
    words = said.removeprefix(str(image)).split()
    expected = dict(zip(CLASSES, Predictor.load(model).predict(image).scores, strict=True))
    found = {name: float(score) for name, score in zip(words[::2], words[1::2], strict=True)}
    assert found == pytest.approx(expected, abs=0.002)


def test_export__no_8_bits(tilewise: Tilewise, model: Path, tmp_path: Path) -> None:
    options = ("--to", "onnx", "--out", tmp_path / "x", "--int8", "--images", tmp_path)
    code, _, errors = tilewise("export", model, *options)
    assert code == 2 and "is a model for task=classification, not a detector" in errors


def read_back(folder: Path, *, several: bool) -> dict[str, list[str]]:
    """The classes of each image, by the name of its file without the folder of its class."""
    fields = frozenset({SEVERAL_LABELS if several else ONE_LABEL})
    choice = DataChoice(fields=fields)
    data = read_data_set({"train": ChannelFolder(folder)}, None, validates=False, seed=0, choice=choice)
    return {
        record.key.split(" ")[0].split("/")[-1]: [data.classes[label] for label in record.targets.labels]
        for record in data.train.sample
    }


@pytest.mark.parametrize("form", ["folders", "azure-jsonl", "csv", "lst", "manifest", "recordio"])
def test_convert__one_class_an_image(tilewise: Tilewise, form: str, tmp_path: Path) -> None:
    class_folders(tmp_path / "source", 2)
    options = ("--task", "classification", "--to", form)
    code, output, errors = tilewise("convert", tmp_path / "source", tmp_path / "out", *options)
    assert code == 0, errors
    assert "6 images" in output and "with 6 labels" in output
    if form == "recordio":
        (tmp_path / "out" / "train.lst").unlink()  # beside the file it is a second format
    found = read_back(tmp_path / "out", several=False)
    numbered = form in ("lst", "recordio")
    expected = [str(label) if numbered else name for label, name in enumerate(CLASSES) for _ in range(2)]
    assert sorted(name for (name,) in found.values()) == sorted(expected)
    if form not in ("folders", "recordio"):
        assert found["blue_0.png"] == ["0" if numbered else "blue"]


@pytest.mark.parametrize("form", ["azure-jsonl", "csv", "lst", "manifest", "recordio"])
def test_convert__any_number_of_classes(tilewise: Tilewise, form: str, tmp_path: Path) -> None:
    expected = several_labels(tmp_path / "source", 12)
    assert [] in expected
    options = ("--task", "multilabel_classification", "--to", form)
    code, _, errors = tilewise("convert", tmp_path / "source", tmp_path / "out", *options)
    assert code == 0, errors
    if form == "recordio":
        (tmp_path / "out" / "train.lst").unlink()
    found = list(read_back(tmp_path / "out", several=True).values())
    if form in ("lst", "recordio"):
        found = [[CLASSES[int(name)] for name in names] for names in found]
    assert sorted(found) == sorted(expected)


def test_convert__objects_are_cut_out(tilewise: Tilewise, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.add_images("train", 4)
    options = ("--task", "classification", "--objects-as", "crops", "--to", "folders")
    images, annotations = job.channel("train"), job.channel("train_annotation")
    code, output, errors = tilewise(
        "convert", images, tmp_path / "out", "--annotations", annotations, *options
    )
    assert code == 0, errors
    assert "9 images" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"red", "blue"}
    assert len(list((tmp_path / "out").rglob("image_0*.png"))) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "coco", "--task", "classification"), "--to coco holds objects: images with classes go to"),
        (("--to", "csv"), "--to csv holds images with classes: say so with --task classification or multila"),
        (("--to", "csv", "--objects-as", "crops"), "--objects-as goes with --task classification or multila"),
    ],
)
def test_convert__what_does_not_go_together(
    tilewise: Tilewise, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    class_folders(tmp_path / "source", 1)
    code, _, errors = tilewise("convert", tmp_path / "source", tmp_path / "out", *options)
    assert code == 2 and message in errors


def test_convert__what_a_form_cannot_hold(tilewise: Tilewise, tmp_path: Path) -> None:
    several_labels(tmp_path / "several", 6)
    options = ("--task", "multilabel_classification", "--to", "folders")
    code, _, errors = tilewise("convert", tmp_path / "several", tmp_path / "out", *options)
    assert code == 2 and "classes, and a folder holds images of one" in errors
    class_folders(tmp_path / "spaced", 1, classes=("red",))
    (tmp_path / "spaced" / "red").rename(tmp_path / "spaced" / "dark red")
    options = ("--task", "multilabel_classification", "--to", "csv")
    code, _, errors = tilewise("convert", tmp_path / "spaced", tmp_path / "out", *options)
    assert code == 2 and "the class dark red has a space in its name" in errors
    (tmp_path / "spaced" / "dark red").rename(tmp_path / "spaced" / "dark|red")
    code, _, errors = tilewise("convert", tmp_path / "spaced", tmp_path / "out", *options)
    assert code == 2 and "the class dark|red has a space in its name, or a comma" in errors


def test_inspect__counts_and_draws_by_class(tilewise: Tilewise, tmp_path: Path) -> None:
    several_labels(tmp_path / "train", 12)
    options = ("--task", "multilabel_classification", "--out", tmp_path / "report", "--json")
    code, output, errors = tilewise("inspect", tmp_path / "train", *options)
    assert code == 0, errors
    facts = json.loads(output[output.index("{") :])
    labels = [
        json.loads(line)["label"] for line in (tmp_path / "train/labels.jsonl").read_text().splitlines()
    ]
    channel = facts["channels"]["train"]
    assert channel["images_by_class"] == {name: sum(name in own for own in labels) for name in CLASSES}
    assert channel["images_without_class"] == labels.count([])
    assert "without a class" in errors and "boxes" not in errors
    with Image.open(tmp_path / "report" / "inspect.png") as picture:
        assert picture.width > 1000
    code, _, errors = tilewise("inspect", tmp_path / "train", *options[:2], "--scale", 300)
    assert code == 2 and "--scale is of objects: it does not go with --task multilabel_cl" in errors
