from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.data.ground_truth import class_map, parse_label


def annotation(class_id: Any = 0, *box: Any) -> dict[str, Any]:
    sides = ("left", "top", "width", "height")
    return {"class_id": class_id, **dict(zip(sides, box or (1, 2, 10, 20), strict=True))}


def test_parse_label__as_ground_truth_writes_it() -> None:
    found, size, _ = parse_label(
        {
            "image_size": [{"width": 500, "height": 400, "depth": 3}],
            "annotations": [annotation(0, 111, 134, 61, 128), annotation("5", 161.5, 250, 30, 30)],
        }
    )
    assert found.boxes.tolist() == [[111, 134, 172, 262], [161.5, 250, 191.5, 280]]
    assert found.labels.tolist() == [0, 5] and found.ignored.tolist() == [False, False] and size == (500, 400)
    assert (found.boxes.dtype.name, found.labels.dtype.name) == ("float32", "int64")


def test_parse_label__empty() -> None:
    found, size, _ = parse_label({"annotations": []})
    assert found.boxes.shape == (0, 4) and found.labels.shape == (0,) and size is None


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({}, "the key 'annotations' is missing"),
        ([], "it is [] (list), not an object with annotations"),
        ({"annotations": 3}, "annotations is 3 (number), not a list"),
        ({"annotations": [annotation(), {"class_id": 0, "left": 3}]}, "annotations[1]: the key 'top' is"),
        ({"annotations": [annotation("dog")]}, 'annotations[0]: class_id "dog" (text) is not 0, 1, 2, …'),
        ({"annotations": [annotation(-1)]}, "annotations[0]: class_id -1 (number) is not 0, 1, 2, …"),
        ({"annotations": [annotation("0.5")]}, 'annotations[0]: class_id "0.5" (text) is not 0, 1, 2, …'),
        (
            {"annotations": [annotation(2**31)]},
            "annotations[0]: class_id 2147483648 (number) is not",
        ),
        (
            {"annotations": [annotation(float("nan"))]},
            "annotations[0]: class_id NaN (number) is not 0",
        ),
        ({"annotations": [annotation(0, 1, 2, True, 3)]}, "annotations[0]: its width is true (true"),
        ({"annotations": [annotation(0, 10**400, 2, 3, 3)]}, "annotations[0]: its left is 1000000"),
        (
            {"annotations": [], "image_size": [{"width": 3}]},
            'image_size is [{"width": 3}] (list), without width and height in pixels',
        ),
        (
            {"annotations": [], "image_size": [{"width": 1e999, "height": 3}]},
            'image_size is [{"width": Infinity',
        ),
    ],
)
def test_parse_label__what_is_wrong_is_named(label: Any, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_label(label)
    assert str(error.value).startswith(reason)


def test_class_map__ids_are_texts() -> None:
    metadata = {"class-map": {"0": "dog", "5": "bone"}, "type": "groundtruth/object-detection"}
    assert class_map(metadata) == {0: "dog", 5: "bone"}


@pytest.mark.parametrize(
    "metadata", [None, 3, {}, {"class-map": {}}, {"class-map": [1]}, {"class-map": {"x": "y"}}]
)
def test_class_map__none(metadata: Any) -> None:
    assert class_map(metadata) == {}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["annotations", "image_size"]),
        _JSON | st.lists(st.dictionaries(st.sampled_from([*annotation(), "depth"]), _JSON), max_size=3),
    )
)
def test_parse_label__anything(label: dict[str, Any]) -> None:
    try:
        found = parse_label(label).targets
    except ValueError:
        return
    assert found.boxes.shape == (len(found), 4) and (found.labels >= 0).all()


@settings(deadline=None)
@given(_JSON | st.fixed_dictionaries({"class-map": _JSON}))
def test_class_map__anything(metadata: Any) -> None:
    assert all(number >= 0 for number in class_map(metadata))
