from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.arrays import Array
from tilewise.data.annotations import RawExample
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.plausibility import spelt_alike
from tilewise.errors import UserError
from tilewise.targets import Targets

Box = tuple[float, float, float, float]


def examples(folder: Path, boxes: list[list[Box]], fractions: bool = False) -> list[RawExample]:
    """Images of 40 x 30 pixels, one for each list of boxes."""
    made = []
    for number, rows in enumerate(boxes):
        path = folder / f"{number}.png"
        Image.new("L", (40, 30)).save(path)
        labels = np.zeros(len(rows), np.int64)
        targets: Targets[Array] = Targets(
            np.asarray(rows, np.float32).reshape(-1, 4), labels, labels.astype(np.bool_)
        )
        made.append(RawExample(path.name, path, None, targets, fractions=fractions))
    return made


def different(count: int) -> list[Box]:
    return [(number, number / 2, number + 10, number / 2 + 9) for number in range(count)]


def test_fractions__where_pixels_are_expected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = make_records(
        examples(tmp_path, [[(0.1, 0.2, 0.5, 0.5)], [(0, 0, 1.001, 0.3)], []]), ChannelIssues("train")
    )
    np.testing.assert_allclose(records.targets.boxes, [[4, 6, 20, 15], [0, 0, 40, 9]], rtol=1e-6)
    assert "all 2 boxes lie between 0 and 1: they are read as fractions" in caplog.text


def test_fractions__one_box_in_pixels_leaves_them_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9 of 10 boxes are less than a pixel wide or high: give all of"):
        make_records(
            examples(tmp_path, [[(0.1, 0.1, 0.2 + number / 20, 0.5) for number in range(9)], [(3, 3, 9, 9)]]),
            ChannelIssues("train"),
        )


def test_fractions__whole_numbers_are_pixels(tmp_path: Path) -> None:
    records = make_records(examples(tmp_path, [[(0, 0, 1, 1)]]), ChannelIssues("train"))
    assert records.targets.boxes.tolist() == [[0, 0, 1, 1]]


def test_boxes__most_of_which_reach_beyond_their_image_are_refused(tmp_path: Path) -> None:
    """As COCO's are where corners stand for widths and heights."""
    beyond: list[Box] = [(20 + number, 10, 50 + number, 25) for number in range(9)]
    with pytest.raises(UserError, match="9 of 12 boxes reach beyond their image: they are probably of"):
        make_records(examples(tmp_path, [beyond, different(3)]), ChannelIssues("train"))


@pytest.mark.parametrize(
    ("boxes", "doubt"),
    [
        ([different(9), [(5, 5, 5.5, 9)]], "1 of 10 boxes are less than a pixel wide or high: are they in"),
        ([different(8), [(30, 20, 60, 50), (35, 25, 60, 50)]], "2 of 10 boxes reach beyond their image"),
        ([[(5, 5, 9, 9)]] * 8, "8 of 8 boxes are at the very same place of their images"),
    ],
)
def test_doubts__are_warned_of(
    tmp_path: Path, boxes: list[list[Box]], doubt: str, caplog: pytest.LogCaptureFixture
) -> None:
    issues = ChannelIssues("train")
    make_records(examples(tmp_path, boxes), issues)
    assert len(issues.doubts) == 1 and issues.doubts[0].startswith(doubt)
    assert f"channel train: {issues.doubts[0]}" in caplog.messages


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("train/images", "valid/images"), "train, valid"),
        (("Train", "test", "val2017", "other"), "Train, test, val2017"),
        (("train/images", "train/more"), None),
        (("val", "valid"), None),
        (("plate", "test"), None),
        (("images/train", "images/val"), "train, val"),
        (("train/plate", "val/plate"), "train, val"),
    ],
)
def test_splits__of_an_export_in_one_channel(
    tmp_path: Path, folders: tuple[str, ...], named: str | None
) -> None:
    issues = ChannelIssues("train")
    parsed = examples(tmp_path, [different(2)] * len(folders))
    keyed = [
        replace(example, key=f"{folder}/{example.key}")
        for folder, example in zip(folders, parsed, strict=True)
    ]
    make_records(keyed, issues)
    assert [doubt.split(":")[0] for doubt in issues.doubts] == (
        [f"its images lie in the folders {named}, and all of them count as this channel's"] if named else []
    )


def test_doubts__none(tmp_path: Path) -> None:
    issues = ChannelIssues("train")
    make_records(examples(tmp_path, [different(20), different(10)]), issues)
    assert issues.doubts == []


def test_limit__of_boxes(tmp_path: Path) -> None:
    def read(bad: int) -> ChannelIssues:
        outside = [(50.0 + number, 5.0, 60.0, 9.0) for number in range(bad)]
        issues = ChannelIssues("train")
        make_records(examples(tmp_path, [different(20), [*different(20), *outside]]), issues)
        return issues

    assert len(read(2).dropped) == 2
    with pytest.raises(UserError, match="channel train: 3 of 43 boxes cannot be used, more than 5%; fix or"):
        read(3)


def test_limit__corners_for_sizes_are_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 of 3 boxes cannot be used, more than 5% \(are they x, y, width"):
        make_records(
            examples(tmp_path, [[(30, 20, 10, 9), (20, 20, 10, 9), (25, 20, 7, 9)]]), ChannelIssues("train")
        )


def test_image__that_lost_all_its_boxes_is_left_out(tmp_path: Path) -> None:
    issues = ChannelIssues("train")
    records = make_records(examples(tmp_path, [[(50, 5, 60, 9)], [], *[different(1)] * 20]), issues)
    assert records[0].key == "1.png" and len(records) == 21
    assert issues.left_out == {
        "0.png": "none of its boxes can be used: the box from (50, 5) to (60, 9) lies outside the image"
    }


def test_repeated__boxes_count_once(tmp_path: Path) -> None:
    issues = ChannelIssues("train")
    records = make_records(examples(tmp_path, [different(3) * 3]), issues)
    assert len(records.targets) == 3 and issues.repeated == 6 == len(issues.dropped)
    assert (
        issues.dropped[0] == "0.png: the box from (0, 0) to (10, 9) repeats another one of its image exactly"
    )


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("car", "Car", "car ", "bus"), ["'car', 'Car', 'car '"]),
        (
            ("traffic light", "traffic_light", "Traffic-Light"),
            ["'traffic light', 'traffic_light', 'Traffic-Light'"],
        ),
        (("größe", "gro\u0308ße"), ["'größe', 'gro\u0308ße'"]),
        (("c", "c++", "-", "_", "1", "10"), []),
    ],
)
def test_names__spelt_alike(names: tuple[str, ...], groups: list[str]) -> None:
    assert [each.split("the classes ")[1].split(" differ")[0] for each in spelt_alike(names)] == groups
