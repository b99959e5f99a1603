from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tilewise.data.decode import DecodeError
from tilewise.detections import Detections
from tilewise.inference.predictor import Prediction, Predictor
from tilewise.models.detector import Detector
from tilewise.views.view import Scaling
from torch import Tensor, nn

SIZES = [(64, 48), (64, 48), (100, 30), (64, 48), (31, 57), (31, 57), (31, 57)]  # width, height


def noise(width: int, height: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def images() -> list[Tensor]:
    return [noise(width, height, seed) for seed, (width, height) in enumerate(SIZES)]


class Spot(Detector):
    """Finds the whole of a view, and more, with the mean brightness as its score; notes its batches."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), background=False)
        self.batches: list[list[tuple[int, ...]]] = []

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        assert torch.is_inference_mode_enabled()
        self.batches.append([tuple(image.shape[1:]) for image in images])
        found = []
        for image in images:
            height, width = image.shape[1:]
            boxes = torch.tensor([[0, 0, width / 2, height], [-5, -5, width + 5, height + 5]])
            score = image.float().mean() / 255
            found.append(Detections(boxes, torch.stack([score / 2, score]), torch.tensor([0, 1])))
        return found


def make_predictor(batch_size: int, scaling: Scaling | None = None) -> tuple[Predictor, Spot]:
    spot = Spot()
    scaling = scaling or Scaling(min_size=32, max_size=64)
    return Predictor(spot, scaling, ("ant", "bee"), batch_size), spot


def test_predict_all__keeps_the_order_and_each_images_frame() -> None:
    predictor, _ = make_predictor(4)
    predictions = list(predictor.predict_all(images()))
    assert [(prediction.width, prediction.height) for prediction in predictions] == SIZES
    for prediction, image in zip(predictions, images(), strict=True):
        width, height = prediction.width, prediction.height
        found = prediction.detections
        # best first, in the image's pixels, and not beyond it
        expected = torch.tensor([[0, 0, width, height], [0, 0, width / 2, height]])
        torch.testing.assert_close(found.boxes, expected)
        assert found.labels.tolist() == [1, 0]
        assert found.scores[0] == pytest.approx(float(image.float().mean() / 255), abs=0.02)


def test_predict_all__only_views_of_one_size_share_a_batch() -> None:
    predictor, spot = make_predictor(2)
    list(predictor.predict_all(images()))
    assert [len(batch) for batch in spot.batches] == [2, 1, 1, 2, 1]
    assert all(len(set(batch)) == 1 for batch in spot.batches)


def test_predict_all__square_views_all_do() -> None:
    predictor, spot = make_predictor(4, Scaling(square=32))
    list(predictor.predict_all(images()))
    assert [len(batch) for batch in spot.batches] == [4, 3]


def test_predict_all__nothing() -> None:
    assert list(make_predictor(4)[0].predict_all([])) == []


@pytest.fixture(scope="module")
def predictor(model_folder: Path) -> Predictor:
    return Predictor.load(model_folder)


def assert_close(one: Prediction, other: Prediction) -> None:
    assert (one.width, one.height) == (other.width, other.height)
    torch.testing.assert_close(one.detections.scores, other.detections.scores)
    torch.testing.assert_close(one.detections.boxes, other.detections.boxes)
    assert torch.equal(one.detections.labels, other.detections.labels)


def test_batch_size__makes_no_difference(model_folder: Path) -> None:
    predictor = Predictor.load(model_folder)
    # in double precision: a fresh network's scores are so near each other that rounding changes their order
    predictor.detector.double()
    batched = Predictor(predictor.detector, predictor.scaling, predictor.classes, batch_size=4)
    alone, together = (list(one.predict_all(images()[:5])) for one in (predictor, batched))
    for one, other in zip(alone, together, strict=True):
        assert_close(one, other)


def test_boxes__lie_in_the_image(predictor: Predictor) -> None:
    for prediction in predictor.predict_all(images()[2:5]):
        found = prediction.detections
        assert len(found)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([prediction.width, prediction.height] * 2)).all()
        assert (found.scores.diff() <= 0).all()


def test_predict__takes_encoded_bytes(predictor: Predictor) -> None:
    image = images()[0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(file, "PNG")
    assert_close(predictor.predict(file.getvalue()), next(predictor.predict_all([image])))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_predict__refuses_what_is_no_image(predictor: Predictor, data: bytes) -> None:
    with pytest.raises(DecodeError):
        predictor.predict(data)


def test_warm_up__leaves_nothing_behind(predictor: Predictor) -> None:
    before = predictor.predict_all([images()[0]])
    predictor.warm_up()
    assert_close(next(before), next(predictor.predict_all([images()[0]])))
