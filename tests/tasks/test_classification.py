"""Figures and answers of classifiers, and the networks behind Azure's names."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from tilewise.augment.resized_crop import drawn_window
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.models.classifier import Outputs
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.detector import BatchImages
from tilewise.models.freezing import freeze, stages_of
from tilewise.models.pretrained import load_pretrained
from tilewise.registry import model_names
from tilewise.targets import Targets
from tilewise.tasks.answers import Answered, answers_of
from tilewise.tasks.classification.analysis import ScoredImages
from tilewise.tasks.classification.metrics import figures_of
from tilewise.tasks.classification.prediction import ClassScores, merger
from tilewise.tasks.classification.task import ClassificationTask, MultilabelTask
from tilewise.tiling.spec import WHOLE_IMAGE
from tilewise.views.rendering import AS_STORED
from tilewise.views.view import CentreCrop, View, whole_image

PARAMETERS = {
    "mobilenetv2": 2_223_872,
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnest50": 25_434_240,
    "seresnext": 25_510_896,
    "vits16r224": 21_665_664,
}
"""Without the head, as published."""


def spec_of(name: str, classes: int = 3, side: int = 32, **options: object) -> ClassifierSpec:
    return ClassifierSpec(name, classes, CentreCrop(square=side, resized=side + 4), side, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PARAMETERS)
def test_model__is_the_published_one(name: str) -> None:
    model = ClassificationTask().build(spec_of(name)).eval()
    head = [key for key in dict(model.network.named_parameters()) if key.split(".")[1] in HEADS]
    parameters = sum(each.numel() for key, each in model.network.named_parameters() if key not in head)
    assert head and parameters == PARAMETERS[name]
    with torch.no_grad():
        (scores,) = model.detect([torch.zeros(3, 32, 32, dtype=torch.uint8)])
    assert scores.shape == (3,) and math.isclose(float(scores.sum()), 1, abs_tol=1e-5)
    mean = 0.5 * 255 if name.startswith("vit") else 0.485 * 255
    assert isinstance(model.transform, BatchImages)
    assert float(model.transform.mean[0]) == pytest.approx(mean)


HEADS = ("fc", "classifier", "head", "last_linear")


def test_model_names__are_azures_and_the_builtins_deepest() -> None:
    azures = "mobilenetv2 resnet18 resnet34 resnet50 resnet101 resnet152 resnest50 resnest101 seresnext"
    expected = {*azures.split(), "vits16r224", "vitb16r224", "vitl16r224", "resnet200"}
    assert set(model_names("classification")) == expected == set(model_names("multilabel_classification"))


@pytest.mark.parametrize(("name", "count"), [("resnet18", 5), ("mobilenetv2", 19), ("vits16r224", 13)])
def test_layers_to_freeze__are_those_of_azures_lists(name: str, count: int) -> None:
    model = ClassificationTask().build(spec_of(name))
    assert len(stages_of(model.network, name)) == count
    freeze(model, name, 2, pattern=None)
    first = stages_of(model.network, name)[0][0]
    assert not any(each.requires_grad for each in model.network.get_submodule(first).parameters())
    with pytest.raises(
        UserError, match=f"layers_to_freeze={count + 1}: the backbone of {name} has {count} sta"
    ):
        freeze(model, name, count + 1, pattern=None)


@pytest.mark.parametrize("name", ["resnet18", "seresnext"])
def test_pretrained__by_file_with_another_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = ClassificationTask().build(spec_of(name, classes=7)).network.body.state_dict()  # type: ignore[union-attr]
    file = {"resnet18": "resnet18-f37072fd.pth", "seresnext": "se_resnext50_32x4d-a260b3a4.pth"}[name]
    torch.save(published, tmp_path / file)
    monkeypatch.setenv("TILEWISE_WEIGHTS", str(tmp_path))
    model = ClassificationTask().build(spec_of(name))
    assert f"loaded from {file}" in load_pretrained(model, name)
    own = model.network.body.state_dict()  # type: ignore[union-attr]
    same = [
        key for key in own if own[key].shape == published[key].shape and (own[key] == published[key]).all()
    ]
    assert len(own) - len(same) == 2  # weight and bias of the head


@pytest.mark.parametrize("name", ["resnet18", "seresnext", "resnest50", "vits16r224"])
def test_weights__nothing_is_asked_of_the_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("it opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TILEWISE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    model = ClassificationTask().build(spec_of(name))
    assert load_pretrained(model, name).endswith("training from scratch")
    torch.save(model.network.body.state_dict(), tmp_path / "whatever.pth")  # type: ignore[union-attr]
    assert "loaded from whatever.pth" in load_pretrained(model, name, tmp_path)


def test_spec__goes_through_json() -> None:
    spec = spec_of("resnet18", several=True, class_weights=(1.5, 2.0, 0.25))
    assert MultilabelTask().spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_centre_crop__is_the_middle_of_the_shorter_side() -> None:
    assert whole_image(640, 480, CentreCrop(square=224, resized=256)) == [
        View((110, 30, 530, 450), (224, 224))
    ]


def test_random_crop__lies_inside_and_varies() -> None:
    rng = np.random.default_rng(0)
    windows = np.array([drawn_window(200, 100, rng) for _ in range(500)])
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= [200, 100]).all()
    width, height = (windows[:, 2:] - windows[:, :2]).T
    assert (width / height < 1.36).all() and (width / height > 0.73).all()
    shares = width * height / 20000
    assert shares.min() < 0.12 and shares.max() > 0.4
    assert drawn_window(10, 1000, rng)[2:] != (10, 1000)  # none that is so high has the ratio


def targets_of(*labels: int) -> Targets[torch.Tensor]:
    count = len(labels)
    return Targets(torch.zeros(count, 4), torch.tensor(labels, dtype=torch.int64), torch.zeros(count).bool())


def test_loss__with_weights_of_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    outputs, labels = Outputs({}, logits), [targets_of(0), targets_of(1)]
    for weights in (None, (0.5, 2.0, 1.0)):
        model = ClassificationTask().build(spec_of("resnet18", class_weights=weights))
        log_probabilities = logits.log_softmax(1)
        own = weights or (1.0, 1.0, 1.0)
        losses = -(own[0] * log_probabilities[0, 0] + own[1] * log_probabilities[1, 1]) / (own[0] + own[1])
        assert torch.isclose(model.criterion(outputs, labels)["cross_entropy"], losses)


def test_loss__of_several_labels() -> None:
    outputs = Outputs({}, torch.zeros(2, 3))
    model = MultilabelTask().build(spec_of("resnet18", several=True, class_weights=(3.0, 1.0, 1.0)))
    # each of six scores is 0.5; the one that is wanted of the first class counts three times
    loss = model.criterion(outputs, [targets_of(0, 2), targets_of()])["cross_entropy"]
    assert float(loss) == pytest.approx((3 + 5) * math.log(2) / 6)


@pytest.mark.parametrize(("how", "expected"), [(0, None), (1, (0.7071, 1.4142)), (2, (0.5, 2.0))])
def test_class_weights__are_scikit_learns_balanced(how: int, expected: tuple[float, ...] | None) -> None:
    weights = ClassificationTask()._class_weights(how, np.array([8, 2]), 8)
    assert weights == (None if expected is None else pytest.approx(expected, rel=1e-3))


def one_hot(labels: list[int], classes: int) -> Any:
    return np.arange(classes) == np.array(labels)[:, None]


def test_figures__of_one_label_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(4, size=60)
    scores = rng.dirichlet(np.ones(4), 60)
    scores[np.arange(60), true] += 0.4
    scores /= scores.sum(axis=1, keepdims=True)
    figures = figures_of(one_hot(true.tolist(), 4), scores, several=False, top_k=2)
    best = scores.argmax(axis=1)
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(true, best))
    assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, best))
    assert figures["log_loss"] == pytest.approx(sk.log_loss(true, scores))
    assert figures["matthews_correlation"] == pytest.approx(sk.matthews_corrcoef(true, best))
    assert figures["top_k_accuracy"] == pytest.approx(sk.top_k_accuracy_score(true, scores, k=2))
    for mean in ("macro", "weighted"):
        auc = sk.roc_auc_score(true, scores, multi_class="ovr", average=mean)
        assert figures[f"AUC_{mean}"] == pytest.approx(auc)
    for mean in ("macro", "micro", "weighted"):
        assert figures[f"f1_score_{mean}"] == pytest.approx(sk.f1_score(true, best, average=mean))
        recall = sk.recall_score(true, best, average=mean)
        assert figures[f"recall_score_{mean}"] == pytest.approx(recall)
        truth = one_hot(true.tolist(), 4)
        precision = sk.average_precision_score(truth, scores, average=mean)
        assert figures[f"average_precision_score_{mean}"] == pytest.approx(precision)
    recall = figures["recall_score_macro"]
    assert figures["norm_macro_recall"] == pytest.approx((recall - 0.25) / 0.75)
    assert "AUC_binary" not in figures


def test_figures__two_classes_have_binary_ones() -> None:
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    figures = figures_of(one_hot([0, 0, 1, 1], 2), scores, several=False)
    assert figures["AUC_binary"] == 0.75 and figures["precision_score_binary"] == 0.5


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("true", [[0, 1, 1], [1, 1, 1], [2]])
def test_figures__are_defined_where_classes_are_missing(true: list[int], several: bool) -> None:
    scores = np.full((len(true), 3), 1 / 3) + np.eye(3)[: len(true)] / 9
    figures = figures_of(one_hot(true, 3), scores, several=several)
    assert all(value is None or math.isfinite(value) for value in figures.values())
    assert figures["accuracy"] is not None and figures["recall_score_macro"] is not None
    if len(set(true)) == 1:
        assert figures["AUC_macro"] is None and figures["norm_macro_recall"] is None
    else:
        assert figures["AUC_macro"] is not None and figures["AUC_micro"] is not None


def test_figures__of_several_labels() -> None:
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.3], [0.6, 0.9, 0.1], [0.8, 0.7, 0.4]])
    figures = figures_of(truth, scores, several=True)
    assert figures["iou"] == pytest.approx((1 / 2 + 1 + 1 / 2 + 1) / 4)
    assert figures["accuracy"] == 0.5
    assert figures["f1_score_micro"] == pytest.approx(sk.f1_score(truth, scores >= 0.5, average="micro"))
    assert figures["log_loss"] == pytest.approx(sk.log_loss(truth.ravel(), scores.ravel()))


def answered(*scores: float) -> Answered:
    return Answered(ClassScores(8, 6, np.array(scores, np.float32)), ("cat", "dog", "ü"), "a.jpg")


def test_answers__azures_and_sagemakers_forms() -> None:
    answers = answers_of("classification")
    both = [answered(0.25, 0.625, 0.125), answered(0.5, 0.25, 0.25)]
    assert answers.content(both[0], as_annotation=False) == {
        "prediction": [0.25, 0.625, 0.125],
        "classes": ["cat", "dog", "ü"],
    }
    assert json.loads(answers.forms["azure"].render(both)) == [
        {"probs": [0.25, 0.625, 0.125], "labels": ["cat", "dog", "ü"]},
        {"probs": [0.5, 0.25, 0.25], "labels": ["cat", "dog", "ü"]},
    ]
    assert answers.forms["csv"].render(both).splitlines()[:2] == ["image,cat,dog,ü", "a.jpg,0.25,0.625,0.125"]
    assert answers.content(both[0], as_annotation=True)["class_name"] == "dog"
    assert answers.draw(np.zeros((3, 60, 80), np.uint8), both[0]).size == (80, 60)


def test_answers__what_is_not_chosen_has_the_score_0() -> None:
    prediction = answered(0.25, 0.625, 0.125).prediction
    choose = answers_of("multilabel_classification").choose
    for options, expected in (
        ({"threshold": 0.2, "labels": None, "most": None}, [0.25, 0.625, 0]),
        ({"threshold": 0.0, "labels": {0, 2}, "most": None}, [0.25, 0, 0.125]),
        ({"threshold": 0.0, "labels": None, "most": 1}, [0, 0.625, 0]),
    ):
        assert choose(prediction, **options).scores.tolist() == expected


def test_merger__pools_views() -> None:
    view = View((0, 0, 4, 4), (4, 4))
    shown = [(view, np.array([0.75, 0.25], np.float32)), (view, np.array([0.25, 0.75], np.float32))]
    assert merger(several=False)(shown, 4, 4, WHOLE_IMAGE).scores.tolist() == [0.5, 0.5]
    assert merger(several=True)(shown, 4, 4, WHOLE_IMAGE).scores.tolist() == [0.75, 0.75]


def test_of_job__has_its_figure() -> None:
    hp = parse_hyperparameters({"model_name": "resnet18", "primary_metric": "AUC_weighted", "top_k": "2"})
    task = ClassificationTask.of_job(hp)
    figures = {"accuracy": 0.5, "AUC_weighted": 0.75, "top_k_accuracy": 1.0}
    assert list(task.scores(figures).items()) == [
        ("accuracy", 0.5),
        ("top_k_accuracy", 1.0),
        ("AUC_weighted", 0.75),
    ]
    with pytest.raises(
        UserError, match="primary_metric=AUC_weighted is not defined on the validation images"
    ):
        task.scores(figures | {"AUC_weighted": None})


@pytest.mark.parametrize(
    ("task", "shown", "defined"),
    [
        (ClassificationTask, [[0], [1]], True),
        (ClassificationTask, [[1], [1]], False),
        (MultilabelTask, [[0, 1], [1]], True),
        (MultilabelTask, [[0, 1], [0, 1]], False),
        (MultilabelTask, [[], []], False),
    ],
)
@pytest.mark.parametrize("figure", ["AUC_weighted", "average_precision_score_weighted"])
def test_check_validation__a_ranking_needs_images_with_a_class_and_without(
    figure: str, task: type[ClassificationTask], shown: list[list[int]], defined: bool
) -> None:
    records = Records(
        Record(
            f"{number}.png",
            Path(f"{number}.png"),
            8,
            8,
            Targets(
                np.full((len(labels), 4), [0, 0, 8, 8], np.float32),
                np.array(labels, np.int64),
                np.zeros(len(labels), np.bool_),
            ),
        )
        for number, labels in enumerate(shown)
    )
    if defined:
        task(figure).check_validation(records)
    else:
        with pytest.raises(UserError, match=f"primary_metric={figure}: of no class"):
            task(figure).check_validation(records)


def test_validation_pictures__leave_out_what_is_too_large_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("large", (400, 300)), ("small", (80, 60)), ("damaged", (80, 60))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "damaged.png").read_bytes()[:60])
    monkeypatch.setattr("tilewise.tasks.classification.pictures.MAX_PIXELS", 80 * 60)
    records = Records(
        Record(f"{name}.png", tmp_path / f"{name}.png", *size, Targets.none())
        for name, size in (
            ("large", (400, 300)),
            ("damaged", (80, 60)),
            ("gone", (8, 6)),
            ("small", (80, 60)),
        )
    )
    said = [ClassScores(8, 6, np.array([0.5, 0.5], np.float32))] * 4
    pictures = ClassificationTask().validation_pictures(ScoredImages(records, said), ("a", "b"), AS_STORED)
    assert {tag: picture.size for tag, picture in pictures.items()} == {"validation/small.png": (80, 60)}
