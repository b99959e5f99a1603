from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tilewise.data.files.exports import kind_of
from written_channel import WrittenChannel

SUPERVISELY = {
    "description": "",
    "tags": [],
    "size": {"height": 30, "width": 40},
    "objects": [
        {"classTitle": "ant", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [11, 14]]}}
    ],
}
CREATE_ML = [
    {
        "image": "a.jpg",
        "annotations": [{"label": "ant", "coordinates": {"x": 6, "y": 8, "width": 10, "height": 12}}],
    }
]
DATUMARO = {
    "dm_format_version": "1.0",
    "infos": {},
    "categories": {},
    "items": [{"id": "a", "annotations": []}],
}
VOTT = {"assets": {"1": {"asset": {"name": "a.jpg"}, "regions": [{"tags": [], "boundingBox": {"left": 1}}]}}}
VIA_3 = {"project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1"]}, "metadata": {}}
DARWIN = {
    "version": "2.0",
    "item": {"name": "a.jpg"},
    "annotations": [{"bounding_box": {"x": 1}, "name": "ant"}],
}
SCALABEL = [{"name": "a.jpg", "labels": [{"category": "ant", "box2d": {"x1": 1}}]}]
KITTI = "ant 0.0 0 -1 1.0 2.0 11.0 14.0 -1 -1 -1 -1 -1 -1 -1\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "ann/a.jpg.json",
            SUPERVISELY,
            "ann/a.jpg.json is a Supervisely export: run the app Export to COCO there",
        ),
        ("a.json", SUPERVISELY, "a.json is a Supervisely export: run"),
        (
            "meta.json",
            {"classes": [], "tags": [], "projectType": "images"},
            "meta.json is a Supervisely export",
        ),
        (
            "_annotations.createml.json",
            CREATE_ML,
            "_annotations.createml.json is a CreateML export: export the",
        ),
        (
            "a.json",
            DATUMARO,
            "a.json is a Datumaro export: convert it with datum convert -i FOLDER -if datumaro",
        ),
        ("a.json", VOTT, "a.json is a VoTT JSON export: export it from VoTT as Pascal VOC, or convert it"),
        ("a.json", VIA_3, "a.json is a VGG Image Annotator 3 export: label still images with version 2, or"),
        ("a.json", DARWIN, "a.json is a V7 Darwin export: export it from there as COCO"),
        ("a.json", SCALABEL, "a.json is a BDD100K (Scalabel) export: convert it with bdd100k's to_coco"),
        (
            "a.ndjson",
            {"data_row": {"id": 1}},
            "a.ndjson is a Labelbox export: convert it with Labelbox's Python SDK",
        ),
        (
            "train.tfrecord",
            "x",
            "train.tfrecord is a TFRecord export: export the project as COCO where it comes",
        ),
        ("train.record-00000-of-00010", "x", "train.record-00000-of-00010 is a TFRecord export"),
        ("x.csv", "ImageID,Source,LabelName,XMin\n", "x.csv is an Open Images export: convert it with datum"),
        (
            "x.csv",
            "annotation_id,annotator,image,lead_time\n",
            "x.csv is a Label Studio CSV export: export the",
        ),
        (
            "a.txt",
            KITTI,
            "a.txt is a KITTI export: convert it with datum convert -i FOLDER -if kitti -f coco",
        ),
        ("gt/gt.txt", "1,-1,1,2,10,12,1,1,1\n", "gt/gt.txt is a MOT export: convert it with datum convert"),
        (
            "wider_face_train_bbx_gt.txt",
            "a.jpg\n",
            "wider_face_train_bbx_gt.txt is a WIDER FACE export: convert",
        ),
        ("data.parquet", "PAR1", "data.parquet is a Parquet export: write its images to files"),
        (
            "train.lst",
            "0\t2\t5\t0\t.1\t.1\t.4\t.4\ta.jpg\n",
            "train.lst is a list of im2rec: pack it and its",
        ),
        ("export.zip", "PK", "export.zip is an archive: unpack it into the channel"),
    ],
)
def test_exports__that_are_named(channel: WrittenChannel, name: str, content: Any, sentence: str) -> None:
    channel.image("a.jpg")
    channel.write(name, content if isinstance(content, str) else json.dumps(content))
    message = "channel train holds 1 images (a.jpg), but no annotations of a known form: "
    assert channel.message().startswith(message + sentence)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train.json", b"", "train.json is empty: give"),
        ("train.manifest", b"\r\n", "train.manifest is empty: give"),
        (
            "coco.json",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            "coco.json is a pointer of Git LFS in place of the file: fetch that by `git lfs pull`: give",
        ),
        (
            "boxes.csv",
            "filename,class,xmin,ymin,xmax,ymax\na.jpg,größe,1,2,11,14\n".encode("latin-1"),
            "boxes.csv is not text in UTF-8: save it so: give",
        ),
        ("train.json", b"\x1f\x8b\x08", "train.json is damaged: it begins as a gzip file, but"),
    ],
)
def test_files__that_hold_no_text_are_named(
    channel: WrittenChannel, name: str, content: bytes, sentence: str
) -> None:
    channel.image("a.jpg")
    channel.write(name, content)
    assert f"no annotations of a known form; the other files are {name}; {sentence}" in channel.message()


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "segmentation": {"size": [30, 40]}}
    ],
    "categories": [{"id": 1, "name": "tags"}],
}
IMAGE_JSON = {
    "file": "a.jpg",
    "annotations": [{"class_id": 0, "left": 1, "top": 2, "width": 10, "height": 12}],
    "categories": [{"class_id": 0, "name": "ant"}],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("coco.json", COCO | {"info": {"tags": "", "objects": 1}, "licenses": []}),
        ("a.json", IMAGE_JSON),
        ("a.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.15 0.25 0.1 0.2 0.1 0.15 0.05 0.1\n"),
        ("a.txt", "0 0.5 0.5 0.25 0.25\n"),
    ],
)
def test_exports__what_is_none(channel: WrittenChannel, name: str, content: Any) -> None:
    channel.image("a.jpg")
    channel.write(name, content if isinstance(content, str) else json.dumps(content))
    assert channel.only().problem == "" and len(channel.only().targets) == 1


@pytest.mark.parametrize("suffix", [".json", ".xml", ".csv", ".txt"])
@pytest.mark.parametrize(
    "piece", [b"1", b" ", b"a", b'"', b"\n", b"1 ", b"<annotation>", b'"objects" ', b"a 1"]
)
def test_exports__no_text_takes_long(tmp_path: Path, suffix: str, piece: bytes) -> None:
    # A pattern that tries all ways to divide such a text would not come to an end.
    path = tmp_path / f"a{suffix}"
    path.write_bytes(piece * (200_000 // len(piece)))
    assert kind_of(path) == ""


def test_exports__beside_annotations_that_are_read(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("coco.json", json.dumps(COCO))
    channel.write("meta.json", '{"classes": [], "projectType": "images"}')
    channel.write("everything.zip", "PK")
    assert channel.only().problem == ""


def test_exports__two_that_are_read(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("coco.json", json.dumps(COCO))
    shapes = {"shapes": [], "imagePath": "a.jpg", "imageHeight": 30, "imageWidth": 40}
    channel.write("a.json", json.dumps(shapes))
    assert channel.message() == (
        "channel train holds COCO (coco.json) and LabelMe JSON (a.json): keep one format"
    )
