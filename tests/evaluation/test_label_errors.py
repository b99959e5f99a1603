from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_instances import make_instances
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.evaluation.label_errors import LabelError, label_errors
from tilewise.instances import Instances
from tilewise.targets import Targets

A, B, C = (10, 10, 30, 30), (50, 50, 70, 70), (80, 10, 100, 30)
A_MOVED = (20, 10, 40, 30)  # IoU with A: 1 / 3
Found = tuple[tuple[int, int, int, int], float, int]


def errors_of(
    truth: Sequence[tuple[tuple[int, int, int, int], int]],
    found: Sequence[Found],
    ignored: Sequence[bool] | None = None,
) -> list[LabelError]:
    boxes = np.array([box for box, _ in truth], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label in truth], np.int64)
    are_ignored = np.array(ignored or [False] * len(truth), np.bool_)
    targets: Targets[Array] = Targets(boxes, labels, are_ignored)
    detections = make_instances(
        [box for box, _, _ in found], [score for _, score, _ in found], [label for *_, label in found]
    )
    return label_errors(Records([Record("a.png", Path("a.png"), 120, 90, targets)]), [detections])


RIGHT: list[Found] = [(A, 0.9, 0), (B, 0.8, 1)]


def test_errors__of_right_labels_are_none() -> None:
    assert errors_of([(A, 0), (B, 1)], RIGHT) == []


def test_errors__an_object_without_a_box() -> None:
    (error,) = errors_of([(A, 0)], RIGHT)
    assert (error.kind, error.found_label, error.box) == ("no box", 1, None)
    assert error.found is not None and error.found.tolist() == list(B)
    assert error.suspicion == error.score == pytest.approx(0.8)


def test_errors__an_object_without_a_box_is_listed_once() -> None:
    nearly = (51, 50, 71, 70)
    (error,) = errors_of([(A, 0)], [*RIGHT, (nearly, 0.3, 0)])
    assert error.found is not None and error.found.tolist() == list(B)


def test_errors__a_box_with_nothing_in_it() -> None:
    """The model is usually sure of an object of this size with 0.8, the median of 0.9, 0.8 and 0."""
    (error,) = errors_of([(A, 0), (B, 1), (C, 0)], RIGHT)
    assert (error.kind, error.label, error.found) == ("nothing there", 0, None)
    assert error.box is not None and error.box.tolist() == list(C)
    assert error.suspicion == pytest.approx(0.8)


def test_errors__a_box_the_model_seldom_finds_is_none() -> None:
    assert errors_of([(A, 0), (B, 1), (C, 0)], [(A, 0.9, 0)]) == []


def test_errors__another_class() -> None:
    (error,) = errors_of([(A, 0), (B, 0)], RIGHT)
    assert (error.kind, error.label, error.found_label) == ("other class", 0, 1)
    assert error.suspicion == pytest.approx(0.8)
    (less,) = errors_of([(A, 0), (B, 0)], [*RIGHT, (B, 0.5, 0)])
    assert less.suspicion == pytest.approx(0.3), "its own class was found, too"


def test_errors__another_place() -> None:
    (error,) = errors_of([(A_MOVED, 0), (B, 1)], RIGHT)
    assert (error.kind, error.label) == ("other place", 0)
    assert error.found is not None and error.found.tolist() == list(A)
    assert error.suspicion == pytest.approx(0.9 * 2 / 3)


def test_errors__what_is_found_nearby_may_be_another_objects() -> None:
    """A second box, beside A and with nothing in it: the detection is A's."""
    errors = errors_of([(A, 0), (A_MOVED, 0), (B, 1)], RIGHT)
    assert [error.kind for error in errors] == ["nothing there"]


def test_errors__ignored_objects_are_not_suspected_nor_what_lies_on_them() -> None:
    assert errors_of([(A, 0), (B, 1), (C, 0)], RIGHT, [False, True, True]) == []


def test_errors__what_lies_in_a_crowd_is_not_missing_a_box() -> None:
    crowd, beside = (40, 0, 120, 90), (30, 50, 45, 65)
    found: list[Found] = [(A, 0.9, 0), (B, 0.8, 1), (C, 0.7, 0), (beside, 0.6, 1)]
    (error,) = errors_of([(A, 0), (crowd, 0)], found, [False, True])
    assert error.found is not None and error.found.tolist() == list(beside), "a third of it lies in the crowd"


def test_errors__the_most_suspicious_first_and_nothing_of_nothing() -> None:
    errors = errors_of([(A, 0)], [(A, 0.9, 1), (B, 0.95, 0), (C, 0.2, 0)])
    assert [error.kind for error in errors] == ["no box", "other class", "no box"]
    assert errors_of([], []) == []
    assert errors_of([(A, 0)], []) == [], "a model that finds nothing says nothing"


def test_errors__a_missed_box_is_as_suspicious_as_objects_of_its_size_are_usually_found() -> None:
    small, large = ([(x, y, x + side, y + side) for x in range(5) for y in range(12)] for side in (10, 40))
    boxes = np.array([*small, *large], np.float32)
    scores = [0.3] * len(small) + [0.9] * len(large)
    scores[0] = scores[-1] = 0.0
    records = Records(
        Record(
            f"{number}.png",
            Path("a.png"),
            120,
            90,
            Targets(box[None], np.zeros(1, np.int64), np.zeros(1, np.bool_)),
        )
        for number, box in enumerate(boxes)
    )
    found = [make_instances([box], [score], [0]) for box, score in zip([*small, *large], scores, strict=True)]
    errors = label_errors(records, found)
    assert [error.record for error in errors] == [len(boxes) - 1, 0]
    assert [error.suspicion for error in errors] == pytest.approx([0.9, 0.3])


def test_errors__of_ten_thousand_objects_in_an_image_take_little_memory() -> None:
    """All detections beside all objects would take 800 MB."""
    corners = 30.0 * np.stack(np.meshgrid(np.arange(100), np.arange(100)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
    found = Instances(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64))
    labelled = np.arange(len(boxes)) != 77
    moved = boxes.copy()
    moved[5000] += 10  # IoU 1 / 7: another place altogether
    targets = Targets(moved[labelled], np.zeros(len(boxes) - 1, np.int64), np.zeros(len(boxes) - 1, np.bool_))
    records = Records([Record("a.png", Path("a.png"), 3000, 3000, targets)])
    tracemalloc.start()
    errors = label_errors(records, [found])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found_boxes = [error.found.tolist() for error in errors if error.found is not None]
    assert sorted(error.kind for error in errors) == ["no box", "no box", "nothing there"]
    assert sorted(found_boxes) == sorted([boxes[77].tolist(), boxes[5000].tolist()])
    assert peak < 100e6
