"""A channel with an augmented manifest, and its lines as Ground Truth writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from written_channel import WrittenChannel


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


class ManifestChannel(WrittenChannel):
    def manifest(self, *lines: Any, name: str = "output.manifest", end: str = "\n") -> Path:
        return self.lines(*lines, name=name, end=end)


def without_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ManifestChannel:
    """A channel, where nothing says who may fetch from S3."""
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
    return ManifestChannel(folder)
