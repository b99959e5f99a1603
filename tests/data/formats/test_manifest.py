from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from PIL import Image
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.folder import Folder
from tilewise.data.formats.manifest import read_manifest
from tilewise.errors import UserError
from written_channel import WrittenChannel

DOG, BONE = {"0": "dog"}, {"5": "bone"}


def annotation(class_id: Any = 0, *box: float) -> dict[str, Any]:
    return {
        "class_id": class_id,
        **dict(zip(("left", "top", "width", "height"), box or (1, 2, 10, 20), strict=True)),
    }


def line(name: str, *annotations: Any, names: Any = None, **more: Any) -> dict[str, Any]:
    """A line as Ground Truth writes it."""
    metadata = {
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "job-name": "labeling-job/x",
    }
    return {
        "source-ref": f"s3://bucket/some/where/{name}",
        "boxes": {"image_size": [{"width": 40, "height": 30, "depth": 3}], "annotations": list(annotations)},
        "boxes-metadata": metadata if names is None else {**metadata, "class-map": names},
        **more,
    }


class Channel(WrittenChannel):
    def manifest(self, *lines: Any, name: str = "output.manifest", end: str = "\n") -> Path:
        return self.lines(*lines, name=name, end=end)


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    return Channel(tmp_path)


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
        "the same image a.jpg: keep one"
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


class Bucket:
    """A bucket of a real S3 API on loopback."""

    def __init__(self, url: str) -> None:
        self.client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.client.create_bucket(Bucket="bucket")

    def put(self, key: str, path: Path) -> None:
        self.client.upload_file(str(path), "bucket", key)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    return Bucket(server)


def test_s3__images_are_fetched(channel: Channel, bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a.jpg", "x/mit Raum größe 木.PNG", "x/a.jpg", *(f"many/{number}.jpg" for number in range(40))]
    for shade, name in enumerate(names):
        path = channel.image("new.png")
        Image.new("L", (40, 30), shade).save(path, "PNG")
        bucket.put(f"some/where/{name}", path)
        path.unlink()
    local = channel.image("many/7.jpg")
    channel.manifest(*(line(name, annotation()) for name in names))
    with caplog.at_level(logging.INFO, "tilewise"):
        data = channel.data()
    assert "channel train: output.manifest: 42 images are fetched from S3" in caplog.messages
    assert not data.train.issues.left_out
    for shade, (name, record) in enumerate(zip(names, data.train.sample, strict=True)):
        assert record.key.startswith(f"some/where/{name} (output.manifest line ")
        if record.path != local:
            with Image.open(record.path) as image:
                assert image.getpixel((0, 0)) == shade
    assert data.train.sample[names.index("many/7.jpg")].path == local


def test_s3__what_is_not_there_is_left_out(channel: Channel, bucket: Bucket) -> None:
    bucket.put("some/where/a.jpg", channel.image("a.jpg"))
    (channel.root / "a.jpg").unlink()
    bucket.client.delete_object(Bucket="bucket", Key="some/where/gone.jpg")
    lines = [
        line("gone.jpg"),
        line("a.jpg"),
        {**line("x"), "source-ref": "s3://no-such-bucket/a.jpg"},
        {**line("x"), "source-ref": "s3://B?/y/b.jpg"},
    ]
    channel.manifest(*lines)
    gone, there, bucketless, odd = channel.read().examples
    assert there.problem == "" and there.path is not None and there.path.is_file()
    assert gone.problem == "s3://bucket/some/where/gone.jpg cannot be fetched: it does not exist"
    assert bucketless.problem == "s3://no-such-bucket/a.jpg cannot be fetched: its bucket does not exist"
    assert odd.problem.startswith("s3://B?/y/b.jpg cannot be fetched: ")


def test_s3__only_usable_lines_are_fetched(
    channel: Channel, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    channel.image("a.jpg")
    channel.manifest(line("a.jpg"), {"source-ref": "s3://bucket/some/where/b.jpg"}, line("c.jpg", {}))
    with caplog.at_level(logging.INFO, "tilewise"):
        channel.read()
    assert not any("fetched" in message for message in caplog.messages)


def test_s3__no_credentials(channel: Channel) -> None:
    channel.manifest(line("a.jpg"), line("b.jpg"))
    assert channel.message() == (
        "channel train: output.manifest: 2 images are not in the channel (s3://bucket/some/where/a.jpg, "
        "s3://bucket/some/where/b.jpg), and without AWS credentials (network "
        "isolation takes them away) they cannot be fetched from S3: put the images beside the "
        "manifest, or give the job's role s3:GetObject for them"
    )


def test_s3__nobody_answers(channel: Channel, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("tilewise.data.s3.ATTEMPTS", 1)
    channel.manifest(*(line(f"{number}.jpg") for number in range(100)))
    text = channel.message()
    assert text.startswith(
        "channel train: output.manifest: s3://bucket/some/where/0.jpg cannot be fetched, S3 does"
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
