from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilewise.data.ground_truth import class_map, parse_label

# The developer guide's example of a bounding box job's output, its class ids sparse.
GROUND_TRUTH: dict[str, Any] = {
    "image_size": [{"width": 500, "height": 400, "depth": 3}],
    "annotations": [
        {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128},
        {"class_id": "5", "left": 161, "top": 250, "width": 30, "height": 30},
    ],
}
METADATA = {
    "objects": [{"confidence": 0.8}, {"confidence": 0.9}],
    "class-map": {"0": "dog", "5": "bone"},
    "type": "groundtruth/object-detection",
    "human-annotated": "yes",
    "creation-date": "2018-10-18T22:18:13.527256",
    "job-name": "identify-dogs-and-toys",
}


def test_parse_label__ground_truths_own_example() -> None:
    boxes, ids, size = parse_label(GROUND_TRUTH)
    assert boxes.dtype == np.float32 and boxes.tolist() == [[111, 134, 172, 262], [161, 250, 191, 280]]
    assert ids.dtype == np.int64 and ids.tolist() == [0, 5]
    assert size == (500, 400)


def test_parse_label__nothing_in_the_image() -> None:
    boxes, ids, size = parse_label({"annotations": [], "image_size": []})
    assert boxes.shape == (0, 4) and ids.shape == (0,) and size is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "the key 'annotations' is missing"),
        ({"annotations": [{"class_id": 0, "left": 1, "top": 1, "width": 1}]}, "the key 'height' is missing"),
        (
            {"annotations": [{**GROUND_TRUTH["annotations"][0], "class_id": "dog"}]},
            "class_id dog is not 0",
        ),
        ({"annotations": [{**GROUND_TRUTH["annotations"][0], "class_id": 1e30}]}, "class_id 1e+30 is not 0"),
        ({"annotations": [], "image_size": "3x4"}, "string indices must be integers"),
    ],
)
def test_parse_label__another_form(content: Any, words: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_label(content)
    assert str(error.value).startswith(words)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(annotations=JSON, size=JSON, box=JSON)
def test_parse_label__any_json(annotations: Any, size: Any, box: Any) -> None:
    one = {"class_id": box, "left": box, "top": 0, "width": box, "height": 1}
    for content in ({"annotations": annotations, "image_size": size}, {"annotations": [one]}):
        try:
            boxes, ids, _ = parse_label(content)
        except ValueError:
            continue
        assert len(boxes) == len(ids)


def test_class_map__of_the_metadata() -> None:
    assert class_map(METADATA) == {0: "dog", 5: "bone"}


@pytest.mark.parametrize("metadata", [None, 3, [], {}, {"class-map": ["dog"]}, {"class-map": {"x": "dog"}}])
def test_class_map__none_there(metadata: Any) -> None:
    assert class_map(metadata) == {}
