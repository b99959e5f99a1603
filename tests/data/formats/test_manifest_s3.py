from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from manifest_channel import ManifestChannel as Channel
from manifest_channel import annotation, line, without_credentials
from moto.server import ThreadedMotoServer
from PIL import Image


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    return without_credentials(tmp_path, monkeypatch)


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
    monkeypatch.setattr("tilewise.data.files.s3.ATTEMPTS", 1)
    channel.manifest(*(line(f"{number}.jpg") for number in range(100)))
    text = channel.message()
    assert text.startswith(
        "channel train: output.manifest: s3://bucket/some/where/0.jpg cannot be fetched, S3 does"
    )
