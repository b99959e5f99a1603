from __future__ import annotations

import io
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_instances import make_instances
from PIL import Image
from tilewise.arrays import Array, Float32
from tilewise.boxes import crop_boxes, flip_boxes
from tilewise.data.decoding.decode import DecodedImage, DecodeError
from tilewise.fields import Corners, Index, Rows
from tilewise.inference.artifact import Artifact
from tilewise.inference.backend import Backend
from tilewise.inference.detections import Prediction, merge_instances
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.inference.view_plan import ViewPlan
from tilewise.instances import Instances
from tilewise.models.detector import Detector
from tilewise.serving.responses import DEFAULT_FORM, render
from tilewise.tasks.answers import Answered
from tilewise.tasks.detection.answers import DetectionAnswers
from tilewise.tiling.spec import Level, MergeRule, TileOptions, Tiling
from tilewise.views.view import Scaling, View
from torch import Tensor, nn

SIZES = [(64, 48), (64, 48), (100, 30), (64, 48), (31, 57), (31, 57), (31, 57)]  # width, height


def noise(width: int, height: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def images() -> list[Tensor]:
    return [noise(width, height, seed) for seed, (width, height) in enumerate(SIZES)]


def decoded(image: Tensor) -> DecodedImage:
    return DecodedImage.whole(image.numpy())


class Spot(Detector):
    """Finds the whole of a view, and more, with the mean brightness as its score; notes its batches."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), *3 * [nn.Identity()])
        self.batches: list[list[tuple[int, ...]]] = []

    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        assert torch.is_inference_mode_enabled()
        self.batches.append([tuple(image.shape[1:]) for image in images])
        found = []
        for image in images:
            height, width = image.shape[1:]
            boxes = torch.tensor([[0, 0, width / 2, height], [-5, -5, width + 5, height + 5]])
            score = image.float().mean() / 255
            found.append(make_instances(boxes, torch.stack([score / 2, score]), torch.tensor([0, 1])))
        return found


def make_predictor(batch_size: int, scaling: Scaling | None = None) -> tuple[Predictor, Spot]:
    spot = Spot()
    scaling = scaling or Scaling(min_size=32, max_size=64)
    return Predictor(
        TorchBackend(spot, batch_size), ViewPlan(scaling), ("ant", "bee"), merge=merge_instances
    ), spot


def test_predict_all__keeps_the_order_and_each_images_frame() -> None:
    predictor, _ = make_predictor(4)
    predictions = list(predictor.predict_all(map(decoded, images())))
    assert [(prediction.width, prediction.height) for prediction in predictions] == SIZES
    for prediction, image in zip(predictions, images(), strict=True):
        width, height = prediction.width, prediction.height
        found = prediction.detections
        # best first, in the image's pixels, and not beyond it
        expected = torch.tensor([[0, 0, width, height], [0, 0, width / 2, height]])
        np.testing.assert_allclose(found.boxes, expected)
        assert found.labels.tolist() == [1, 0]
        assert found.scores[0] == pytest.approx(float(image.float().mean() / 255), abs=0.02)


def test_predict_all__only_views_of_one_size_share_a_batch() -> None:
    predictor, spot = make_predictor(2)
    list(predictor.predict_all(map(decoded, images())))
    assert [len(batch) for batch in spot.batches] == [2, 1, 1, 2, 1]
    assert all(len(set(batch)) == 1 for batch in spot.batches)


def test_predict_all__square_views_all_do() -> None:
    predictor, spot = make_predictor(4, Scaling(square=32))
    list(predictor.predict_all(map(decoded, images())))
    assert [len(batch) for batch in spot.batches] == [4, 3]


class Small(Spot):
    """Has memory for so many views at once."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits

    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().detect(images)


def test_predict_all__fewer_at_once_where_memory_does_not_suffice(caplog: pytest.LogCaptureFixture) -> None:
    scaling = Scaling(square=32)
    small = Small(2)
    predictor = Predictor(TorchBackend(small, 6), ViewPlan(scaling), ("ant", "bee"), merge=merge_instances)
    pictures = [decoded(noise(40, 40, seed)) for seed in range(13)]
    predictions = list(predictor.predict_all(pictures))
    for one, other in zip(predictions, make_predictor(6, scaling)[0].predict_all(pictures), strict=True):
        assert_close(one, other)
    assert sum(map(len, small.batches)) == 13 and predictor.backend.batch_size == 2
    assert [record.getMessage() for record in caplog.records] == [
        "6 views at once do not fit into the GPU's memory: 3 from now on",
        "3 views at once do not fit into the GPU's memory: 2 from now on",
        "3 views at once do not fit into the GPU's memory: 2 from now on",
    ]


def test_predict_all__one_view_does_not_fit() -> None:
    predictor = Predictor(
        TorchBackend(Small(0), 4), ViewPlan(Scaling(square=32)), ("ant", "bee"), merge=merge_instances
    )
    with pytest.raises(torch.OutOfMemoryError):
        list(predictor.predict_all([decoded(noise(40, 40))]))


class Graph:
    """A backend without a module of PyTorch's: says of each view how large it is, in batches of two."""

    on_gpu = False
    batch_size = 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def upload(self, pixels: Array) -> Array:
        return pixels

    def detect(self, views: Sequence[Array]) -> list[Instances]:
        self.batches.append(len(views))
        corners = np.asarray([[[0, 0, *each.shape[:0:-1]]] for each in views], np.float32)
        return [make_instances(each, [1], [1]) for each in corners]


def test_predict_all__over_another_runtime() -> None:
    graph: Backend = Graph()
    predictor = Predictor(graph, ViewPlan(Scaling(square=48)), ("ant", "bee"), merge=merge_instances)
    predictions = list(predictor.predict_all(map(decoded, images())))
    assert isinstance(predictor.backend, Graph) and predictor.backend.batches == [2, 2, 2, 1]
    assert [each.detections.boxes.tolist() for each in predictions] == [[[0, 0, *size]] for size in SIZES]


def test_predict_all__nothing() -> None:
    assert list(make_predictor(4)[0].predict_all(map(decoded, []))) == []


@pytest.fixture(scope="module")
def predictor(model_folder: Path) -> Predictor:
    return Predictor.load(model_folder)


def assert_close(one: Prediction, other: Prediction) -> None:
    assert (one.width, one.height) == (other.width, other.height)
    np.testing.assert_allclose(one.detections.scores, other.detections.scores, rtol=1e-5)
    np.testing.assert_allclose(one.detections.boxes, other.detections.boxes, rtol=1e-5, atol=1e-4)
    assert np.array_equal(one.detections.labels, other.detections.labels)


def test_batch_size__makes_no_difference(model_folder: Path) -> None:
    predictor = Predictor.load(model_folder, batch_size=1, backend="eager")
    assert isinstance(predictor.backend, TorchBackend)
    # in double precision: a fresh network's scores are so near each other that rounding changes their order
    detector = predictor.backend.model.double()
    batched = Predictor(TorchBackend(detector, 4), predictor.plan, predictor.classes, merge=merge_instances)
    alone, together = (list(one.predict_all(map(decoded, images()[:5]))) for one in (predictor, batched))
    for one, other in zip(alone, together, strict=True):
        assert_close(one, other)


def test_boxes__lie_in_the_image(predictor: Predictor) -> None:
    for prediction in predictor.predict_all(map(decoded, images()[2:5])):
        found = prediction.detections
        assert len(found)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= np.array([prediction.width, prediction.height] * 2)).all()
        assert (np.diff(found.scores) <= 0).all()


def test_predict__takes_encoded_bytes(predictor: Predictor) -> None:
    image = images()[0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(file, "PNG")
    assert_close(predictor.predict(file.getvalue()), next(predictor.predict_all(map(decoded, [image]))))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_predict__refuses_what_is_no_image(predictor: Predictor, data: bytes) -> None:
    with pytest.raises(DecodeError):
        predictor.predict(data)


def test_warm_up__leaves_nothing_behind(predictor: Predictor) -> None:
    before = predictor.predict_all(map(decoded, [images()[0]]))
    predictor.warm_up()
    assert_close(next(before), next(predictor.predict_all(map(decoded, [images()[0]]))))


FIRST_JPEG = """
import sys
from tilewise.inference.predictor import Predictor

predictor = Predictor.load(sys.argv[1])
predictor.warm_up()
loaded = set(sys.modules)
predictor.predict(sys.stdin.buffer.read())
print(*sorted(set(sys.modules) - loaded))
"""


def test_warm_up__the_first_jpeg_finds_all_modules_loaded(model_folder: Path) -> None:
    """An import holds every thread of an endpoint, that of its health check, too."""
    file = io.BytesIO()
    Image.fromarray(noise(640, 480).permute(1, 2, 0).numpy()).save(file, "JPEG")
    command = [sys.executable, "-c", FIRST_JPEG, str(model_folder)]
    done = subprocess.run(command, input=file.getvalue(), stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == []


GRID = Tiling("grid", grid=(2, 2), overlap=0.25, merge="nms")


class Blobs(Detector):
    """Finds white rectangles, each by its bounds: what a tile cuts off it does not see. Notes its batches."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), *3 * [nn.Identity()])
        self.batches: list[int] = []
        self.on_detect: Callable[[], None] = lambda: None

    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        self.batches.append(len(images))
        self.on_detect()
        return [self._find((image > 127).all(dim=0)) for image in images]

    def _find(self, white: Tensor) -> Instances:
        boxes = []
        columns = white.any(dim=0).int()
        edges = torch.diff(columns, prepend=torch.zeros(1), append=torch.zeros(1)).nonzero()[:, 0].tolist()
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            rows = white[:, left:right].any(dim=1).nonzero()[:, 0]
            boxes.append([left, int(rows.min()), right, int(rows.max()) + 1])
        table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        scores = (0.5 + table.diff(dim=1)[:, 0].abs() / 1000).clamp(max=1)
        return make_instances(table, scores, torch.zeros(len(table), dtype=torch.int64))


class Outlined(Blobs):
    """Says two things more of each: where it lies, as a field of its own, and a number."""

    def _find(self, white: Tensor) -> Instances:
        found = super()._find(white)
        return replace(found, fields={"outline": Outlines(found.boxes), "twice": Rows(2 * found.scores)})


@dataclass(frozen=True)
class Outlines:
    """Boxes anew, (N, 4) in pixels of the frame, as a field that has a place."""

    boxes: Float32

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: Index) -> Outlines:
        return Outlines(self.boxes[index])

    def flip(self, width: float) -> Outlines:
        return Outlines(flip_boxes(self.boxes, width))

    def crop(self, window: Corners, size: tuple[int, int]) -> Outlines:
        return Outlines(crop_boxes(self.boxes, window, size))

    def warp(self, matrix: Array, size: tuple[int, int]) -> Outlines:
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Outlines:
        return self

    @classmethod
    def cat(cls, parts: Sequence[Outlines]) -> Outlines:
        return cls(np.concatenate([part.boxes for part in parts]))


def white_rectangles(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x0, y0, x1, y1 in boxes:
        image[:, y0:y1, x0:x1] = 255
    return image


def seen(image: Tensor, tiling: Tiling, side: int = 280) -> list[list[float]]:
    predictor = Predictor(
        TorchBackend(Blobs()), ViewPlan(Scaling(square=side), tiling), ("blob",), merge=merge_instances
    )
    found = next(predictor.predict_all(map(decoded, [image]))).detections
    boxes: list[list[float]] = found.boxes.round().tolist()
    return boxes


def test_tiles__each_object_once_in_the_images_frame() -> None:
    # tiles of 160 px that begin at 0 and 120; the view of each is 1.75 times as large
    boxes = [(10, 20, 30, 40), (130, 130, 150, 150), (200, 30, 260, 90)]
    found = seen(white_rectangles(280, 280, *boxes), GRID)
    assert sorted(found) == [list(map(float, box)) for box in boxes]


def test_tiles__a_fragment_is_absorbed_by_the_whole() -> None:
    """The left tiles end at 160: of the rectangle they see a strip that has a small IoU with it."""
    image = white_rectangles(280, 280, (150, 20, 270, 60))
    assert seen(image, replace(GRID, merge="fragment")) == [[150, 20, 270, 60]]
    assert sorted(seen(image, GRID)) == [[150, 20, 160, 60], [150, 20, 270, 60]]


def test_pyramid__a_level_answers_for_its_sizes_alone() -> None:
    image = white_rectangles(280, 280, (10, 10, 20, 20), (100, 30, 250, 240))
    assert sorted(seen(image, Tiling("pyramid", levels=(Level(1), Level(4))))) == [
        [10, 10, 20, 20],
        [100, 30, 250, 240],
    ]
    only_large = Tiling("pyramid", levels=(Level(1, smallest=60),))
    assert seen(image, only_large) == [[100, 30, 250, 240]]
    # a detection a little beyond the range that was trained on is believed
    assert seen(image, Tiling("pyramid", levels=(Level(1, largest=9),))) == [[10, 10, 20, 20]]
    assert seen(image, Tiling("pyramid", levels=(Level(1, largest=7),))) == []


@pytest.mark.parametrize("merge", ["nms", "fragment"])
def test_fields__from_the_detector_through_merging_to_the_answer(merge: MergeRule) -> None:
    """In four tiles and the whole image, of which the tiles' views are 1.75 times as large as the image."""
    boxes = [(10, 20, 30, 40), (130, 130, 150, 150), (200, 30, 260, 90)]
    plan = ViewPlan(Scaling(square=280), replace(GRID, merge=merge))
    predictor = Predictor(TorchBackend(Outlined(), 2), plan, ("blob",), merge=merge_instances)
    image = decoded(white_rectangles(280, 280, *boxes))
    prediction = next(predictor.predict_all([image]))
    found = prediction.detections
    assert sorted(found.boxes.round().tolist()) == [list(map(float, box)) for box in boxes]
    outline, twice = found.fields["outline"], found.fields["twice"]
    assert isinstance(outline, Outlines) and isinstance(twice, Rows)
    np.testing.assert_allclose(outline.boxes, found.boxes, rtol=1e-5, atol=1e-4)
    assert np.array_equal(np.asarray(twice.values), 2 * found.scores)
    # to the answer's rows they belong one by one
    rows = json.loads(render([Answered(prediction)], DEFAULT_FORM, DetectionAnswers()))["prediction"]
    assert [2 * row[1] for row in rows] == pytest.approx(twice.values.tolist())
    assert [row[2] * 280 for row in rows] == pytest.approx(outline.boxes[:, 0].tolist(), abs=1e-4)


def test_merge__a_box_without_area_is_no_object() -> None:
    boxes = [[40, 5, 40, 9], [3, 4, 9, 8], [5, 0, 9, 0], [38, 5, 46, 9], [41, 5, 46, 9]]
    found = make_instances(boxes, [0.9, 0.5, 0.4, 0.3, 0.2], [0] * 5)
    merged = merge_instances([(View((0, 0, 50, 30), (50, 30)), found)], 40, 30, Tiling())
    assert merged.detections.boxes.tolist() == [[3, 4, 9, 8], [38, 5, 40, 9]]


@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_tiles__a_limit_counts_the_image_after_merging(most: int | None) -> None:
    """Three objects, which the whole image and some of the tiles show."""
    boxes = [(10, 20, 30, 40), (130, 130, 150, 150), (200, 30, 260, 90)]
    image = decoded(white_rectangles(280, 280, *boxes))

    def detections(most: int | None) -> Instances:
        plan = ViewPlan(Scaling(square=280), replace(GRID, merge="nms"))
        merge = partial(merge_instances, limit=most)
        predictor = Predictor(TorchBackend(Blobs()), plan, ("blob",), merge=merge)
        prediction: Prediction = next(predictor.predict_all([image]))
        return prediction.detections

    every, best = detections(None), detections(most)
    assert len(every) == 3
    assert len(best) == (most or 3)
    np.testing.assert_array_equal(best.boxes, every.boxes[:most])
    np.testing.assert_array_equal(best.scores, every.scores[:most])


def test_tiles__micro_batches_across_images_keep_the_order() -> None:
    blobs = Blobs()
    predictor = Predictor(
        TorchBackend(blobs, 4), ViewPlan(Scaling(square=100), GRID), ("blob",), merge=merge_instances
    )
    pictures = [white_rectangles(200, 200, (10 * index, 10, 10 * index + 20, 40)) for index in range(5)]
    found = list(predictor.predict_all(map(decoded, pictures)))
    assert blobs.batches == [4] * 6 + [1]
    left = [prediction.detections.boxes[0, 0].item() for prediction in found]
    assert left == pytest.approx([0, 10, 20, 30, 40], abs=1)


def test_tiles__the_pixels_of_no_more_than_one_batch_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[weakref.ref[Array]] = []
    original = View.pixels_from_image

    def noted(view: View, image: Array, factor: int) -> Array:
        pixels = original(view, image, factor)
        cut.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(View, "pixels_from_image", noted)
    blobs = Blobs()
    alive: list[int] = []
    blobs.on_detect = lambda: alive.append(sum(pixels() is not None for pixels in cut))
    plan = ViewPlan(Scaling(square=32), Tiling("fixed", tile_size=20, overlap=0.0))
    predictor = Predictor(TorchBackend(blobs, 3), plan, ("blob",), merge=merge_instances)
    next(predictor.predict_all(map(decoded, [white_rectangles(200, 200)])))
    assert len(cut) == 101
    assert max(alive) == 3


def test_load__tiles_of_the_model_and_tiles_asked_for(model_folder: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(model_folder)
    assert Predictor.load(model_folder).plan.tiling == Tiling()
    spec = replace(artifact.spec, tiling=replace(GRID, overlap=0.1))
    replace(artifact, spec=spec).save(tmp_path, "model")
    assert Predictor.load(tmp_path).plan.tiling == spec.tiling
    options = TileOptions(merge="fragment", merge_threshold=0.6)
    assert Predictor.load(tmp_path, options).plan.tiling == replace(
        spec.tiling, merge="fragment", merge_threshold=0.6
    )
    assert Predictor.load(tmp_path, TileOptions(tiled=False)).plan.tiling.kind == "whole"
    assert Predictor.load(model_folder, TileOptions(grid=(3, 2))).plan.tiling.grid == (3, 2)


def test_predict__a_large_jpeg_is_reduced_and_found_at_the_same_place() -> None:
    """The bright rectangles of a large photograph lie where they lie in its full resolution."""
    pixels = np.zeros((960, 1280, 3), np.uint8)
    pixels[100:500, 300:900] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    predictor, _ = make_predictor(1, Scaling(square=160))
    picture = predictor.decode(file.getvalue())
    assert (picture.width, picture.height, picture.factor) == (1280, 960, 4)
    assert picture.pixels.shape == (3, 240, 320)
    reduced = next(predictor.predict_all([picture]))
    whole = next(predictor.predict_all([decoded(torch.from_numpy(pixels).permute(2, 0, 1))]))
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == (1280, 960)
    assert np.abs(reduced.detections.boxes - whole.detections.boxes).max() < 8


class SeesTheLeft(Spot):
    """Finds what is bright, and is the surer of it the further left it is."""

    def detect(self, images: Sequence[Tensor]) -> list[Instances]:
        found = []
        for image in images:
            y, x = torch.nonzero(image[0] > 200, as_tuple=True)
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            found.append(make_instances([box], [1 - float(box[0]) / image.shape[2]], [0]))
        return found


@pytest.mark.parametrize(("mirror", "score"), [(False, 0.25), (True, 0.9)])
@pytest.mark.parametrize("merge", ["fragment", "nms", "wbf"])
def test_predict__merges_what_a_view_and_its_mirror_image_show(
    mirror: bool, score: float, merge: MergeRule
) -> None:
    image = torch.zeros(3, 50, 100, dtype=torch.uint8)
    image[:, 10:20, 75:90] = 255  # mirrored it begins at 10
    plan = ViewPlan(Scaling(min_size=50, max_size=100), Tiling(merge=merge))
    plain = Predictor(TorchBackend(SeesTheLeft(), 2), plan, ("ant",), merge=merge_instances)
    (found,) = plain.seen_as(TileOptions(mirror=mirror)).predict_all([decoded(image)])
    assert found.detections.boxes.tolist() == [[75, 10, 90, 20]]
    assert found.detections.scores.tolist() == pytest.approx([score])
