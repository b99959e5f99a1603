from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stand_ins import make_hp
from tilewise.augment import copy_paste
from tilewise.augment.copy_paste import (
    BORDER,
    FEATHERS,
    MOST_OF_OTHERS,
    SCALE,
    CopyPaste,
    pasteable,
)
from tilewise.augment.pasting import fade
from tilewise.boxes import area, intersection, object_size
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.data.shard import Shard
from tilewise.errors import UserError
from tilewise.fields import Rows
from tilewise.targets import Targets
from tilewise.tiling.spec import Level, Tiling
from tilewise.training.dataloading.copies import KEPT_EPOCHS, Copies
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.loader import LoaderConfig, make_loader, read_batch
from tilewise.training.dataloading.view_order import Copy, Item
from tilewise.training.dataloading.view_sampler import TrainingViews, ViewPlanner
from tilewise.training.job.copy_paste import make_copy_paste
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling, View


def targets(*boxes: Sequence[float], ignored: Sequence[int] = (), labels: Sequence[int] = ()) -> Targets:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    marks = np.isin(np.arange(len(rows)), ignored)
    return Targets(rows, np.array(labels or [0] * len(rows), np.int64), marks)


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Targets, int, int]:
    width, height = draw(st.integers(60, 300)), draw(st.integers(60, 300))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    count = draw(st.integers(1, 25))
    corners = rng.uniform(0, [width - 4, height - 4], (count, 2))
    ends = np.minimum(corners + rng.uniform(3, 60, (count, 2)), [width, height])
    boxes = np.concatenate([corners, ends], axis=1).astype(np.float32)
    return Targets(boxes, np.zeros(count, np.int64), rng.random(count) < 0.2), width, height


@settings(max_examples=150, deadline=None)
@given(crowded(), st.integers(0, 2**62), st.integers(1, 3))
def test_plan__nothing_overlaps_and_all_lies_inside(
    image: tuple[Targets, int, int],
    seed: int,
    times: int,
) -> None:
    own, width, height = image
    plan = CopyPaste(times=times).plan(own, width, height, seed=seed)
    if plan is None:
        return
    pasted = plan.targets.boxes[len(own) :]
    assert np.array_equal(plan.targets.boxes[: len(own)], own.boxes)
    assert len(pasted) == len(plan.pastes) <= times * pasteable(own, 32).sum()
    shared = intersection(pasted[:, None], plan.targets.boxes)
    shared[np.arange(len(pasted)), len(own) + np.arange(len(pasted))] = 0
    assert shared.max() == 0
    assert (pasted[:, :2] >= BORDER).all() and (pasted[:, 2:] <= np.array([width, height]) - BORDER).all()
    sources = own.boxes[plan.pastes.sources]
    ratio = object_size(pasted) / object_size(sources)
    assert (ratio > 1 - SCALE - 0.01).all() and (object_size(sources) < 32).all()
    zoom = [np.sqrt(abs(np.linalg.det(to_image[:, :2]))) for to_image in plan.pastes.to_image]
    assert min(zoom) >= 1 - SCALE and max(zoom) <= 1 + SCALE


def test_plan__each_object_comes_as_often_as_asked_where_there_is_room() -> None:
    own = targets((10, 10, 30, 30), (60, 60, 70, 80), (200, 200, 300, 300))
    for times in (1, 3):
        plan = CopyPaste(times=times).plan(own, 1000, 1000, seed=5)
        assert plan is not None
        assert Counter(plan.pastes.sources.tolist()) == {0: times, 1: times}


def test_plan__no_room_is_no_copy_and_room_is_always_found_again() -> None:
    own = targets((2, 2, 12, 12), (0, 14, 40, 40), ignored=[1])
    assert CopyPaste().plan(own, 40, 40, seed=0) is None
    narrow = targets((2, 2, 12, 12), (0, 15, 200, 200), (13, 0, 170, 15))
    found = [CopyPaste().plan(narrow, 200, 200, seed=seed) for seed in range(30)]
    assert len({plan is None for plan in found}) == 1


def test_pasteable__a_rectangle_that_shows_much_of_another_object_stays() -> None:
    own = targets(
        (10, 10, 40, 40),  # shows all of the second
        (15, 15, 20, 20),  # shows little of the first
        (100, 100, 110, 110),
        (108, 100, 130, 120),  # shows half of the third, which shows little of it
        (200, 200, 240, 240),  # large
        (300, 300, 310, 310),  # ignored
        ignored=[5],
    )
    assert pasteable(own, 32).tolist() == [False, True, True, False, False, False]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32))
def test_pasteable__are_those_that_hold_little_of_any_other(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    corners = draw.integers(0, 150, size=(count, 2))
    boxes = np.concatenate([corners, corners + draw.integers(1, 60, size=(count, 2))], axis=1)
    own = targets(*boxes.tolist())
    grown = boxes + np.array([-1, -1, 1, 1]) * max(FEATHERS)
    shares = intersection(grown[:, None].astype(np.float64), boxes.astype(np.float64)) / area(boxes)
    np.fill_diagonal(shares, 0)
    wanted = (object_size(boxes.astype(np.float64)) < 32) & ~(shares > MOST_OF_OTHERS).any(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_paste, "AT_ONCE", 3)
        assert pasteable(own, 32).tolist() == wanted.tolist()


def test_plan__fields_come_along() -> None:
    own = replace(targets((10, 10, 30, 30), (200, 200, 300, 300)), fields={"id": Rows(np.array([7, 8]))})
    plan = CopyPaste(times=2).plan(own, 500, 500, seed=0)
    assert plan is not None
    values = plan.targets.fields["id"]
    assert isinstance(values, Rows) and values.values.tolist() == [7, 8, 7, 7]


def test_plan__balance_draws_rare_classes_as_often_as_others() -> None:
    boxes = [(20 * x, 20 * y, 20 * x + 9, 20 * y + 9) for x in range(10) for y in range(5)]
    own = targets(*boxes, labels=[0] * 48 + [1] * 2)
    counts: Counter[int] = Counter()
    weights = 1 / np.array([48.0, 2.0])
    for seed in range(10):
        plan = CopyPaste(class_weights=weights).plan(own, 2000, 2000, seed=seed)
        assert plan is not None
        counts += Counter(plan.targets.labels[50:].tolist())
    assert 0.8 < counts[0] / counts[1] < 1.25


def test_fade__is_whole_in_the_box_and_fades_out_around_it() -> None:
    # pixels of a row of 10, around a box from 3 to 7 that fades out over 2
    shown = fade(((np.arange(10) + 0.5 - 5) / 2).astype(np.float32), np.array([2 / 2 + 1], np.float32))
    assert shown.tolist() == [0, 0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25, 0]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A red object of 16 pixels on grey, 200 x 160 pixels, and a large green one."""
    pixels = np.full((160, 200, 3), 128, np.uint8)
    pixels[20:36, 30:46] = (255, 0, 0)
    pixels[60:120, 100:180] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = targets((30, 20, 46, 36), (100, 60, 180, 120), labels=[0, 1])
    return Record("a.png", tmp_path / "a.png", 200, 160, boxes)


def shown(record: Record, view: View | None, seed: int, copy_paste: CopyPaste) -> Sample:
    samples = TrainingDataset(Records([record]), Scaling(min_size=160, max_size=200), copy_paste=copy_paste)
    sample = samples[Copy(0, seed), view, 0]
    assert isinstance(sample, Sample)
    return sample


@pytest.mark.parametrize("zoom", [0.5, 1, 2])
def test_samples__show_the_object_where_its_box_is(record: Record, zoom: float) -> None:
    view = View((0, 0, 200, 160), (int(200 * zoom), int(160 * zoom)))
    before = record.path.read_bytes()
    for seed in range(10):
        sample = shown(record, view, seed, CopyPaste())
        boxes = sample.targets.boxes
        assert sample.targets.labels.tolist() == [0, 1, 0]
        x0, y0, x1, y1 = boxes[2].tolist()
        red = (sample.pixels[0].int() - sample.pixels[1].int()) > 100
        ys, xs = torch.nonzero(red, as_tuple=True)
        inside = (xs + 0.5 >= x0 - 2 - zoom) & (xs + 0.5 <= x1 + 2 + zoom)
        inside &= (ys + 0.5 >= y0 - 2 - zoom) & (ys + 0.5 <= y1 + 2 + zoom)
        # as many pixels are red there as the box has, but for its turned corners and its soft edge
        assert 0.8 < int(inside.sum()) / ((x1 - x0) * (y1 - y0)) < 1.3
        own = boxes[0].round().int().tolist()
        outside = ~inside & ~((xs >= own[0]) & (xs < own[2]) & (ys >= own[1]) & (ys < own[3]))
        assert not outside.any()
    assert record.path.read_bytes() == before


def test_samples__all_views_of_a_copy_show_the_same_objects(record: Record) -> None:
    whole = shown(record, View((0, 0, 200, 160), (200, 160)), 3, CopyPaste(times=3))
    for window in [(0, 0, 120, 160), (60, 30, 200, 160), (-20, -10, 200, 160)]:
        x0, y0, x1, y1 = window
        part = shown(record, View(window, (x1 - x0, y1 - y0)), 3, CopyPaste(times=3))
        left, top = max(x0, 0), max(y0, 0)
        expected = whole.pixels[:, top:y1, left:x1].int()
        difference = (part.pixels[:, top - y0 :, left - x0 :].int() - expected).abs()
        assert difference.max() <= 1


@pytest.mark.parametrize("source", ["image", "any"])
def test_samples__of_a_copy_that_is_kept_are_those_of_one_that_is_pasted_by_views(
    record: Record, source: str
) -> None:
    copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_source=source), split_of(record), classes=3)
    by_views, kept = (
        TrainingDataset(
            Records([record]), Scaling(square=200), copy_paste=copy_paste, cache_bytes=cache_bytes
        )
        for cache_bytes in (0, 1 << 20)
    )
    own = kept[0, View((0, 0, 200, 160), (200, 160)), 0]
    assert isinstance(own, Sample)
    for window in [(0, 0, 200, 160), (60, 30, 200, 160), (-20, -10, 200, 160)]:
        x0, y0, x1, y1 = window
        view = View(window, (x1 - x0, y1 - y0))
        one, other = (samples[Copy(0, 3), view, 0] for samples in (by_views, kept))
        assert isinstance(one, Sample) and isinstance(other, Sample)
        assert torch.equal(one.targets.boxes, other.targets.boxes)
        assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1
    again = kept[0, View((0, 0, 200, 160), (200, 160)), 0]
    assert isinstance(again, Sample) and torch.equal(own.pixels, again.pixels)  # nothing is pasted into it


def test_copies__show_the_same_for_some_epochs(made: Split) -> None:
    copy_paste = CopyPaste(repeats=4)
    copies = Copies.of(copy_paste, made.records)
    epochs = [copies.draw(seed=1, epoch=epoch) for epoch in range(2 * KEPT_EPOCHS + 1)]
    assert epochs == [copies.draw(seed=1, epoch=epoch) for epoch in range(2 * KEPT_EPOCHS + 1)]
    assert len({copy.seed for copy in epochs[0]}) == len(copies) == 8
    for before, after in pairwise(epochs):
        assert [copy.image for copy in before] == [copy.image for copy in after]
        assert sum(one == other for one, other in zip(before, after, strict=True)) == 8 - 8 // KEPT_EPOCHS
    assert not {*epochs[0]} & {*epochs[KEPT_EPOCHS]}
    assert not {*epochs[0]} & {*copies.draw(seed=2, epoch=0)}


def split_of(*records: Record) -> Split:
    return Split(Records(records), ChannelIssues("train", images=len(records)))


def blank(folder: Path, name: str, own: Targets, size: int = 100) -> Record:
    Image.new("RGB", (size, size)).save(folder / name)
    return Record(name, folder / name, size, size, own)


@pytest.fixture
def made(tmp_path: Path) -> Split:
    """Two images with small objects, one with a large one, one without room, one without objects."""
    full = targets((2, 2, 12, 12), (0, 14, 100, 100), (14, 0, 100, 14))
    return split_of(
        blank(tmp_path, "a.png", targets((10, 10, 20, 20))),
        blank(tmp_path, "b.png", targets((10, 10, 20, 20), (40, 40, 52, 52), (60, 10, 95, 50))),
        blank(tmp_path, "c.png", targets((10, 10, 60, 60))),
        blank(tmp_path, "d.png", full),
        blank(tmp_path, "e.png", targets()),
    )


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("tiled", [False, True])
def test_loader__counts(made: Split, repeats: int, tiled: bool, caplog: pytest.LogCaptureFixture) -> None:
    hp = make_hp(copy_paste=1, copy_paste_repeats=repeats)
    scaling, copy_paste = Scaling(square=64), make_copy_paste(hp, made, classes=3)
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 1)), scaling, negative_ratio=0.0) if tiled else None
    with caplog.at_level(logging.INFO):
        config = LoaderConfig(scaling=scaling, batch_size=1, random_windows=False)
        loader = make_loader(made, config, planner=planner, copy_paste=copy_paste)
        batches = [read_batch(batch) for batch in loader]
    assert "3 of 5 images hold small objects; 2 of them come" in caplog.text
    assert f"with some {3 * repeats} objects pasted, and in 1 nothing finds room" in caplog.text
    if not tiled:
        counts = Counter(len(batch.targets) for batch in batches)
        assert len(batches) == 5 + 2 * repeats
        assert counts == {0: 1, 1: 2, 2: repeats, 3: 2, 5: repeats}
    else:
        assert len(batches) > 5 + 2 * repeats


def test_loader__workers_make_no_difference_and_epochs_differ(made: Split) -> None:
    copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_source="any"), made, classes=3)

    def epoch(workers: int, number: int) -> list[torch.Tensor]:
        config = LoaderConfig(scaling=Scaling(square=64), batch_size=3, workers=workers, seed=7)
        loader = make_loader(made, config, copy_paste=copy_paste)
        loader.batch_sampler.epoch = number  # type: ignore[union-attr]
        return [read_batch(batch).targets.boxes for batch in loader]

    ones, others, later = epoch(0, 1), epoch(2, 1), epoch(0, 2)
    assert all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))
    assert [boxes.tolist() for boxes in ones] != [boxes.tolist() for boxes in later]


@pytest.mark.parametrize("views", ["whole", "grid", "sniper"])
def test_loader__two_processes_share_the_batches_of_one(made: Split, views: TrainingViews) -> None:
    scaling = Scaling(square=64)
    tiling = {
        "whole": Tiling(),
        "grid": Tiling("grid", grid=(2, 1)),
        "sniper": Tiling("pyramid", levels=(Level(1, 10), Level(2, 0, 20))),
    }[views]
    planner = ViewPlanner(views, tiling, scaling, negative_ratio=0.5) if views != "whole" else None
    copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_source="any"), made, classes=3)
    config = LoaderConfig(scaling=scaling, batch_size=2)

    def batches(process: int, processes: int) -> list[list[Item]]:
        split = replace(made, shard=Shard(process, processes))
        loader = make_loader(split, config, planner=planner, copy_paste=copy_paste)
        loader.batch_sampler.epoch = 0  # type: ignore[union-attr]  # later ones have as many batches
        return list(loader.batch_sampler)  # type: ignore[arg-type]

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(first) == len(second) == -(-len(alone) // 2)
    together = [batch for pair in zip(first, second, strict=True) for batch in pair]
    if planner is None:
        assert together[: len(alone)] == alone
    # views are dealt by image, so that two processes take them in another order
    shown = [
        Counter((image, view) for batch in each for image, view, _ in batch) for each in (alone, together)
    ]
    assert shown[0].keys() == shown[1].keys()
    images = [image for batch in alone for image, _, _ in batch]
    assert {image.image for image in images if isinstance(image, Copy)} >= {0, 1}


def test_bank__holds_the_objects_of_other_images(record: Record, tmp_path: Path) -> None:
    other = blank(tmp_path, "b.png", targets((10, 10, 20, 20)), size=200)
    split = split_of(record, other)
    copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_source="any"), split, classes=3)
    assert copy_paste is not None and copy_paste.bank is not None
    assert len(copy_paste.bank.targets) == len(copy_paste.bank.patches) == 2
    colours = set()
    for seed in range(20):
        sample = shown(other, View((0, 0, 200, 200), (200, 200)), seed, copy_paste)
        x0, y0, x1, y1 = sample.targets.boxes[1].tolist()
        colours.add(sample.pixels[0, int((y0 + y1) / 2), int((x0 + x1) / 2)].item())
    assert colours == {0, 255}


def test_make_copy_paste__sizes(made: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_copy_paste(make_hp(), made, classes=3) is None
    large = split_of(blank(tmp_path, "l.png", targets((0, 0, 40, 40), (50, 0, 90, 60), (0, 50, 50, 99))))
    with pytest.raises(UserError, match=r"below 32 px .* has 40 px: give copy_paste_max_size=auto"):
        make_copy_paste(make_hp(copy_paste=1), large, classes=3)
    with caplog.at_level(logging.INFO):
        copy_paste = make_copy_paste(make_hp(copy_paste=1, copy_paste_max_size="auto"), large, classes=3)
    assert copy_paste is not None and 40 < copy_paste.max_size < 50
    assert "the smallest third of the objects: only 0.0 % are below 32 px" in caplog.text
    few = make_copy_paste(make_hp(copy_paste=1, copy_paste_max_size="auto"), made, classes=3)
    assert few is not None and few.max_size == 32


@pytest.mark.parametrize("source", ["image", "any"])
def test_balance__pastes_each_class_alike_of_which_few_objects_are_small(tmp_path: Path, source: str) -> None:
    small = [(30 * number, 10, 30 * number + 10, 20) for number in range(10)]
    large = [(60 * number, 60, 60 * number + 50, 110) for number in range(5)]
    own = targets(*small, *large, (10, 300, 20, 310))
    own = replace(own, labels=np.array([0] * 10 + [1] * 6))
    made = split_of(blank(tmp_path, "a.png", own, 400), blank(tmp_path, "b.png", own, 400))
    hp = make_hp(copy_paste=1, copy_paste_source=source, copy_paste_balance=1)
    copy_paste = make_copy_paste(hp, made, classes=4)
    assert copy_paste is not None and copy_paste.class_weights is not None
    weights = copy_paste.class_weights
    assert weights[1] == 10 * weights[0] and weights[2] == weights[3] == weights[1]
    drawn: Counter[int] = Counter()
    for seed in range(1, 40):
        plan = copy_paste.plan(own, 400, 400, seed=seed)
        assert plan is not None
        drawn.update(plan.targets.labels[16:].tolist())
    assert 0.4 < drawn[1] / drawn.total() < 0.6


def test_hyperparameters__go_with_copy_paste_only() -> None:
    with pytest.raises(UserError, match="copy_paste_times=2: applies only with copy_paste"):
        make_hp(copy_paste_times=2)
    with pytest.raises(UserError, match="copy_paste_max_size=-1: must be a number of pixels"):
        make_hp(copy_paste=1, copy_paste_max_size=-1)
