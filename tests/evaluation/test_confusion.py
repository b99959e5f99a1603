from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_instances import make_instances
from made_records import make_record
from reference_coco import pycocotools_evaluation
from tilewise.data.records import Record
from tilewise.evaluation.analysis import Scored, analyse
from tilewise.evaluation.confusion import FALSE_ALARM, NOT_COUNTED, confusion_matrix, match, outcome
from tilewise.instances import Instances

ANT, BEE, CAT = 0, 1, 2
CLASSES = ("ant", "bee", "cat")

LEFT = [0.0, 0, 10, 10]
ALMOST_LEFT = [0.0, 0, 10, 8]  # IoU 0.8
HALF_LEFT = [0.0, 0, 10, 5]  # IoU 0.5
LESS_LEFT = [0.0, 0, 10, 4]  # IoU 0.4
RIGHT = [50.0, 0, 60, 10]
FAR = [200.0, 200, 210, 210]


def found(*rows: tuple[list[float], float, int]) -> Instances:
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    labels = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    return make_instances(boxes, torch.tensor([row[1] for row in rows]), labels)


def matrix(record: Record, detections: Instances, threshold: float = 0.0) -> list[list[int]]:
    one = outcome(record, detections, match(record, detections), score_threshold=threshold)
    rows: list[list[int]] = confusion_matrix([(record, one)], 3).tolist()
    return rows


def cells(rows: list[list[int]]) -> dict[tuple[str, str], int]:
    """What is not 0: true class and found class, - for the background."""
    names = (*CLASSES, "-")
    return {(names[i], names[j]): count for i, row in enumerate(rows) for j, count in enumerate(row) if count}


@pytest.mark.parametrize(
    ("boxes", "labels", "rows", "expected"),
    [
        ([LEFT], [ANT], [(LEFT, 0.9, ANT)], {("ant", "ant"): 1}),
        ([LEFT], [ANT], [(HALF_LEFT, 0.9, ANT)], {("ant", "ant"): 1}),
        ([LEFT], [ANT], [(LESS_LEFT, 0.9, ANT)], {("ant", "-"): 1, ("-", "ant"): 1}),
        ([LEFT], [ANT], [(LEFT, 0.9, BEE)], {("ant", "bee"): 1}),
        ([LEFT], [ANT], [(LESS_LEFT, 0.9, BEE)], {("ant", "-"): 1, ("-", "bee"): 1}),
        ([LEFT], [ANT], [], {("ant", "-"): 1}),
        ([], [], [(LEFT, 0.9, CAT)], {("-", "cat"): 1}),
        ([], [], [], {}),
        # a second detection of the same object is a false positive, whatever its class
        ([LEFT], [ANT], [(LEFT, 0.9, ANT), (LEFT, 0.8, ANT)], {("ant", "ant"): 1, ("-", "ant"): 1}),
        ([LEFT], [ANT], [(LEFT, 0.9, BEE), (LEFT, 0.8, ANT)], {("ant", "ant"): 1, ("-", "bee"): 1}),
        # of two of the wrong class the better score stands for the object
        ([LEFT], [ANT], [(HALF_LEFT, 0.9, BEE), (LEFT, 0.8, CAT)], {("ant", "bee"): 1, ("-", "cat"): 1}),
        # two objects at the same place: each class finds its own
        (
            [LEFT, LEFT],
            [ANT, BEE],
            [(LEFT, 0.9, BEE), (LEFT, 0.8, ANT)],
            {("ant", "ant"): 1, ("bee", "bee"): 1},
        ),
        # the better score takes its best object, and the other one what is left
        (
            [LEFT, ALMOST_LEFT],
            [ANT, ANT],
            [(ALMOST_LEFT, 0.9, ANT), (ALMOST_LEFT, 0.8, ANT)],
            {("ant", "ant"): 2},
        ),
        (
            [LEFT, RIGHT, FAR],
            [ANT, BEE, CAT],
            [(LEFT, 0.9, ANT), (RIGHT, 0.8, CAT)],
            {("ant", "ant"): 1, ("bee", "cat"): 1, ("cat", "-"): 1},
        ),
    ],
)  # fmt: skip
def test_confusion__small_cases(
    boxes: list[list[float]],
    labels: list[int],
    rows: list[tuple[list[float], float, int]],
    expected: dict[tuple[str, str], int],
) -> None:
    assert cells(matrix(make_record(boxes, labels), found(*rows))) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], {}),  # not missed
        ([(LEFT, 0.9, ANT)], {}),  # not a false positive
        ([(ALMOST_LEFT, 0.9, ANT), (LEFT, 0.8, ANT), (HALF_LEFT, 0.7, ANT)], {}),  # a crowd hides many
        ([([1.0, 1, 3, 3], 0.9, ANT)], {}),  # what lies in it, however small
        ([([8.0, 0, 28, 10], 0.9, ANT)], {("-", "ant"): 1}),  # what lies mostly beside it
        ([(LEFT, 0.9, BEE)], {("-", "bee"): 1}),  # as in COCO, it excuses its own class
    ],
)
def test_ignored__is_neither_missed_nor_a_false_positive(
    rows: list[tuple[list[float], float, int]], expected: dict[tuple[str, str], int]
) -> None:
    assert cells(matrix(make_record([LEFT], [ANT], [1]), found(*rows))) == expected


def test_ignored__leaves_an_object_to_be_found() -> None:
    record = make_record([LEFT, LEFT], [ANT, ANT], [1, 0])
    detections = found((LEFT, 0.9, ANT), (LEFT, 0.8, ANT))
    assert match(record, detections).tolist() == [1, NOT_COUNTED]
    assert cells(matrix(record, detections)) == {("ant", "ant"): 1}


def test_threshold__leaves_out_what_has_a_lower_score() -> None:
    record = make_record([LEFT, RIGHT], [ANT, BEE])
    detections = found((LEFT, 0.9, BEE), (RIGHT, 0.5, BEE), (LEFT, 0.3, ANT), (FAR, 0.2, CAT))
    assert cells(matrix(record, detections)) == {
        ("ant", "ant"): 1,
        ("bee", "bee"): 1,
        ("-", "bee"): 1,
        ("-", "cat"): 1,
    }
    assert cells(matrix(record, detections, 0.5)) == {("ant", "bee"): 1, ("bee", "bee"): 1}
    assert cells(matrix(record, detections, 0.6)) == {("ant", "bee"): 1, ("bee", "-"): 1}


def test_outcome__counts_an_image() -> None:
    record = make_record([LEFT, RIGHT, FAR, LEFT], [ANT, BEE, CAT, CAT], [0, 0, 0, 1])
    detections = found((LEFT, 0.9, ANT), (RIGHT, 0.8, CAT), ([100.0, 100, 120, 120], 0.7, ANT))
    one = outcome(record, detections, match(record, detections), score_threshold=0.0)
    assert one.object_of.tolist() == [0, 1, FALSE_ALARM]
    assert one.missed.tolist() == [False, False, True, False]
    assert (one.hits, one.mistaken, one.false_positives) == (1, 1, 1)
    assert one.f1 == pytest.approx(2 / (3 + 3))  # three objects, three detections


def test_outcome__has_no_f1_where_there_is_nothing() -> None:
    empty, nothing = make_record([], []), found()
    assert outcome(empty, nothing, match(empty, nothing), score_threshold=0.5).f1 is None


def in_order(iou: np.ndarray, threshold: float) -> list[int]:
    """The rule, row by row."""
    free, taken = set(range(iou.shape[1])), []
    for row in iou:
        best = max(free, key=lambda column: row[column], default=None)
        if best is None or row[best] < threshold:
            taken.append(FALSE_ALARM)
        else:
            taken.append(best)
            free.discard(best)
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_match__is_that_of_one_detection_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (12, 2))
    objects = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
    beside = objects[rng.integers(12, size=30)] + rng.normal(0, 2, (30, 4))
    scores = np.sort(rng.random(30))[::-1]
    detections = found(*((box.tolist(), float(one), ANT) for box, one in zip(beside, scores, strict=True)))
    low = np.maximum(detections.boxes[:, None, :2], objects[None, :, :2]).astype(np.float64)
    high = np.minimum(detections.boxes[:, None, 2:], objects[None, :, 2:]).astype(np.float64)
    shared = np.clip(high - low, 0, None).prod(axis=2)
    boxes = detections.boxes.astype(np.float64)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    exact = objects.astype(np.float64)  # of a box that lies in two objects only rounding says which is best
    iou = shared / (areas[:, None] + (exact[:, 2:] - exact[:, :2]).prod(axis=1) - shared)
    which = match(make_record(objects.tolist(), [ANT] * 12), detections)
    assert which.tolist() == in_order(iou, 0.5)
    assert len(set(which[which >= 0].tolist())) == (which >= 0).sum() > 5


@pytest.mark.parametrize("seed", range(3))
def test_match__is_pycocotools_own(seed: int, random_scored: Callable[[int], Scored]) -> None:
    scored = random_scored(seed)
    evaluation = pycocotools_evaluation(scored.records, scored.detections, CLASSES, {"all": (0.0, 1e10)})
    theirs = {label: [0, 0, 0] for label in range(3)}  # hits, false positives, detections that do not count
    for one in evaluation.evalImgs:
        if one is not None:
            counted = ~one["dtIgnore"][0]
            hit = one["dtMatches"][0] > 0
            sums = theirs[one["category_id"]]
            for index, which in enumerate((hit & counted, ~hit & counted, ~counted)):
                sums[index] += int(which.sum())
    ours = {label: [0, 0, 0] for label in range(3)}
    for record, detections in zip(scored.records, scored.detections, strict=True):
        which, labels = match(record, detections), detections.labels
        for label in range(3):
            mine = which[labels == label]
            for index, number in enumerate(((mine >= 0).sum(), (mine == -1).sum(), (mine == -2).sum())):
                ours[label][index] += int(number)
    assert ours == theirs
    assert min(ours[0]) > 0


@pytest.mark.parametrize("seed", range(3))
def test_confusion__counts_each_object_and_each_detection_once(
    seed: int, random_scored: Callable[[int], Scored]
) -> None:
    scored = random_scored(seed)
    analysis = analyse(scored, CLASSES, {})
    counted = scored.records.targets.labels[~scored.records.targets.ignored]
    assert analysis.confusion[:-1].sum(axis=1).tolist() == np.bincount(counted, minlength=3).tolist()
    shown = sum(int((one.object_of != NOT_COUNTED).sum()) for one in analysis.outcomes)
    assert analysis.confusion[:, :-1].sum() == shown
    assert analysis.confusion[-1, -1] == 0
    assert sum(one.hits for one in analysis.outcomes) == analysis.confusion.diagonal().sum()
    rates = analysis.rates()
    assert rates["F1"] == pytest.approx(
        2 / (1 / (rates["precision"] or 0) + 1 / (rates["recall"] or 0)), abs=1e-5
    )
