from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from made_instances import make_instances
from PIL import Image
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.decoding.decode import DecodedImage, decode_image
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation import predicting
from tilewise.evaluation.evaluate import evaluate
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.detections import Prediction
from tilewise.inference.predictor import Predictor
from tilewise.stop import StopWhen
from tilewise.targets import Targets

VOC = VocMetric(0.5)


class Oracle:
    """Reads from an image's first pixel where its object is."""

    classes = ("dot",)
    backend = SimpleNamespace(on_gpu=False)

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, image: bytes | Path) -> DecodedImage:
        return DecodedImage.whole(
            decode_image(image if isinstance(image, bytes) else image.read_bytes()).numpy()
        )

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Prediction]:
        for image in images:
            self.asked += 1
            x = float(image.pixels[0, 0, 0])
            found = make_instances([[x, 0, x + 10, 10]], [1], [0])
            yield Prediction(image.width, image.height, found)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    made = []
    for index in range(12):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (100, 20), (5 * index, 0, 0)).save(path)
        boxes = np.array([[5 * index, 0, 5 * index + 10, 10]], np.float32)
        made.append(
            Record(path.name, path, 100, 20, Targets(boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_)))
        )
    return Records(made)


def oracle() -> Predictor:
    return cast(Predictor, Oracle())


class Slow(Oracle):
    """On a GPU, with four cores; decodes an image when three are being decoded, and the later the sooner."""

    backend = SimpleNamespace(on_gpu=True)

    def __init__(self) -> None:
        super().__init__()
        self.three = Barrier(3)

    def decode(self, image: bytes | Path) -> DecodedImage:
        self.three.wait(timeout=30)
        picture = super().decode(image)
        time.sleep(0.1 - 0.001 * int(picture.pixels[0, 0, 0]))
        return picture


def test_evaluate__beside_a_gpu_several_threads_decode(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "available_cores", lambda: 4)
    metrics = evaluate(cast(Predictor, Slow()), records, ChannelIssues("validation", 12), voc=VocMetric(0.75))
    assert metrics is not None and metrics["AP"] == 1  # each with its own objects


def test_evaluate__each_image_with_its_own_objects(records: Records) -> None:
    metrics = evaluate(oracle(), records, ChannelIssues("validation", 12), voc=VocMetric(0.75))
    assert metrics is not None
    assert metrics["AP"] == metrics["AP_class"]["dot"] == 1
    assert metrics["VOC"] == {"mAP": 1, "AP_class": {"dot": 1}, "iou_threshold": 0.75, "points": "11"}


def test_evaluate__leaves_damaged_images_out(records: Records) -> None:
    records[3].path.write_bytes(b"not an image")
    records[5].path.unlink()
    issues = ChannelIssues("validation", images=100)
    metrics = evaluate(oracle(), records, issues, voc=VOC)
    assert metrics is not None
    assert metrics["AP"] == 1
    assert list(issues.left_out) == ["3.png", "5.png"]


def test_evaluate__too_many_damaged_images_are_an_error(records: Records) -> None:
    records[3].path.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"channel validation: 1 of 12 images cannot be used.*3\.png"):
        evaluate(oracle(), records, ChannelIssues("validation", images=12), voc=VOC)


def test_evaluate__images_that_came_through_a_pipe(records: Records) -> None:
    def stream() -> Iterator[Record]:
        for record in records:
            image = record.read()
            record.path.unlink()
            yield replace(record, encoded=image)

    issues = ChannelIssues("validation", expected=1000)
    issues.images = 12
    metrics = evaluate(oracle(), stream(), issues, voc=VocMetric(0.75))
    assert metrics is not None
    assert metrics["AP"] == 1
    assert issues.expected == 0


def test_evaluate__few_images_came_and_many_are_damaged(records: Records) -> None:
    issues = ChannelIssues("validation", images=12, expected=1000)
    records[3].path.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"1 of 12 images cannot be used"):
        evaluate(oracle(), records, issues, voc=VOC)


def test_evaluate__stops_while_it_waits_for_a_pipe(records: Records) -> None:
    stop = []

    def stream() -> Iterator[Record]:
        yield from records
        stop.append(True)

    assert (
        evaluate(
            oracle(), stream(), ChannelIssues("validation", 12), voc=VOC, stop=StopWhen(lambda: bool(stop))
        )
        is None
    )


def test_evaluate__stops_on_request(records: Records) -> None:
    predictor = oracle()
    asked = iter([False, False, True])
    assert (
        evaluate(
            predictor, records, ChannelIssues("validation", 12), voc=VOC, stop=StopWhen(lambda: next(asked))
        )
        is None
    )
    assert cast(Oracle, predictor).asked == 3
