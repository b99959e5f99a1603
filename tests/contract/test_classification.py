"""Jobs of image classification, from their channels to what their endpoint says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from endpoint_process import serving
from labelled_images import class_folders, record_file, several_labels
from pipe_platform import image_record
from tilewise.inference.predictor import Predictor
from training_job import Job

COLOURS = ("blue", "green", "red")
SMALL = {
    "training_crop_size": "32",
    "validation_crop_size": "32",
    "validation_resize_size": "36",
    "training_batch_size": "8",
    "validation_batch_size": "8",
    "number_of_epochs": "4",
    "num_workers": "0",
    "use_pretrained_model": "0",
}
NOTEBOOK = {
    "task": "image_classification_multilabel",
    "model_name": "resnet18",
    "number_of_epochs": "2",
    "learning_rate": "0.035",
    "layers_to_freeze": "2",
    "optimizer": "Sgd",
    "weighted_loss": "1",
    "early_stopping": "True",
    "primary_metric": "iou",
    "random_seed": "1",
}
"""The job of Azure's notebook for several labels, a trial of its sweep; epochs and size are cut."""
AWS = {
    "num_layers": "18",
    "use_pretrained_model": "0",
    "image_shape": "3,32,32",
    "num_classes": "3",
    "num_training_samples": "36",
    "mini_batch_size": "12",
    "epochs": "2",
    "learning_rate": "0.01",
    "precision_dtype": "float32",
    "top_k": "2",
    "augmentation_type": "crop",
    "num_workers": "0",
}
"""The job of SageMaker's example of the built-in algorithm; epochs and size are cut."""


AWS_SEVERAL = {
    "num_layers": "18",
    "use_pretrained_model": "1",
    "image_shape": "3,32,32",
    "num_classes": "3",
    "mini_batch_size": "8",
    "resize": "36",
    "epochs": "2",
    "learning_rate": "0.01",
    "num_training_samples": "16",
    "use_weighted_loss": "1",
    "augmentation_type": "crop_color_transform",
    "precision_dtype": "float32",
    "multi_label": "1",
    "num_workers": "0",
}
"""The same of its example for several labels; epochs and size are cut."""
SWEEP = {
    "task": "image_classification",
    "model_name": "vits16r224",
    "early_stopping": "True",
    "evaluation_frequency": "1",
    "learning_rate": "0.005",
    "number_of_epochs": "1",
    "primary_metric": "accuracy",
}
"""A trial of the sweep in Azure's example for one label; epochs are cut."""


def metrics_of(job: Job) -> dict[str, object]:
    content: dict[str, object] = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def one_label(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, str]:
    job = Job(tmp_path_factory.mktemp("job"))
    for seed, (channel, count) in enumerate((("train", 12), ("validation", 4), ("test", 2))):
        class_folders(job.channel(channel), count, seed=1000 * seed)
    code, log = job.run(
        {"task": "image_classification", "model_name": "resnet18", "weighted_loss": "2", **SMALL}
    )
    assert code == 0, log
    return job, log


def test_one_label__log_and_outputs(one_label: tuple[Job, str]) -> None:
    job, log = one_label
    assert re.search(r"channel train holds a folder for each class \(blue, green, red\)", log)
    assert re.search(r"class: red +12 +4 +2\n", log) and "boxes" not in log.partition("the data:")[2][:700]
    lines = re.findall(r"validation accuracy <score>=\((\S+)\)", log)
    content = metrics_of(job)
    best = content["best"]
    assert isinstance(best, dict) and len(lines) == 4
    assert max(map(float, lines)) == pytest.approx(best["accuracy"], abs=1e-6)
    assert {"AUC_macro", "f1_score_micro", "precision_score_weighted", "log_loss"} <= best.keys()
    details = content["details"]
    assert isinstance(details, dict) and np.sum(details["confusion"]) == 12
    assert "test accuracy <score>=" in log and "Traceback" not in log
    page = (job.base / "output" / "data" / "report.html").read_text()
    assert "Precision over recall" in page and "What it confuses" in page and "ROC" in page


def test_one_label__the_endpoint_says_what_was_logged(one_label: tuple[Job, str], tmp_path: Path) -> None:
    job, _ = one_label
    best = metrics_of(job)["best"]
    classes = ("blue", "green", "red")
    images = sorted((job.base / "input" / "data" / "validation").rglob("*.png"))
    with serving(job.base / "model", tmp_path) as server:
        server.wait_until_ready()
        answers = [json.loads(server.invoke(path.read_bytes())[2]) for path in images]
        status, kind, body = server.request(
            "POST",
            "/invocations",
            images[0].read_bytes(),
            Content_Type="image/png",
            Accept="application/json;format=azure",
        )
    assert (status, kind.partition(";")[0]) == (200, "application/json")
    (azure,) = json.loads(body)
    assert azure["labels"] == list(classes) == answers[0]["classes"]
    scores = np.array([each["prediction"] for each in answers])
    assert np.allclose(azure["probs"], scores[0], atol=1e-6)
    true = np.array([classes.index(path.parent.name) for path in images])
    assert isinstance(best, dict)
    assert (scores.argmax(axis=1) == true).mean() == pytest.approx(best["accuracy"])
    assert -np.log(scores[np.arange(len(true)), true]).mean() == pytest.approx(best["log_loss"], abs=1e-5)


def test_several_labels__azures_job(tmp_path: Path) -> None:
    job = Job(tmp_path)
    several_labels(job.channel("train"), 24)
    several_labels(job.channel("validation"), 10, seed=500)
    code, log = job.run({**SMALL, **NOTEBOOK})
    assert code == 0, log
    best = metrics_of(job)["best"]
    assert isinstance(best, dict) and 0 <= best["iou"] <= 1
    assert "Updating the best model with validation-iou=" in log and "frozen: " in log
    prediction = Predictor.load(job.base / "model").predict(job.channel("validation") / "0.png")
    assert ((prediction.scores > 0) & (prediction.scores < 1)).all()


def test_builtin__its_job_on_recordio_and_on_lists(tmp_path: Path) -> None:
    for form in ("recordio", "lst"):
        job = Job(tmp_path / form)
        for channel, count in (("train", 12), ("validation", 3)):
            folder = tmp_path / f"{channel}-{form}"
            class_folders(folder, count, seed=len(channel))
            images = sorted(folder.rglob("*.png"))
            labels = [["blue", "green", "red"].index(path.parent.name) for path in images]
            if form == "recordio":
                job.content_type = "application/x-recordio"
                pairs = [(path, [label]) for path, label in zip(images, labels, strict=True)]
                record_file(job.channel(channel) / f"{channel}.rec", pairs)
            else:
                job.content_type = "application/x-image"
                shutil.copytree(folder, job.channel(channel), dirs_exist_ok=True)
                lines = [
                    f"{number}\t{label}\t{path.relative_to(folder)}\n"
                    for number, (path, label) in enumerate(zip(images, labels, strict=True))
                ]
                (job.channel(f"{channel}_lst") / f"{channel}.lst").write_text("".join(lines))
        code, log = job.run(AWS)
        assert code == 0, log
        assert len(re.findall(r"validation accuracy <score>=\(", log)) == 2
        assert len(re.findall(r"train accuracy <score>=\(", log)) == 2
        assert len(re.findall(r"validation top_k_accuracy <score>=\(", log)) == 2
        model = json.loads((job.base / "model" / "model.json").read_text())
        assert (model["task"], model["classes"]) == ("classification", ["0", "1", "2"])


def test_job__resumes_with_the_same_classifier(one_label: tuple[Job, str], tmp_path: Path) -> None:
    job = Job(tmp_path)
    for channel in ("train", "validation"):
        shutil.copytree(
            one_label[0].base / "input" / "data" / channel, job.channel(channel), dirs_exist_ok=True
        )
    shutil.copytree(one_label[0].base / "model", job.channel("model"), dirs_exist_ok=True)
    raw = {"task": "classification", "model_name": "resnet18", **SMALL, "number_of_epochs": "1"}
    code, log = job.run(raw)
    assert code == 0, log
    code, log = job.run(raw | {"model_name": "resnet34"})
    assert code == 2 and "model_name resnet34, but that model resnet18" in job.failure


def test_builtin__its_job_for_several_labels(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.content_type = "application/x-image"
    for channel, count in (("train", 16), ("validation", 6)):
        labels = several_labels(job.channel(channel), count, seed=len(channel))
        (job.channel(channel) / "labels.jsonl").unlink()
        rows = [
            [number, *(int(name in own) for name in ("blue", "green", "red")), f"{number}.png"]
            for number, own in enumerate(labels)
        ]
        lines = ("\t".join(map(str, row)) for row in rows)
        (job.channel(f"{channel}_lst") / f"{channel}.lst").write_text("\n".join(lines) + "\n")
    code, log = job.run(AWS_SEVERAL)
    assert code == 0, log
    assert len(re.findall(r"validation accuracy <score>=\(", log)) == 2
    model = json.loads((job.base / "model" / "model.json").read_text())
    assert (model["task"], model["classes"]) == ("multilabel_classification", ["0", "1", "2"])
    assert len(model["detector"]["class_weights"]) == 3


def test_azure__its_sweep_and_a_manifest(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for channel, count in (("train", 4), ("validation", 2)):
        class_folders(job.channel(channel), count, seed=len(channel))
        names = sorted(path.relative_to(job.channel(channel)) for path in job.channel(channel).rglob("*.png"))
        lines = [
            {
                "source-ref": f"s3://bucket/{name}",
                "colour": COLOURS.index(name.parent.name),
                "colour-metadata": {
                    "class-name": name.parent.name,
                    "type": "groundtruth/image-classification",
                },
            }
            for name in names
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (job.channel(channel) / "output.manifest").write_text(text)
    code, log = job.run({**SMALL, **SWEEP})
    assert code == 0, log
    assert "channel train holds an augmented manifest" in log
    assert json.loads((job.base / "model" / "model.json").read_text())["classes"] == list(COLOURS)


def test_tiles__are_pooled_in_validation_and_at_the_endpoint(tmp_path: Path) -> None:
    job = Job(tmp_path)
    several_labels(job.channel("train"), 16)
    several_labels(job.channel("validation"), 6, seed=500)
    raw = {**SMALL, "task": "multilabel_classification", "model_name": "resnet18", "number_of_epochs": "1"}
    code, log = job.run(raw | {"tile_grid_size": "2x1", "tile_overlap_ratio": "0.5"})
    assert code == 0, log
    assert "seen as the whole image and 2x1 tiles with an overlap of 0.5, their scores pooled" in log
    best = metrics_of(job)["best"]
    predictor = Predictor.load(job.base / "model")
    truth, found = [], []
    for line in (job.channel("validation") / "labels.jsonl").read_text().splitlines():
        content = json.loads(line)
        path = job.channel("validation") / Path(content["image_url"]).name
        image = predictor.decode(path)
        views = predictor.plan.views(image.width, image.height)
        assert len(views) == 3
        alone = [predictor.backend.detect([view.pixels_from_image(image.pixels)])[0] for view in views]
        (pooled,) = predictor.predict_all([image])
        assert np.allclose(pooled.scores, np.max(alone, axis=0), atol=1e-5)
        truth.append([name in content["label"] for name in predictor.classes])
        found.append(pooled.scores)
    clipped = np.clip(np.array(found, np.float64), 1e-15, 1 - 1e-15)
    loss = -np.where(truth, np.log(clipped), np.log(1 - clipped)).mean()
    assert isinstance(best, dict) and best["log_loss"] == pytest.approx(loss, abs=1e-5)


def test_pipe__the_builtins_job(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for channel, count in (("train", 12), ("validation", 3)):
        folder = tmp_path / channel
        class_folders(folder, count, seed=len(channel))
        images = sorted(folder.rglob("*.png"))
        order = np.random.default_rng(0).permutation(len(images))
        job.piped[channel] = b"".join(
            image_record(["blue", "green", "red"].index(images[at].parent.name), images[at].read_bytes(), at)
            for at in order.tolist()
        )
    job.content_type = "application/x-recordio"
    (job.base / "input" / "data").mkdir()
    with job.platform("train", 2), job.platform("validation", 2):
        code, log = job.run(AWS)
    assert code == 0, log
    assert len(re.findall(r"validation accuracy <score>=\(", log)) == 2
    assert "Traceback" not in log and re.search(r"class: 2 +12 +3\n", log)


def test_objects__cut_out_or_as_labels(tmp_path: Path) -> None:
    for how, task in (("crops", "classification"), ("labels", "multilabel_classification")):
        job = Job(tmp_path / how)
        for channel, count in (("train", 8), ("validation", 3)):
            job.add_images(channel, count)
        raw = {**SMALL, "task": task, "model_name": "resnet18", "number_of_epochs": "1", "objects_as": how}
        code, log = job.run(raw)
        assert code == 0, log
        model = json.loads((job.base / "model" / "model.json").read_text())
        assert (model["task"], model["classes"]) == (task, ["red", "blue"])
        assert re.search(rf"images +{'21 +6' if how == 'crops' else '8 +3'}\n", log)


def test_bad_input__is_told_in_a_sentence(tmp_path: Path) -> None:
    job = Job(tmp_path)
    class_folders(job.channel("train"), 4, classes=("red",))
    raw = {"task": "classification", "model_name": "resnet18", **SMALL}
    assert job.run(raw)[0] == 2
    assert "channel train has the class red only: give images of two classes or more" in job.failure
    class_folders(job.channel("train"), 4)
    (job.channel("teacher") / "model.tar.gz").write_bytes(b"")
    assert job.run(raw)[0] == 2
    assert "channel teacher: from a teacher the maps of a detector are learnt, and task=cla" in job.failure
    assert job.run(raw | {"training_views": "grid"})[0] == 2
    assert "training_views='grid' has no effect with task=classification" in job.failure
