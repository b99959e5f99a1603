from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.targets import Targets
from tilewise.views.sample import MIN_VISIBILITY, Sample, make_sample
from tilewise.views.view import View

IMAGE = torch.zeros(3, 100, 200, dtype=torch.uint8)


def look(view: View, *boxes: tuple[float, ...], ignored: bool = False) -> Sample:
    count = len(boxes)
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return make_sample(IMAGE, Targets(rows, np.arange(count) + 5, np.full(count, ignored)), view)


def test_make_sample__boxes_in_the_frame_of_the_view() -> None:
    sample = look(View((50, 20, 150, 70), (200, 50)), (60, 30, 80, 40), (50, 20, 150, 70))
    assert sample.pixels.shape == (3, 50, 200)
    assert sample.targets.boxes.tolist() == [[20, 10, 60, 20], [0, 0, 200, 50]]
    assert sample.targets.labels.tolist() == [5, 6]
    assert sample.targets.ignored.tolist() == [False, False]
    assert (sample.targets.boxes.dtype, sample.targets.labels.dtype, sample.targets.ignored.dtype) == (
        torch.float32,
        torch.int64,
        torch.bool,
    )


@pytest.mark.parametrize(
    ("box", "fate"),
    [
        ((40, 30, 60, 50), "kept"),  # half of it
        ((40, 30, 56.6, 50), "ignored"),  # 0.398
        ((40, 30, 56.7, 50), "kept"),  # 0.401
        ((40, 10, 60, 30), "ignored"),  # a quarter, at the corner
        ((0, 0, 200, 100), "ignored"),  # larger than the window
        ((40, 0, 160, 90), "kept"),
        ((0, 30, 50, 40), "dropped"),  # touches it
        ((0, 30, 51, 40), "ignored"),
        ((0, 30, 50.4, 40), "dropped"),  # less than a pixel of the view
        ((160, 75, 170, 90), "dropped"),
        ((60, 30, 60.4, 40), "dropped"),
    ],
)
def test_make_sample__by_visibility(box: tuple[float, ...], fate: str) -> None:
    sample = look(View((50, 20, 150, 70), (200, 100)), (60, 30, 70, 40), box)
    assert sample.targets.ignored.tolist() == [
        False,
        *{"kept": [False], "ignored": [True], "dropped": []}[fate],
    ]
    assert sample.targets.labels.tolist() == ([5] if fate == "dropped" else [5, 6])


def test_make_sample__crowds_stay_ignored() -> None:
    sample = look(View((0, 0, 200, 100), (200, 100)), (10, 10, 20, 20), ignored=True)
    assert sample.targets.ignored.tolist() == [True]


def test_make_sample__no_boxes() -> None:
    sample = look(View((-50, -50, 300, 150), (64, 64)))
    assert sample.targets.boxes.shape == (
        0,
        4,
    ) and sample.targets.labels.shape == sample.targets.ignored.shape == (0,)
    assert sample.targets.boxes.dtype == torch.float32


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(-150, 180), st.integers(-80, 90), st.integers(1, 300), st.integers(1, 200)),
    st.integers(2, 300),
    st.integers(2, 300),
    st.integers(0, 2**32),
)
def test_make_sample__properties(
    window: tuple[int, int, int, int], width: int, height: int, seed: int
) -> None:
    x, y, wide, high = window
    view = View((x, y, x + wide, y + high), (width, height))
    rng = np.random.default_rng(seed)
    corners = rng.random((20, 2, 2)) * (200, 100)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    crowd = rng.random(20) < 0.2
    sample = make_sample(IMAGE, Targets(boxes, np.arange(20), crowd), view)
    limits = torch.tensor([width, height, width, height])
    assert (sample.targets.boxes >= 0).all() and (sample.targets.boxes <= limits).all()
    assert (sample.targets.boxes[:, 2:] - sample.targets.boxes[:, :2] >= 1).all()
    ignored, labels = sample.targets.ignored.numpy(), sample.targets.labels.numpy()
    original = boxes[labels]
    back = view.boxes_to_image(sample.targets.boxes.numpy())
    assert (back >= original - 0.01)[:, :2].all() and (back <= original + 0.01)[:, 2:].all()
    share = (back[:, 2:] - back[:, :2]).prod(axis=1) / (original[:, 2:] - original[:, :2]).prod(axis=1)
    assert (share[~ignored] > MIN_VISIBILITY - 0.01).all()
    assert (share[ignored & ~crowd[labels]] < MIN_VISIBILITY + 0.01).all()
    assert ignored[crowd[labels]].all()


def test_make_sample__ignores_sizes_that_the_view_does_not_answer_for() -> None:
    view = View(
        (0, 0, 100, 100), (400, 400), object_sizes=(10, 20)
    )  # in pixels of the image, not of the view
    sample = look(view, (0, 0, 9, 9), (20, 20, 32, 32), (50, 50, 80, 80), (90, 0, 105, 10))
    assert sample.targets.ignored.tolist() == [True, False, True, False]


@pytest.mark.parametrize(("share", "ignored"), [(0.0, False), (0.2, False), (0.3, True), (1.0, True)])
def test_make_sample__by_a_given_visibility(share: float, ignored: bool) -> None:
    view = View((50, 20, 150, 70), (200, 100))
    box = np.array([[40, 10, 60, 30]], np.float32)  # a quarter of it is in the window
    targets = Targets(box, np.array([0]), np.array([False]))
    sample = make_sample(IMAGE, targets, view, min_visibility=share)
    assert sample.targets.ignored.tolist() == [ignored]
