from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.data.annotations import RawExample
from tilewise.data.channel_issues import MAX_WARNINGS, ChannelIssues
from tilewise.data.checks import make_records
from tilewise.errors import UserError
from tilewise.targets import Targets

NAN, INF = float("nan"), float("inf")
ORIENTATION = 0x0112


def write_image(path: Path, width: int = 40, height: int = 30, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)
    return path


def example(path: Path | None, *boxes: tuple[float, ...], size: tuple[int, int] | None = None) -> RawExample:
    return RawExample(
        key=path.name if path else "missing.jpg",
        path=path,
        size=size,
        targets=Targets(
            np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
            np.arange(len(boxes)),
            np.arange(len(boxes)) % 2 == 1,
        ),
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "a.jpg")


@pytest.fixture
def fine(tmp_path: Path) -> list[RawExample]:
    """One image more than it takes for a single damaged one to be tolerated."""
    return [example(write_image(tmp_path / f"fine{number}.jpg")) for number in range(20)]


def test_make_records__all_fields(image: Path) -> None:
    issues = ChannelIssues("train")
    records = make_records([example(image, (1, 2, 11, 22), (0, 0, 40, 30), size=(40, 30))], issues)
    (one,) = records
    assert (one.key, one.path, one.width, one.height) == ("a.jpg", image, 40, 30)
    assert one.targets.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 40, 30]]
    assert one.targets.labels.tolist() == [0, 1] and one.targets.ignored.tolist() == [False, True]


def test_make_records__image_without_objects(image: Path) -> None:
    assert make_records([example(image)], ChannelIssues("train"))[0].targets.boxes.shape == (0, 4)


def test_make_records__reads_no_pixels(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-20])
    assert len(make_records([example(image)], ChannelIssues("train"))) == 1


def test_boxes__clipped_and_counted(image: Path, caplog: pytest.LogCaptureFixture) -> None:
    issues = ChannelIssues("train")
    rows = [(-5, -6, 10, 10), (30, 20, 100, 90), (-0.4, 0, 40.4, 30), (5, 5, 6, 6)]
    (one,) = make_records([example(image, *rows)], issues)
    assert one.targets.boxes.tolist() == [[0, 0, 10, 10], [30, 20, 40, 30], [0, 0, 40, 30], [5, 5, 6, 6]]
    assert issues.clipped == 2  # less than half a pixel is rounding
    assert issues.clipped == 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((50, 5, 60, 10), "the box from (50, 5) to (60, 10) lies outside the image"),
        ((-9, 5, 0, 10), "the box from (-9, 5) to (0, 10) lies outside the image"),
        ((5, 5, 5, 10), "the box from (5, 5) to (5, 10) has no area"),
        ((5, 10, 9, 3), "the box from (5, 10) to (9, 3) has no area: it ends before it begins"),
        ((9, 9, 3, 3), "the box from (9, 9) to (3, 3) has no area: it ends before it begins"),
        ((NAN, 1, 9, 9), "the box from (nan, 1) to (9, 9) is not finite"),
        ((1, 1, INF, 9), "the box from (1, 1) to (inf, 9) is not finite"),
        ((-INF, -INF, INF, INF), "the box from (-inf, -inf) to (inf, inf) is not finite"),
    ],
)
def test_boxes__dropped_and_named(
    image: Path, box: tuple[float, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    issues = ChannelIssues("train")
    (one,) = make_records([example(image, (1, 1, 9, 9), box, (2, 2, 8, 8))], issues)
    assert one.targets.boxes.tolist() == [[1, 1, 9, 9], [2, 2, 8, 8]]
    assert one.targets.labels.tolist() == [0, 2] and one.targets.ignored.tolist() == [False, False]
    assert issues.dropped == [f"a.jpg: {reason}"]
    assert issues.dropped == [f"a.jpg: {reason}"]
    assert caplog.messages == [f"channel train: a.jpg: {reason}; it is dropped"]


def test_boxes__many_dropped_are_counted(image: Path, caplog: pytest.LogCaptureFixture) -> None:
    issues = ChannelIssues("train")
    fine = [(0.01 * number, 0.0, 20.0, 20.0) for number in range(1000)]
    make_records([example(image, *fine * 3, *[(5.0, 5.0, 5.0, 5.0)] * 120)], issues)
    assert len(issues.dropped) == 120 and issues.boxes == 3120
    assert len(caplog.messages) == MAX_WARNINGS
    assert caplog.messages[-1].endswith("further ones are only counted")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size__of_the_upright_image(tmp_path: Path, fine: list[RawExample], orientation: int) -> None:
    file = write_image(tmp_path / "turned.jpg", 40, 30, orientation)
    upright, stored = ((30, 40), (40, 30)) if orientation >= 5 else ((40, 30), (30, 40))
    records = make_records([example(file, (0, 0, 99, 99), size=upright)], ChannelIssues("train"))
    assert (records[0].width, records[0].height) == upright
    assert records[0].targets.boxes.tolist() == [[0, 0, *upright]]
    issues = ChannelIssues("train")
    assert len(make_records([example(file, size=stored), *fine], issues)) == len(fine)
    turned = "(turned upright as its EXIF says) " if orientation > 1 else ""
    assert issues.left_out["turned.jpg"] == (
        f"its annotation says {stored[0]} x {stored[1]} pixels, but the image {turned}"
        f"has {upright[0]} x {upright[1]}"
    )


def test_left_out__every_reason(tmp_path: Path, fine: list[RawExample]) -> None:
    damaged, folder = tmp_path / "damaged.jpg", tmp_path / "folder.jpg"
    damaged.write_bytes(b"not a picture")
    folder.mkdir()
    problem = replace(example(None), key="b.json", problem="not valid JSON")
    bad = [example(None), example(damaged), example(folder), problem]
    issues = ChannelIssues("train")
    assert len(make_records(fine * 5 + bad, issues)) == 100
    assert issues.left_out == {
        "missing.jpg": "its image file is not in the channel",
        "damaged.jpg": "these bytes are not an image in a known format",
        "folder.jpg": "the file cannot be read: Is a directory",
        "b.json": "not valid JSON",
    }
    assert (issues.images, len(issues.left_out)) == (104, 4)


def test_left_out__order_of_the_rest(fine: list[RawExample]) -> None:
    records = make_records([*fine[:7], example(None), *fine[7:]], ChannelIssues("train"))
    assert [record.key for record in records] == [one.key for one in fine]


def test_left_out__more_than_five_percent(fine: list[RawExample], caplog: pytest.LogCaptureFixture) -> None:
    def missing(number: int) -> RawExample:
        return replace(example(None), key=f"missing{number}.jpg")

    assert len(make_records([*fine[:19], missing(0)], ChannelIssues("train"))) == 19
    with pytest.raises(UserError) as error:
        make_records([*fine, *map(missing, range(5))], ChannelIssues("train"))
    reason = "its image file is not in the channel"
    assert str(error.value) == (
        "channel train: 5 of 25 images cannot be used, more than 5%; fix or remove them, starting with: "
        f"missing0.jpg: {reason}; missing1.jpg: {reason}; missing2.jpg: {reason}"
    )
    assert sum("is left out" in message for message in caplog.messages) == 6


def test_make_records__nothing_there() -> None:
    with pytest.raises(UserError, match="channel train holds no image that can be used"):
        make_records([], ChannelIssues("train"))
