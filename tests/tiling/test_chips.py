from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tilewise.tiling.chips import background_views, chip_of, negative_chips, positive_chips, sniper_views
from tilewise.tiling.spec import Level
from tilewise.views.view import Scaling, Window


def boxes_of(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def holds(window: Window, box: np.ndarray) -> bool:
    x0, y0, x1, y1 = window
    return bool(x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_positive_chips__by_hand() -> None:
    # chips of 100 px at 0, 50, 100, … 300: one holds the first three boxes, no other more than two
    boxes = boxes_of((60, 60, 80, 80), (120, 60, 140, 80), (110, 110, 120, 120), (390, 390, 400, 400))
    chips = positive_chips(400, 400, boxes, chip=(100, 100), stride=(50, 50), rng=rng())
    assert chips == [(50, 50, 150, 150), (300, 300, 400, 400)]


def test_positive_chips__take_the_one_with_most_first() -> None:
    boxes = boxes_of((0, 0, 10, 10), (240, 0, 250, 10), (250, 0, 260, 10), (260, 0, 270, 10))
    chips = positive_chips(300, 100, boxes, chip=(100, 100), stride=(50, 50), rng=rng())
    assert len(chips) == 2
    assert chips[0] == (200, 0, 300, 100)
    assert holds(chips[1], boxes[0])


def test_positive_chips__none_for_no_boxes_and_for_those_too_large() -> None:
    assert positive_chips(400, 400, boxes_of(), chip=(100, 100), stride=(50, 50), rng=rng()) == []
    assert (
        positive_chips(400, 400, boxes_of((0, 0, 101, 20)), chip=(100, 100), stride=(50, 50), rng=rng()) == []
    )


def test_positive_chips__equally_good_ones_are_drawn() -> None:
    boxes = boxes_of((200, 200, 205, 205))
    drawn = {
        positive_chips(400, 400, boxes, chip=(100, 100), stride=(10, 10), rng=rng(seed))[0]
        for seed in range(20)
    }
    assert len(drawn) > 5
    assert all(holds(chip, boxes[0]) for chip in drawn)


@settings(max_examples=100, deadline=None)
@example(width=319, height=120, side=80, seed=1154893)
@given(st.integers(120, 900), st.integers(120, 900), st.integers(80, 120), st.integers(0, 2**32))
def test_positive_chips__hold_every_box_that_fits(width: int, height: int, side: int, seed: int) -> None:
    draw = rng(seed)
    stride = float(draw.uniform(5, 40))
    wide, high = draw.uniform(1, side - stride, size=(2, 30))
    x, y = draw.uniform(0, 1, size=(2, 30)) * (width - wide, height - high)
    boxes = np.stack([x, y, x + wide, y + high], axis=1)
    chips = positive_chips(width, height, boxes, chip=(side, side), stride=(stride, stride), rng=draw)
    assert len(chips) <= len(boxes)
    for x0, y0, x1, y1 in chips:
        assert (x1 - x0, y1 - y0) == (side, side)
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
    assert all(any(holds(chip, box) for chip in chips) for box in boxes)
    # greedy: each chip was worth taking after those before it
    for index, chip in enumerate(chips):
        left = [box for box in boxes if not any(holds(earlier, box) for earlier in chips[:index])]
        assert any(holds(chip, box) for box in left)


def greedy_cover(
    width: int, height: int, boxes: np.ndarray, side: int, stride: float, draw: np.random.Generator
) -> list[Window]:
    """Every candidate beside every box, again for each chip that is taken."""
    xs, ys = (
        sorted({*range(0, max(0, length - side), max(1, int(stride))), max(0, length - side)})
        for length in (width, height)
    )
    windows = [(x, y, x + side, y + side) for y in ys for x in xs]
    held = np.array([[holds(window, box) for box in boxes] for window in windows])
    useful = draw.permutation(np.flatnonzero(held.any(axis=1)))
    chips = []
    while held.any():
        best = useful[held[useful].sum(axis=1).argmax()]
        chips.append(windows[best])
        held[:, held[best].copy()] = False
    return chips


@settings(max_examples=50, deadline=None)
@given(
    st.integers(90, 400), st.integers(60, 400), st.floats(6, 60), st.integers(1, 60), st.integers(0, 2**32)
)
def test_positive_chips__are_those_of_the_greedy_cover(
    width: int, height: int, stride: float, count: int, seed: int
) -> None:
    draw = rng(seed)
    corners = draw.uniform(0, 1, size=(count, 2)) * (width, height)
    boxes = np.concatenate([corners, corners + draw.uniform(1, 90, size=(count, 2))], axis=1).round()
    boxes = boxes.astype(np.float32)
    wanted = greedy_cover(width, height, boxes, 80, stride, rng(seed))
    found = positive_chips(width, height, boxes, chip=(80, 80), stride=(stride, stride), rng=rng(seed))
    assert found == wanted


def test_sniper_views__of_a_scene_take_no_memory_of_candidates_times_boxes() -> None:
    side, count = 12_000, 4_000
    corners = rng().uniform(0, side - 40, size=(count, 2))
    boxes = np.concatenate([corners, corners + 30], axis=1).astype(np.float32)
    tracemalloc.start()
    try:
        chips = positive_chips(side, side, boxes, chip=(320, 320), stride=(36.0, 36.0), rng=rng())
        chips += negative_chips(side, side, boxes, chip=(64, 64), count=1000, rng=rng())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(chips) > 2000
    assert peak < 30e6  # 110,000 candidates; each with each box would be 440 MB


def test_negative_chips__avoid_the_objects() -> None:
    boxes = boxes_of((0, 0, 200, 400))  # its centre is at 100, 200
    chips = negative_chips(400, 400, boxes, chip=(150, 150), count=8, rng=rng())
    assert len(chips) == 8
    for x0, y0, x1, y1 in chips:
        assert not (x0 <= 100 < x1 and y0 <= 200 < y1)
        assert x0 >= 0 and y0 >= 0 and x1 <= 400 and y1 <= 400


def test_negative_chips__none_where_there_is_no_background() -> None:
    grid = np.stack(np.meshgrid(np.arange(0, 400, 20), np.arange(0, 400, 20)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([grid, grid + 20], axis=1)
    assert negative_chips(400, 400, boxes, chip=(150, 150), count=8, rng=rng()) == []


def test_negative_chips__false_positives_come_first() -> None:
    boxes = boxes_of((0, 0, 20, 20))
    false_positives = boxes_of((300, 300, 310, 310), (320, 320, 330, 330), (200, 30, 210, 40), (5, 5, 15, 15))
    first, second, *rest = negative_chips(
        400, 400, boxes, chip=(100, 100), count=5, rng=rng(), false_positives_M4=false_positives
    )
    assert holds(first, false_positives[0]) and holds(first, false_positives[1])
    assert holds(second, false_positives[2])
    assert len(rest) == 3  # from the background


def test_chip_of__shows_objects_as_large_as_its_level_does() -> None:
    level = Level(2.0)
    assert chip_of(1000, 600, level, scaling=Scaling(square=300), chip_size=None) == ((500, 300), (300, 300))
    # the whole image is scaled by 0.5, so the level is not scaled at all
    scaling = Scaling(min_size=300, max_size=500)
    assert chip_of(1000, 600, level, scaling=scaling, chip_size=256) == ((256, 256), (256, 256))
    assert chip_of(1000, 600, level, scaling=scaling, chip_size=800) == ((800, 600), (800, 600))


LEVELS = (Level(1, 60.0), Level(4, 0.0, 90.0))


def test_sniper_views__cost_a_fraction_and_cover_what_each_level_trains_on() -> None:
    boxes = boxes_of((10, 10, 30, 30), (40, 20, 60, 30), (700, 500, 800, 560), (300, 100, 500, 300))
    views = sniper_views(
        1000, 800, boxes, levels=LEVELS, scaling=Scaling(square=320), chip_size=None, rng=rng()
    )
    whole, *chips = views
    assert whole.window == (0, 0, 1000, 800) and whole.object_sizes[0] == 60
    assert len(chips) == 2
    assert all(view.size == (320, 320) and view.object_sizes == (0, 90) for view in chips)
    for box in boxes[:3]:
        assert any(holds(view.window, box) for view in chips)


def test_sniper_views__without_large_objects_the_whole_image_is_left_out() -> None:
    views = sniper_views(
        1000,
        800,
        boxes_of((10, 10, 30, 30)),
        levels=LEVELS,
        scaling=Scaling(square=320),
        chip_size=None,
        rng=rng(),
    )
    assert [view.object_sizes for view in views] == [(0, 90)]
    assert (
        sniper_views(
            1000, 800, boxes_of(), levels=LEVELS, scaling=Scaling(square=320), chip_size=None, rng=rng()
        )
        == []
    )


def test_sniper_views__below_1_the_image_lies_in_a_frame() -> None:
    levels, boxes = (Level(0.5, 100), Level(2, 0, 150)), boxes_of((10, 10, 30, 30), (300, 100, 700, 500))
    for scaling, chip_size in ((Scaling(square=320), None), (Scaling(min_size=300, max_size=900), 256)):
        small, *chips = sniper_views(
            1000, 800, boxes, levels=levels, scaling=scaling, chip_size=chip_size, rng=rng()
        )
        assert small.window == (0, 0, 2000, 1600) and small.size == scaling.size_of(1000, 800)
        assert chips and {view.object_sizes for view in chips} == {(0, 150)}


def test_background_views__of_an_image_without_objects() -> None:
    views = background_views(
        1000, 800, boxes_of(), levels=LEVELS, scaling=Scaling(square=320), chip_size=None, count=3, rng=rng()
    )
    assert len(views) == 3
    assert {view.window[2] - view.window[0] for view in views} == {250}
    (whole,) = background_views(
        1000,
        800,
        boxes_of(),
        levels=LEVELS[:1],
        scaling=Scaling(square=320),
        chip_size=None,
        count=1,
        rng=rng(),
    )
    assert whole.window == (0, 0, 1000, 800)
