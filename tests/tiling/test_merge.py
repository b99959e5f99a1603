from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_instances import make_instances
from scattered import scattered_detections
from tilewise.arrays import Bool, Floats, Int64
from tilewise.instances import Instances
from tilewise.tiling.merge import cut_sides, merge_detections, merge_with_masks
from tilewise.tiling.neighbours import near_pairs
from tilewise.tiling.spec import MergeRule
from tilewise.views.view import View
from torchvision.ops import box_iou

Row = tuple[tuple[float, float, float, float], float, int, int]  # box, score, label, view
RULES: tuple[MergeRule, ...] = ("nms", "fragment", "wbf")


def merged(
    rows: list[Row], rule: MergeRule = "nms", threshold: float = 0.25, cut: dict[int, str] | None = None
) -> Instances:
    """``cut``: the number of a row -> the sides at which it is cut, some of "ltrb"."""
    sides = torch.tensor([[side in (cut or {}).get(row, "") for side in "ltrb"] for row in range(len(rows))])
    found = make_instances(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float32),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )
    views = torch.tensor([row[3] for row in rows], dtype=torch.int64)
    return merge_detections(
        found, views.numpy(), sides.reshape(-1, 4).numpy(), rule=rule, threshold=threshold
    )


A = (0.0, 0.0, 10.0, 10.0)
HALF = (5.0, 0.0, 15.0, 10.0)  # IoU with A: 50 / 150
FIFTH = (0.0, 0.0, 2.0, 10.0)  # IoU with A: 0.2; A holds all of it


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        ([(A, 0.9, 0, 0), (HALF, 0.8, 0, 1)], [0.9]),
        ([(A, 0.9, 0, 0), (HALF, 0.8, 0, 0)], [0.9, 0.8]),  # of one view: they had their NMS
        ([(A, 0.9, 0, 0), (HALF, 0.8, 1, 1)], [0.9, 0.8]),  # of two classes
        ([(A, 0.9, 0, 0), (FIFTH, 0.8, 0, 1)], [0.9, 0.8]),  # IoU too small
        ([(HALF, 0.5, 0, 0), (A, 0.9, 0, 1)], [0.9]),  # the better one stays, whatever the order
        ([(A, 0.5, 0, 0), (A, 0.5, 0, 1)], [0.5]),
        # greedy: the second is removed, so it does not remove the third, which the first does not touch
        ([(A, 0.9, 0, 0), (HALF, 0.8, 0, 1), ((10.0, 0.0, 20.0, 10.0), 0.7, 0, 0)], [0.9, 0.7]),
        ([(A, 0.9, 0, 0), (A, 0.8, 0, 0), (A, 0.7, 0, 1)], [0.9, 0.8]),
    ],
)
def test_nms__azures_rule_by_hand(rows: list[Row], scores: list[float]) -> None:
    assert merged(rows).scores.tolist() == pytest.approx(scores)


def test_nms__at_the_threshold_both_stay() -> None:
    third = (0.0, 0.0, 10.0, 5.0)  # IoU 0.5
    rows: list[Row] = [(A, 0.9, 0, 0), (third, 0.8, 0, 1)]
    assert len(merged(rows, threshold=0.5)) == 2
    assert len(merged(rows, threshold=0.499)) == 1
    assert len(merged([(A, 0.9, 0, 0), (A, 0.8, 0, 1)], threshold=1.0)) == 2
    assert len(merged([(A, 0.9, 0, 0), (HALF, 0.8, 0, 1)], threshold=0.0)) == 1


WHOLE = (90.0, 0.0, 130.0, 20.0)
LEFT_PART = (90.0, 0.0, 98.0, 20.0)  # what the tile that ends at 98 sees of it: IoU 0.2


@pytest.mark.parametrize(
    ("rows", "cut", "boxes"),
    [
        # the fragment goes, even where it scores higher
        ([(WHOLE, 0.6, 0, 0), (LEFT_PART, 0.8, 0, 1)], {1: "r"}, [WHOLE]),
        # not cut: another, smaller object
        ([(WHOLE, 0.6, 0, 0), (LEFT_PART, 0.8, 0, 1)], {}, [LEFT_PART, WHOLE]),
        # cut at a side beyond which the larger box does not go
        ([(WHOLE, 0.6, 0, 0), (LEFT_PART, 0.8, 0, 1)], {1: "l"}, [LEFT_PART, WHOLE]),
        # more than twice the score: the larger box is not to be believed
        ([(WHOLE, 0.3, 0, 0), (LEFT_PART, 0.8, 0, 1)], {1: "r"}, [LEFT_PART, WHOLE]),
        # another class, the same view
        ([(WHOLE, 0.6, 1, 0), (LEFT_PART, 0.8, 0, 1)], {1: "r"}, [LEFT_PART, WHOLE]),
        ([(WHOLE, 0.6, 0, 1), (LEFT_PART, 0.8, 0, 1)], {1: "r"}, [LEFT_PART, WHOLE]),
        # alone, a fragment stays
        ([(LEFT_PART, 0.8, 0, 1)], {0: "r"}, [LEFT_PART]),
        # a larger fragment absorbs a smaller one
        (
            [((90.0, 0.0, 126.0, 20.0), 0.8, 0, 0), (LEFT_PART, 0.7, 0, 1)],
            {0: "r", 1: "r"},
            [(90, 0, 126, 20)],
        ),
    ],
)
def test_fragment__by_hand(rows: list[Row], cut: dict[int, str], boxes: list[tuple[float, ...]]) -> None:
    assert merged(rows, "fragment", cut=cut).boxes.tolist() == [list(box) for box in boxes]
    assert len(merged(rows, "nms", cut=cut)) == len(rows)  # Azure's rule leaves them all


def test_fragment__far_smaller_than_what_absorbs_it() -> None:
    rows: list[Row] = [((0.0, 0.0, 2000.0, 1500.0), 0.6, 0, 0), ((700.0, 700.0, 712.0, 712.0), 0.7, 0, 1)]
    assert len(merged(rows, "fragment", cut={1: "b"})) == 1


def test_wbf__mean_weighted_by_score() -> None:
    rows: list[Row] = [(A, 0.6, 0, 0), ((1.0, 2.0, 11.0, 12.0), 0.2, 0, 1), (LEFT_PART, 0.5, 0, 2)]
    found = merged(rows, "wbf")
    assert found.boxes.tolist() == [[0.25, 0.5, 10.25, 10.5], list(LEFT_PART)]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])


def test_wbf__fragments_do_not_move_the_box() -> None:
    rows: list[Row] = [(WHOLE, 0.6, 0, 0), (LEFT_PART, 0.8, 0, 1), ((92.0, 0.0, 132.0, 20.0), 0.6, 0, 2)]
    assert merged(rows, "wbf", cut={1: "r"}).boxes.tolist() == [[91, 0, 131, 20]]


def test_cut_sides__inner_borders_only() -> None:
    # the tile lies at the left border of a 200 x 100 image; a pixel of it is 4 pixels of the view
    view = View((0, 20, 100, 60), (400, 160))
    boxes = np.array(
        [
            [0.0, 50, 20, 80],  # at the image's border: whole
            [380, 50, 400, 80],
            [380, 50, 397.5, 80],
            [380, 50, 396, 80],
            [50, 0, 80, 160],
            [1, 2, 399, 158],
        ],
        np.float32,
    )
    sides = cut_sides(boxes, view, width=200, height=100)
    names = ["".join(side for side, cut in zip("ltrb", row, strict=True) if cut) for row in sides.tolist()]
    assert names == ["", "r", "r", "", "tb", "trb"]
    assert not cut_sides(boxes, View((0, 0, 200, 100), (400, 160)), width=200, height=100).any()
    # a window that reaches beyond the image is not cut there
    assert not cut_sides(boxes, View((-5, -5, 300, 300), (400, 160)), width=200, height=100).any()


def iou_of(boxes: Floats) -> Floats:
    """All with all, by torchvision."""
    iou: Floats = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    return iou


def removed_one_by_one(found: Instances, views: Int64, cut: Bool, rule: str, threshold: float) -> set[int]:
    """The rules, written as plain loops over all pairs: the indices that remain."""
    fragment = np.any(cut, axis=1) & (rule != "nms")
    scores, boxes = found.scores.astype(np.float64), found.boxes.astype(np.float64)
    weights = np.where(fragment, scores / 2, scores).tolist()
    iou = iou_of(boxes).tolist()
    kept: list[int] = []
    for one in sorted(range(len(found)), key=lambda index: (-weights[index], index)):
        x0, y0, x1, y1 = boxes[one].tolist()
        for other in kept:
            if views[other] == views[one] or found.labels[other] != found.labels[one]:
                continue
            a0, b0, a1, b1 = boxes[other].tolist()
            common = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
            beyond = [a0 < x0, b0 < y0, a1 > x1, b1 > y1]
            goes_on = any(side and further for side, further in zip(cut[one], beyond, strict=True))
            holds = fragment[one] and common > 0.5 * (x1 - x0) * (y1 - y0) and goes_on
            if iou[other][one] > threshold or holds:
                break
        else:
            kept.append(one)
    return set(kept)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 80),
    st.sampled_from([30.0, 200.0, 3000.0]),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8]),
    st.sampled_from(["nms", "fragment"]),
)
def test_merge__as_plain_loops_over_all_pairs(
    seed: int, count: int, span: float, threshold: float, rule: MergeRule
) -> None:
    found, views, cut = scattered_detections(seed, count, span)
    expected = removed_one_by_one(found, views, cut, rule, threshold)
    boxes = {tuple(found.boxes[index].tolist()) for index in expected}
    assert {
        tuple(box)
        for box in merge_detections(found, views, cut, rule=rule, threshold=threshold).boxes.tolist()
    } == boxes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120), st.sampled_from(RULES))
def test_merge__invariants(seed: int, count: int, rule: MergeRule) -> None:
    found, views, cut = scattered_detections(seed, count, 300.0)
    result = merge_detections(found, views, cut, rule=rule, threshold=0.25)
    assert (np.diff(result.scores) <= 0).all()
    assert len(result) <= count and (len(result) > 0) == (count > 0)
    again = merge_detections(found, views, cut, rule=rule, threshold=0.25)
    assert np.array_equal(again.boxes, result.boxes)
    # class by class gives the same: nothing is merged across classes
    for label in range(2):
        of = found.labels == label
        alone = merge_detections(found.select(of), views[of], cut[of], rule=rule, threshold=0.25)
        np.testing.assert_allclose(alone.boxes, result.boxes[result.labels == label])
    # what overlaps nothing stays as it is
    iou = iou_of(found.boxes) * (found.labels[:, None] == found.labels)
    lonely = found.boxes[(iou > 0).sum(axis=1) == 1].tolist()
    assert all(box in result.boxes.tolist() for box in lonely)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 120), st.sampled_from(["nms", "fragment"]))
def test_merge__of_what_is_merged_changes_nothing(seed: int, count: int, rule: MergeRule) -> None:
    found, views, cut = scattered_detections(seed, count, 200.0)
    views = views * 1000 + np.arange(count)  # each box of a view of its own
    once = merge_detections(found, views, cut, rule=rule, threshold=0.25)
    rows = [found.boxes.tolist().index(box) for box in once.boxes.tolist()]
    twice = merge_detections(once, views[rows], cut[rows], rule=rule, threshold=0.25)
    assert np.array_equal(twice.boxes, once.boxes) and np.array_equal(twice.scores, once.scores)


def test_merge__nothing() -> None:
    for rule in RULES:
        assert len(merged([], rule)) == 0


@pytest.mark.parametrize("links", [3, 60, 300])
def test_merge__a_chain_is_resolved_box_by_box(links: int) -> None:
    """Also one of more links than there are rounds for all boxes at once."""
    rows: list[Row] = [
        ((4.0 * index, 0.0, 4.0 * index + 10, 10.0), 1 - index / 500, 0, index % 2) for index in range(links)
    ]
    assert merged(rows, threshold=0.3).boxes[:, 0].tolist() == [
        8.0 * index for index in range(-(-links // 2))
    ]


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_near_pairs__finds_each_overlapping_pair_once(chunk: int) -> None:
    found, _, _ = scattered_detections(5, 150, 100.0)
    boxes, labels = found.boxes.astype(np.float64), found.labels
    for threshold in (0.0, 0.3):
        pairs = [
            (min(pair), max(pair))
            for first, second in near_pairs(
                boxes, labels, threshold, reaching_N=np.zeros(150, np.bool_), chunk=chunk
            )
            for pair in zip(first.tolist(), second.tolist(), strict=True)
        ]
        assert len(pairs) == len(set(pairs))
        assert all(labels[one] == labels[other] for one, other in pairs)
        wanted = np.argwhere(np.triu(iou_of(boxes) > threshold, 1) & (labels[:, None] == labels))
        assert {(one, other) for one, other in wanted.tolist()} <= set(pairs)


def test_merge__100_000_boxes_take_little_memory() -> None:
    found, views, cut = scattered_detections(0, 100_000, 15_000.0, views=60)
    tracemalloc.start()
    try:
        merge_detections(found, views, cut, rule="fragment", threshold=0.25)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("window", "left"), [([0, 0], 2), ([0, 1], 1)])
def test_merge__neighbours_in_a_mirror_image_stay(window: list[int], left: int) -> None:
    """Boxes with an IoU of 1/3: of two tiles they are one object, of a view and its mirror image two."""
    found = make_instances(torch.tensor([A, HALF]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    merged_, _ = merge_with_masks(
        found,
        np.array([0, 1]),
        np.zeros((2, 4), np.bool_),
        window_N=np.array(window),
        scale_N=np.ones(2),
        rule="fragment",
        threshold=0.25,
    )
    assert len(merged_) == left
