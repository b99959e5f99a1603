from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_channel import ManifestChannel as Channel
from manifest_channel import annotation, line, without_credentials
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.files.folder import Folder
from tilewise.data.formats.manifest import read_manifest
from tilewise.errors import UserError

DOG, BONE = {"0": "dog"}, {"5": "bone"}


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    return without_credentials(tmp_path, monkeypatch)


def test_read__beside_the_manifest_that_the_labelling_job_read(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.jpg"):
        channel.image(name)
    given = [{"source-ref": f"s3://bucket/some/where/{name}"} for name in ("a.jpg", "b.jpg")]
    channel.manifest(*given, name="input.manifest")
    channel.manifest(line("a.jpg", annotation()), line("b.jpg", annotation()))
    with caplog.at_level(logging.INFO):
        found = channel.read()
    assert [(example.problem, len(example.targets)) for example in found.examples] == [("", 1)] * 2
    assert "input.manifest has no labels, as the input of a labelling job has none" in caplog.text
    assert "are read as one" not in caplog.text


def test_read__as_ground_truth_writes_it(channel: Channel) -> None:
    paths = [channel.image(name) for name in ("a.jpg", "b.png", "c.jpg")]
    channel.manifest(
        line("a.jpg", annotation(0, 11, 13, 6, 8), annotation(5, 16, 2, 7, 9), names=DOG | BONE),
        line("b.png", annotation("5"), names=BONE),
        line("c.jpg", names={}),
    )
    found = channel.read()
    assert found.classes == ("dog", "bone") and found.ids == (0, 5)
    first, second, third = found.examples
    assert [example.path for example in found.examples] == paths
    assert first.key == "some/where/a.jpg (output.manifest line 1)"
    assert first.targets.boxes.tolist() == [[11, 13, 17, 21], [16, 2, 23, 11]] and first.size == (40, 30)
    assert first.targets.labels.tolist() == [0, 1] and first.targets.ignored.tolist() == [False, False]
    assert second.targets.labels.tolist() == [1] and second.problem == ""
    assert third.targets.boxes.shape == (0, 4) and third.problem == ""


def test_read__a_box_without_a_coordinate_is_dropped(channel: Channel) -> None:
    channel.image("a.jpg")
    without = annotation(0, 11, 13, 6, 8) | {"width": None}
    channel.manifest(line("a.jpg", without, annotation(5, 16, 2, 7, 9), names=DOG | BONE))
    (example,) = channel.read().examples
    assert (example.problem, example.targets.boxes.tolist()) == ("", [[16, 2, 23, 11]])
    assert example.unread == ("annotations[0]: its width is null, not a number",)


@pytest.mark.parametrize("name", ["output.manifest", "train.jsonl", "train.json", "deep/er/OUTPUT.MANIFEST"])
@pytest.mark.parametrize(
    "content_type", ["", "application/jsonlines", "application/x-recordio", "image/jpeg"]
)
def test_channel__recognises_it(channel: Channel, name: str, content_type: str) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation(), names=DOG), name=name)
    channel.content_type = content_type
    assert channel.data().classes == ("dog",)


def test_channel__in_the_annotation_channel(channel: Channel, tmp_path: Path) -> None:
    path = channel.image("a.jpg")
    channel.annotations = tmp_path / "labels"
    channel.manifest(line("a.jpg", annotation()), name="a.json")  # and like an image's own file
    assert channel.only().path == path


def test_channel__large_and_with_keys_like_cocos(channel: Channel) -> None:
    lines = [line(f"{number}.jpg", image_id=number, file_name="x") for number in range(1500)]
    path = channel.manifest(*lines, name="train.json")
    assert path.stat().st_size > 200_000
    channel.image("a.jpg")
    assert "its image" not in channel.message() and "output" not in channel.message()
    assert "train.json: 1500 images are not in the channel" in channel.message()


@pytest.mark.parametrize(
    ("on_disk", "source"),
    [
        ("a.jpg", "s3://bucket/a.jpg"),
        ("x/y/a.jpg", "s3://bucket/x/y/a.jpg"),
        ("y/a.jpg", "s3://bucket/x/y/a.jpg"),
        ("images/a.jpg", "s3://bucket/x/y/a.jpg"),
        ("elsewhere/a.jpg", "s3://bucket/x/y/a.jpg"),
        ("mit Raum/größe 木.JPG", "s3://bucket/mit Raum/größe 木.JPG"),
        ("a.jpg", "a.jpg"),
        ("a.jpg", "/home/me/a.jpg"),
    ],
)
def test_image__beside_the_manifest(channel: Channel, on_disk: str, source: str) -> None:
    path = channel.image(on_disk)
    channel.manifest({**line("x"), "source-ref": source})
    assert channel.only().path == path


def test_image__address_with_half_a_character(channel: Channel) -> None:
    path = channel.image("a.jpg")
    channel.manifest({**line("x"), "source-ref": "s3://bucket/\ud800/a.jpg"})
    record = channel.data(1).train.sample[0]
    assert record.path == path and record.key == "\ud800/a.jpg (output.manifest line 1)"


def test_image__of_a_common_name_not_from_another_folder(channel: Channel) -> None:
    path = channel.image("camera1/0.jpg")
    lines = [line("camera1/0.jpg"), line("camera2/0.jpg")]
    channel.manifest(*lines)
    assert "1 images are not in the channel" in channel.message()
    channel.manifest(lines[0])
    assert channel.only().path == path


@pytest.mark.parametrize(
    "source",
    ["http://localhost/a.jpg", "https://bucket/a.jpg", "file:///etc/a.jpg", "../a.jpg", "s3://", "s3:///a"],
)
def test_image__is_fetched_from_nowhere_but_s3(channel: Channel, source: str) -> None:
    channel.image("../a.jpg")
    channel.manifest({**line("x"), "source-ref": source})
    assert channel.only().problem == f"its image {source} is not in the channel, or not only once, nor in S3"


def test_image__twice(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg"), line("b.jpg", names=DOG), line("a.jpg"))
    channel.image("b.jpg")
    assert channel.message() == (
        "some/where/a.jpg (output.manifest line 1) and some/where/a.jpg (output.manifest line 3) annotate "
        "the same image a.jpg: keep one, with all of its objects"
    )


def test_lines__other_line_ends_and_empty_ones(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.manifest("\ufeff" + json.dumps(line("a.jpg")), "", "  ", line("b.jpg"), end="\r\n")
    first, second = channel.read().examples
    assert first.key.endswith("line 1)") and second.key.endswith("line 4)")


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("{", "the line is not valid JSON: Expecting"),
        ("[" * 100_000, "the line is not valid JSON: maximum recursion"),
        (json.dumps(line("b.jpg")) + ",", "the line ends with a comma: write one JSON object a line"),
        ("3", "the line is not one JSON object, {…}"),
        ({"boxes": {"annotations": []}}, "its source-ref is null, not the address of an image"),
        ({**line("a.jpg"), "source-ref": 3}, "its source-ref is 3 (number), not the address"),
        (
            {"source": "aGFsbG8=", "boxes": {"annotations": []}},
            "it holds its image itself (source: aGFsbG8=)",
        ),
        (line("b.jpg", {"class_id": 1}), "its label boxes: annotations[0]: the key 'left' is missing"),
        (
            {**line("b.jpg"), "boxes": {"annotations": None}},
            "its label boxes: annotations is null",
        ),
        ({"source-ref": "s3://x/b.jpg"}, "it has no label boxes"),
        (
            {"source-ref": "s3://x/b.jpg", "boxes-metadata": {"failure-reason": "ClientError: too large"}},
            "it has no label boxes: ClientError: too large",
        ),
    ],
)
def test_lines__broken_ones_are_named(channel: Channel, broken: Any, problem: str) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.manifest(line("a.jpg"), broken)
    good, bad = channel.read().examples
    assert good.problem == "" and bad.problem.startswith(problem)
    assert bad.key.removesuffix(")").endswith("output.manifest line 2")


def test_lines__not_utf8(channel: Channel) -> None:
    channel.image("a.jpg")
    path = channel.manifest(line("a.jpg"))
    path.write_bytes(path.read_bytes() + b'{"source-ref": "\xe9.jpg"}\n')
    assert (
        channel.read().examples[1].problem
        == "the line is not UTF-8 text: invalid continuation byte at byte 16"
    )


def test_lines__failed_labelling_counts_towards_the_limit(channel: Channel) -> None:
    names = [f"{number}.jpg" for number in range(40)]
    for name in names:
        channel.image(name)
    failed = {"source-ref": "s3://bucket/39.jpg", "boxes-metadata": {"failure-reason": "no quorum"}}
    channel.manifest(*(line(name, annotation()) for name in names[:-1]), failed)
    data = channel.data()
    assert data.train.issues.left_out == {
        "39.jpg (output.manifest line 40)": "it has no label boxes: no quorum"
    }
    channel.manifest(*(line(name, annotation()) for name in names[:-10]), *[failed] * 10)
    assert channel.message().startswith("channel train: 10 of 40 images cannot be used")


def test_video(channel: Channel) -> None:
    channel.manifest({"source-ref": "s3://bucket/seq1.json", "boxes-ref": "s3://bucket/labels.json"})
    assert channel.message().startswith(
        "output.manifest line 1 is of a video: its source-ref s3://bucket/seq1.json names a sequence of"
    )


def test_images_in_the_lines(channel: Channel) -> None:
    channel.manifest(
        {**{key: value for key, value in line("x").items() if key != "source-ref"}, "source": "aGFsbG8="}
    )
    assert "output.manifest line 1: it holds its image itself (source: aGFsbG8=): write" in channel.message()


def test_label_attributes__several(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    label = {"annotations": [annotation(3)]}
    channel.manifest(line("a.jpg", more=label), line("b.jpg", more=label))
    assert channel.message() == (
        "channel train: output.manifest has several label attributes (boxes, more): say which to train on "
        "with the hyperparameter label_attribute, or keep one"
    )
    channel.image("c.jpg")
    channel.manifest(line("a.jpg", annotation(1), more=label), line("b.jpg"), line("c.jpg"))
    assert channel.read().used == {1}  # only boxes is in every line, and more in few of them


def test_label_attributes__none(channel: Channel) -> None:
    channel.manifest(
        {"source-ref": "s3://bucket/a.jpg", "animal": 3, "animal-metadata": {"class-name": "dog"}}
    )
    assert channel.message().startswith(
        "channel train: output.manifest has no label attribute, an object with a"
    )


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (
            {"0": "dog"},
            {"0": "cat"},
            "class id 0 is dog in {0} line 1, but cat in {0} line 2",
        ),
        (
            {"0": "dog"},
            {"1": "dog"},
            "dog is class id 0 in {0} line 1, but 1 in {0} line 2",
        ),
    ],
)
def test_class_map__conflict(channel: Channel, first: Any, second: Any, reason: str) -> None:
    channel.manifest(line("a.jpg", names=first), line("b.jpg", names=second))
    assert (
        channel.message()
        == f"channel train: output.manifest: {reason.format('output.manifest')}: make the class-map of all "
        "lines agree"
    )


def test_class_map__none(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation(2)))
    assert channel.read().classes is None and channel.data().classes == ("0", "1", "2")


def test_class_map__not_for_every_id(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation(0), annotation(1), names=DOG))
    assert channel.data().classes == ("dog", "1")


@pytest.mark.parametrize(
    ("count", "classes"), [(None, ("ant", "bee")), (2, ("ant", "bee")), (4, ("0", "ant", "2", "bee"))]
)
def test_class_map__fewer_classes_than_the_job_says(
    channel: Channel, count: int | None, classes: Any
) -> None:
    """The built-in algorithm trains on ids: a class that has no object is no mistake."""
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation(1), annotation(3), names={"3": "bee", "1": "ant"}))
    data = channel.data(count)
    assert data.classes == classes
    assert [classes[label] for label in data.train.sample[0].targets.labels] == ["ant", "bee"]


def test_class_map__validation_with_other_ids_or_no_objects(channel: Channel, tmp_path: Path) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation(0), annotation(5), names=DOG | BONE))
    other = Channel(tmp_path / "2")
    other.image("b.jpg")
    folders = {"train": ChannelFolder(channel.root), "validation": ChannelFolder(other.root)}
    other.manifest(line("b.jpg", annotation(2), names={"2": "bone"}))
    data = read_data_set(folders, 2, validates=True, seed=0)
    assert data.validation is not None and data.validation.sample[0].targets.labels.tolist() == [1]
    other.manifest(line("b.jpg"))
    data = read_data_set(folders, None, validates=True, seed=0)
    assert data.validation is not None and len(data.validation.sample[0].targets.labels) == 0


def test_channel__two_manifests_or_two_formats(channel: Channel) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg", annotation()))
    channel.manifest(line("a.jpg", annotation()), name="copy.jsonl")
    assert (
        "a.jpg (copy.jsonl line 1) and some/where/a.jpg (output.manifest line 1) annotate the same image"
        in channel.message()
    )
    (channel.root / "copy.jsonl").write_text('{"something": "else"}')
    (channel.root / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert channel.message() == (
        "channel train holds an augmented manifest (output.manifest) and COCO (coco.json): keep one format"
    )
    (channel.root / "coco.json").rename(channel.root / "a.json")
    (channel.root / "a.json").write_text('{"annotations": []}')
    assert channel.message() == (
        "channel train holds an augmented manifest (output.manifest) and images with one JSON file each "
        "(a.json): keep one format"
    )


@given(
    st.lists(
        st.binary(max_size=40)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            *annotation(),
                            "source-ref",
                            "boxes",
                            "boxes-metadata",
                            "class-map",
                            "annotations",
                            "source",
                        ]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, lines: list[bytes]) -> None:
    file = tmp_path / "a.manifest"
    file.write_bytes(b"\n".join(lines))
    try:
        read_manifest({file.name: file}, Folder(tmp_path), "train")
    except UserError:
        pass


def test_real_data__as_coco_has_it(channel: Channel, compare_with_coco: Callable[..., DataSet]) -> None:
    def write(images: Any, classes: list[str]) -> None:
        ids = {title: str(3 * index) for index, title in enumerate(classes)}
        lines = []
        for image, rows in images:
            label = {
                "annotations": [annotation(ids[title], *box) for title, box in rows],
                "image_size": [{"width": image["width"], "height": image["height"], "depth": 3}],
            }
            names = {"class-map": {ids[title]: title for title, _ in rows}}
            lines.append(
                {"source-ref": f"s3://b/x/{image['file_name']}", "boxes": label, "boxes-metadata": names}
            )
        channel.manifest(*lines)

    compare_with_coco(channel.root, write, exact=True)
