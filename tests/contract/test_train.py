"""The real ``train`` executable on folders laid out as SageMaker lays them out."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable

import pytest
from event_files import read_pictures, read_scalars
from training_job import QUICK, Job, wait_for, without_graph

BUILTIN = {
    "base_network": "vgg-16",
    "use_pretrained_model": "1",
    "num_classes": "2",
    "mini_batch_size": "4",
    "epochs": "1",
    "learning_rate": "0.001",
    "lr_scheduler_step": "3,6",
    "lr_scheduler_factor": "0.1",
    "optimizer": "sgd",
    "momentum": "0.9",
    "weight_decay": "0.0005",
    "overlap_threshold": "0.5",
    "nms_threshold": "0.45",
    "image_shape": "300",
    "label_width": "350",
    "num_training_samples": "12",
}
LOSS = r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train {} <loss>=\((\S+)\)"
METRIC_DEFINITIONS = {  # as SageMaker attaches them to the built-in algorithm
    "validation:mAP": r"#quality_metric: host=\S+, epoch=\S+, validation mAP <score>=\((\S+)\)",
    "train:cross_entropy": LOSS.format("cross_entropy"),
    "train:smooth_l1": LOSS.format("smooth_l1"),
    "train:progress": r"#progress_metric: host=\S+, completed (\S+) %",
    "train:throughput": r"#throughput_metric: host=\S+, train throughput=(\S+) records/second",
}


def test_train__images_with_json_leave_a_whole_model_and_the_builtins_lines(job: Job) -> None:
    code, output = job.run(QUICK, fresh=True)
    assert code == 0, output
    for name, regex in METRIC_DEFINITIONS.items():
        assert re.search(regex, output), f"{name} does not match:\n{output}"
    assert re.findall(METRIC_DEFINITIONS["train:progress"], output) == ["50", "100"]
    model = json.loads((job.base / "model" / "model.json").read_text())
    assert without_graph(job.base / "model") == {model["weights"], "model.json"}
    assert model["classes"] == ["red", "blue"]
    assert job.failure == ""
    history = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    assert len(history["epochs"]) == 2
    assert "could not be written" not in output
    report = (job.base / "output" / "data" / "report.html").read_text()
    assert "data:image/jpeg" in report


def test_train__tensorboard_where_the_job_asks_for_it_and_no_mlflow_where_there_is_none(job: Job) -> None:
    config = {"S3OutputPath": "s3://bucket/events", "LocalPath": str(job.base / "events")}
    (job.base / "input" / "config" / "tensorboardoutputconfig.json").write_text(json.dumps(config))
    server = {"MLFLOW_TRACKING_URI": "http://user:secret@127.0.0.1:9"}  # nobody listens there
    code, output = job.run(QUICK, environ=server)
    assert code == 0, output
    for folder in (job.base / "events", job.base / "output" / "data" / "tensorboard"):
        scalars = read_scalars(folder)
        assert [step for step, _ in scalars["loss/total"]] == [0, 1]
        assert [step for step, _ in scalars["validation/AP"]] == [0, 1]
        assert read_pictures(folder)
    (warning,) = [
        line for line in output.splitlines() if "MLFLOW_TRACKING_URI" in line or "MLflow at" in line
    ]
    assert "the job goes on" in warning
    assert "secret" not in output


def test_train__from_weights_in_a_channel(job: Job) -> None:
    (job.channel("pretrained") / "notes.txt").write_text("no weights")
    code, output = job.run(QUICK | {"use_pretrained_model": "1"})
    assert (code, job.failure.splitlines()[0]) == (
        2,
        "ClientError: channel pretrained: give it one file of weights (.safetensors, .pth, .pt), "
        "or one named as published (ssdlite320_mobilenet_v3_large_coco-a79551df.pth, "
        "mobilenet_v3_large-8738ca79.pth, mobilenet_v3_large-5c1a4163.pth); it has none",
    ), output


def test_train__builtin_job_on_images_runs_unchanged(job: Job) -> None:
    code, output = job.run(BUILTIN)
    assert code == 0, output
    assert re.search(r"images +12 +\d+\n  without objects +1 ", output)
    assert re.search(METRIC_DEFINITIONS["validation:mAP"], output)
    assert json.loads((job.base / "model" / "model.json").read_text())["detector"]["name"] == "ssd_vgg16"


def test_train__builtin_job_on_recordio_with_resnet50_and_a_pattern_runs_unchanged(job: Job) -> None:
    job.pack("train")
    job.pack("validation")
    code, output = job.run(BUILTIN | {"base_network": "resnet-50", "freeze_layer_pattern": "^(conv0|bn0).*"})
    assert code == 0, output
    assert re.search(r"images +12 +\d+\n  without objects +1 ", output)
    assert "frozen: 3 of " in output
    assert re.search(METRIC_DEFINITIONS["validation:mAP"], output)
    model = json.loads((job.base / "model" / "model.json").read_text())
    assert model["detector"]["name"] == "ssd_resnet50"


def test_train__fast_file_mode_reads_what_lies_there_and_changes_nothing(job: Job) -> None:
    job.pack("train")
    job.pack("validation")
    job.input_mode = "FastFile"
    channels = [path for path in (job.base / "input" / "data").rglob("*")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in channels}
    for path in channels:
        path.chmod(0o555 if path.is_dir() else 0o444)
    code, output = job.run(QUICK | {"number_of_epochs": "1"})
    assert code == 0, output
    assert "channel train holds RecordIO (train.rec)" in output
    after = [path for path in (job.base / "input" / "data").rglob("*")]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in after} == before


@pytest.mark.parametrize("as_manifest", [False, True], ids=["recordio", "augmented_manifest"])
def test_train__pipe_mode(job: Job, as_manifest: bool) -> None:
    for channel in ("train", "validation"):
        job.pipe(channel, as_manifest)
    with (
        job.platform("train", 2, late=0.3) as train,
        job.platform("validation", 2, piece=1000, pause=0.001) as validation,
    ):
        code, output = job.run(QUICK | {"num_classes": "2", "num_training_samples": "12", "num_workers": "2"})
    assert code == 0, output
    what = "an augmented manifest" if as_manifest else "RecordIO image records"
    assert f"channel train holds {what} (train_0)" in output
    assert "num_training_samples" not in output.split("Final configuration")[1].split("\n", 1)[1]
    for name, regex in METRIC_DEFINITIONS.items():
        assert re.search(regex, output), f"{name} does not match:\n{output}"
    for channel, platform in (("train", train), ("validation", validation)):
        assert platform.written == [len(job.piped[channel])] * 2
        assert platform.closed_early == []
    history = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    assert [epoch["records"] for epoch in history["epochs"]] == [12, 12]
    assert "Traceback" not in output
    assert "could not be written" not in output
    report = (job.base / "output" / "data" / "report.html").read_text()
    assert "came through a pipe" in report


def test_pipe_mode__a_writer_that_dies_is_a_clear_failure(job: Job) -> None:
    job.pipe("train")
    job.pipe("validation")
    half = len(job.piped["train"]) // 2
    with job.platform("train", 1, dies_after=half), job.platform("validation", 1):
        code, output = job.run(QUICK | {"num_classes": "2", "num_training_samples": "12"})
    assert code == 2, output
    assert re.match(
        r"ClientError: train_0 is damaged in record \d at byte \d+: the record goes on", job.failure
    )
    assert "Traceback" not in output


def test_pipe_mode__sigterm_while_it_waits_for_a_pipe(job: Job) -> None:
    job.pipe("train")
    job.pipe("validation")
    with job.start(QUICK | {"num_classes": "2", "num_training_samples": "12"}) as process:
        seen = wait_for(process, "channel validation streams through pipes")
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, seen + rest
    assert time.monotonic() - start < 10
    assert job.failure == "" and not any((job.base / "model").iterdir())


@pytest.mark.parametrize("moment", ["Final configuration", "smooth_l1 <loss>"], ids=["start", "mid_training"])
def test_sigterm__leaves_with_0_and_a_whole_model_or_none(job: Job, moment: str) -> None:
    fresh = moment == "Final configuration"  # before PyTorch is imported
    with job.start(QUICK | {"number_of_epochs": "500", "early_stopping": "0"}, fresh) as process:
        seen = wait_for(process, moment)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, seen + rest
    assert time.monotonic() - start < 30
    assert job.failure == ""
    if "smooth_l1" in moment:
        from tilewise.inference.predictor import Predictor

        assert Predictor.load(job.base / "model").classes == ("red", "blue")
        assert "could not be written" not in rest
        assert "stopped on request" in (job.base / "output" / "data" / "report.html").read_text()


@pytest.mark.parametrize("moment", ["Final configuration", "smooth_l1 <loss>"], ids=["start", "mid_training"])
def test_ctrl_c__is_no_fault_of_ours(job: Job, moment: str) -> None:
    job.write_failure("ClientError: of an earlier run")
    hyperparameters = QUICK | {"number_of_epochs": "500", "early_stopping": "0", "num_workers": "1"}
    with job.start(hyperparameters, fresh=True) as process:
        seen = wait_for(process, moment)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest and "AlgorithmError" not in rest
    assert job.failure == ""


def _add_box_outside(job: Job) -> None:
    job.annotate("train", "image 03.jpg", [(500, 500, 20, 20, 0), (110, 80, 40, 40, 1)])


def _truncate(count: int) -> Callable[[Job], None]:
    def damage(job: Job) -> None:
        for path in sorted(job.channel("train").iterdir())[:count]:
            path.write_bytes(path.read_bytes()[:1500])

    return damage


def test_train__box_outside_its_image_is_dropped_and_named(job: Job) -> None:
    _add_box_outside(job)
    code, output = job.run(QUICK | {"number_of_epochs": "1"})
    assert code == 0, output
    assert (
        "image 03.json: the box from (500, 500) to (520, 520) lies outside the image; it is dropped" in output
    )
    assert re.search(r"clipped to their image +1 .*\n  dropped +1 ", output)


def test_train__test_channel_is_evaluated_at_the_end(job: Job) -> None:
    job.add_images("test", 5)
    code, output = job.run(QUICK | {"number_of_epochs": "1"})
    assert code == 0, output
    assert "warmup_cosine_lr_warmup_epochs=2 and number_of_epochs=1: the learning rate only rises" in output
    logged = re.search(r"#quality_metric: host=\S+, test mAP <score>=\((\S+)\)", output)
    metrics = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    assert logged and float(logged[1]) == pytest.approx(metrics["test"]["VOC"]["mAP"], abs=1e-6)


def test_train__one_truncated_image_of_many_is_named_and_left_out(job: Job) -> None:
    job.add_images("train", 24)
    _truncate(1)(job)
    code, output = job.run(QUICK | {"number_of_epochs": "1"})
    assert code == 0, output
    assert "image 00.json is left out: the image is damaged" in output


def _without_train(job: Job) -> None:
    for name in ("train", "train_annotation"):
        job.channel(name).rename(job.base / name)


def _declare_recordio(job: Job) -> None:
    job.content_type = "application/x-recordio"


def _block_model(job: Job) -> None:
    (job.base / "model").rmdir()
    (job.base / "model").write_text("a file where the folder should be")


def _remove_images(job: Job) -> None:
    for path in sorted(job.channel("train").iterdir())[:3]:
        path.unlink()


def _empty(job: Job) -> None:
    for path in job.channel("train").iterdir():
        job.annotate("train", path.name, [])


FAILURES: dict[str, tuple[dict[str, str], Callable[[Job], object], str]] = {
    "unknown_hyperparameter": ({"learnig_rate": "0.1"}, lambda job: None, "learning_rate"),
    "learning_rate_3": (
        {"learning_rate": "3"},
        lambda job: None,
        "learning_rate=3: must be at least 0 and at most 1",
    ),
    "missing_channel": ({}, _without_train, "the channel train is missing"),
    "channel_training": (
        {},
        lambda job: job.channel("training"),
        "channel training: there is no such channel: call it train (the channels are",
    ),
    "channel_val": (
        {},
        lambda job: job.channel("val"),
        "channel val: there is no such channel: call it validation",
    ),
    "annotation_without_image": ({}, _remove_images, "its image image 00.jpg is not in the image channel"),
    "class_id_out_of_range": (
        {"num_classes": "2"},
        lambda job: job.annotate("train", "image 05.jpg", [(1, 1, 9, 9, 7)]),
        "image 05.json has class_id 7, but num_classes is 2",
    ),
    "truncated_images": ({}, _truncate(3), "images cannot be used, more than 5%"),
    "recordio_without_files": ({}, _declare_recordio, "application/x-recordio, which stands for RecordIO"),
    "unwritable_model_folder": ({}, _block_model, "is not a folder that this user can write to"),
    "no_objects": ({"num_classes": "2"}, _empty, "channel train: no image has an object to learn"),
    "class_that_is_not_there": ({"classes": "red,green"}, lambda job: None, "the data does not have 'green'"),
    "empty_model_channel": ({}, lambda job: job.channel("model"), "channel model holds no model of Tilewise"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure__is_one_sentence_the_user_can_act_on(job: Job, case: str) -> None:
    hyperparameters, prepare, words = FAILURES[case]
    prepare(job)
    code, output = job.run(QUICK | hyperparameters)
    assert code == 2, output
    assert job.failure.startswith("ClientError: ")
    assert words in job.failure
    assert len(job.failure) <= 1024
    assert job.failure in output
    assert "Traceback" not in output
