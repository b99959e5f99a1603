from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.arrays import Array
from tilewise.data.annotations import DetectedFormat, ParsedChannel, RawExample
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.fields import Rows
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.instances import Instances
from tilewise.models.detector import Detector
from tilewise.targets import Targets
from tilewise.training.dataloading.loader import LoaderConfig, make_loader, read_batch
from tilewise.training.step.train_step import TrainStep
from tilewise.views.view import Scaling
from torch import Tensor, nn

SIDE = 64


def make(count: int, seed: int = 0) -> Targets[Array]:
    """Objects that each say their own number, as label and in a field."""
    corners = np.sort(np.random.default_rng(seed).uniform(0, SIDE, (count, 2, 2)), axis=1)
    boxes = corners.reshape(-1, 4).astype(np.float32)
    labels = np.arange(count)
    return Targets(boxes, labels, labels % 3 == 2, {"number": Rows(labels.astype(np.float32))})


def numbers(targets: Targets) -> list[float]:
    """The field's rows, which must be those of the labels' objects."""
    rows = targets.fields["number"]
    assert isinstance(rows, Rows) and rows.values.tolist() == targets.labels.tolist()
    return rows.values.tolist()


def test_select__takes_the_fields_along() -> None:
    targets = make(5)
    assert numbers(targets.select(slice(1, 3))) == [1, 2]
    assert numbers(targets.select(np.array([4, 0]))) == [4, 0]
    assert numbers(targets.select(~targets.ignored)) == [0, 1, 3, 4]
    assert np.shares_memory(targets.select(slice(1, 3)).boxes, targets.boxes)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_cat__gives_back_its_parts(counts: list[int]) -> None:
    parts = [make(count, seed) for seed, count in enumerate(counts)]
    whole, start = Targets.cat(parts), 0
    assert len(whole) == sum(counts)
    for part in parts:
        back = whole.select(slice(start, start := start + len(part)))
        assert np.array_equal(back.boxes, part.boxes) and np.array_equal(back.ignored, part.ignored)
        assert numbers(back) == numbers(part)


def test_cat__an_image_without_objects_needs_no_fields() -> None:
    assert numbers(Targets.cat([Targets.none(), make(2), Targets.none()])) == [0, 1]
    assert Targets.cat([Targets.none()] * 2).boxes.shape == (0, 4)
    without = make(1)
    without = Targets(without.boxes, without.labels, without.ignored)
    with pytest.raises(ValueError, match=r"fields differ: \['number'\] and \[\]"):
        Targets.cat([make(1), without])


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(-40, 40), st.integers(1, 90), st.floats(0, 1))
def test_crop__is_the_same_for_arrays_and_tensors(count: int, start: int, side: int, share: float) -> None:
    window, size = (start, start, start + side, start + side), (50, 30)
    arrays = make(count).crop(window, size, share)
    tensors = make(count).to("cpu").crop(window, size, share)
    assert numbers(arrays) == numbers(tensors)
    assert arrays.boxes.tolist() == tensors.boxes.tolist()
    assert arrays.ignored.tolist() == tensors.ignored.tolist()


def test_crop__cuts_drops_and_ignores() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 4], [40, 40, 50, 50]], np.float32)
    targets: Targets[Array] = Targets(
        boxes, np.arange(3), np.zeros(3, np.bool_), {"number": Rows(np.arange(3.0))}
    )
    seen = targets.crop((0, 0, 20, 20), (40, 40), min_visibility=0.4)
    assert seen.boxes.tolist() == [[0, 0, 20, 20], [0, 0, 40, 8]]
    assert numbers(seen) == [0, 1] and seen.ignored.tolist() == [False, True]


def test_flip__twice_is_nothing() -> None:
    for targets in (make(4), make(4).to("cpu")):
        flipped = targets.flip(SIDE)
        assert flipped.boxes[:, 0].tolist() == (SIDE - targets.boxes[:, 2]).tolist()
        assert np.allclose(flipped.flip(SIDE).boxes, targets.boxes, atol=1e-5)
        assert numbers(flipped) == numbers(targets)


def read_made_up(folder: Path) -> ParsedChannel:
    """A format of boxes as fractions, with a weight for each object that has some."""
    examples = []
    for path in sorted(folder.glob("*.json")):
        rows = np.array(json.loads(path.read_text()), np.float32).reshape(-1, 5)
        labels = np.zeros(len(rows), np.int64)
        fields = {"weight": Rows(rows[:, 4])}
        targets: Targets[Array] = Targets(rows[:, :4], labels, labels > 0, fields)
        examples.append(RawExample(path.stem, path.with_suffix(".png"), None, targets, fractions=True))
    return ParsedChannel(examples)


def weights_of(targets: Targets) -> list[float]:
    rows = targets.fields["weight"]
    assert isinstance(rows, Rows)
    return rows.values.tolist()


class WeightedLoss(Detector):
    """A loss of targets' weights; it keeps the targets that it got."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), *3 * [nn.Identity()])
        self.got: list[Targets[Tensor]] = []

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        assert targets is not None
        self.got += targets
        return {"classification": self.network(torch.ones(1)).sum()}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_optional_field__comes_from_its_reader_to_the_loss(tmp_path: Path, workers: int) -> None:
    """Reader, check, packed records, view, augmentation, batch, a loader process: none knows the field."""
    expected: dict[float, list[float]] = {}
    for image, count in enumerate((3, 0, 5, 2, 1)):
        boxes = make(count, image).boxes / SIDE
        if image == 2:  # a box that is dropped, so what follows must not slip
            boxes = np.concatenate([np.array([[1.5, 1.5, 1.8, 1.8]], np.float32), boxes])
        weights = 100 * image + np.arange(len(boxes))
        (tmp_path / f"{image}.json").write_text(json.dumps(np.c_[boxes, weights].tolist()))
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{image}.png")
        sides = boxes[:, 2:] - boxes[:, :2]
        expected |= dict(zip(weights.tolist(), (SIDE * sides).tolist(), strict=True))
    found = DetectedFormat("made up", "*.json", lambda: read_made_up(tmp_path)).read()
    records = make_records(found.examples, ChannelIssues("train"))
    assert weights_of(records[2].targets) == [201, 202, 203, 204, 205]
    split = Split(records, ChannelIssues("train", len(records)))
    hp = parse_hyperparameters({"learning_rate": 0.1, "precision": "fp32"})
    loader = make_loader(
        split,
        LoaderConfig(
            scaling=Scaling(square=SIDE),
            batch_size=2,
            workers=workers,
            seed=0,
            min_visibility=0.0,
            random_windows=False,
        ),
    )
    detector = WeightedLoss()
    train_step = TrainStep(detector, hp, 3, view_size=(SIDE, SIDE))
    train_step.begin_epoch()
    for batch in loader:
        train_step.learn(read_batch(batch))
    seen = 0
    for targets in detector.got:
        assert isinstance(targets.fields["weight"].values, Tensor)  # type: ignore[attr-defined]
        shown = targets.boxes[:, 2:] - targets.boxes[:, :2]
        for weight, side in zip(weights_of(targets), shown.tolist(), strict=True):
            assert side == pytest.approx(expected[weight], abs=1e-3)
            seen += 1
    assert seen >= 10
