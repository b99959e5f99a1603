"""Fuzz every parser with atheris: bytes that a user could give must end in records or in a UserError.

python benchmarks/fuzz.py [--seconds 60] [--turns N] [--state FOLDER] [PARSER …]      (pip install atheris)

Each parser runs in a process of its own, guided by coverage of Tilewise's code, from one valid file as the
seed. Prints as JSON how many inputs each has taken and how many exceptions escaped.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import io
import json
import logging
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10.5, 12], "iscrowd": 0}],
    "categories": [{"id": 3, "name": "ant"}],
}
LABEL = {
    "image_size": [{"width": 40, "height": 30, "depth": 3}],
    "annotations": [{"class_id": "0", "left": 1, "top": 2, "width": 10, "height": 12}],
}
MANIFEST = {
    "source-ref": "s3://bucket/a.png",
    "boxes": LABEL,
    "boxes-metadata": {"class-map": {"0": "ant"}, "type": "groundtruth/object-detection"},
}
OUTLINES = {
    "images": [{"id": "7", "file_name": "C:\\set\\a.png?x=1"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": "3", "segmentation": [[1, 2, 9, 2, 9, 12]], "bbox": None},
        {"id": 2, "image_id": 7, "category_id": 3, "segmentation": {"size": [30, 40], "counts": "n03L3N2"}},
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": {"size": [3, 4], "counts": [1, 5, 6]}},
    ],
    "categories": [
        {"id": 0, "name": "ant", "supercategory": "none"},
        {"id": 3, "name": "ant", "supercategory": "ant"},
    ],
}
ADJUSTED = {**MANIFEST, "more": LABEL, "more-metadata": {"adjustment-status": "adjusted", "class-map": {}}}
AZURE = {
    "image_url": "azureml://datastores/images/a.png",
    "image_details": {"format": "png", "width": "40px", "height": "30px"},
    "label": [{"label": "ant", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.9, "isCrowd": "false"}],
}
POLYGON = {**AZURE, "label": [{"label": "ant", "polygon": [[0.1, 0.2, 0.5, 0.2, 0.5, 0.9]]}]}
VOC = """<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size>
<object><name>ant</name><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>14</ymax></bndbox></object></annotation>"""


LABELME = {
    "shapes": [{"label": "ant", "points": [[1, 2], [11, 14]], "group_id": 1, "shape_type": "rectangle"}],
    "imagePath": "a.png",
    "imageHeight": 30,
    "imageWidth": 40,
}
LABELME_XML = """<annotation><filename>a.png</filename><source><sourceImage/></source>
<imagesize><nrows>30</nrows><ncols>40</ncols></imagesize><object><name>ant</name><deleted>0</deleted>
<polygon><pt><x>1</x><y>2</y></pt><pt><x>11</x><y>2</y></pt><pt><x>9</x><y>14</y></pt></polygon></object>
</annotation>"""
CVAT = """<annotations><meta><task><labels><label><name>ant</name></label></labels></task></meta>
<image id="0" name="a.png" width="40" height="30">
<box label="ant" xtl="1.5" ytl="2" xbr="11" ybr="14" rotation="30"/>
<polygon label="ant" points="1,2;11,2;9,14" group_id="1"/></image></annotations>"""
CVAT_VIDEO = """<annotations><meta><original_size><width>40</width><height>30</height></original_size></meta>
<track id="0" label="ant"><box frame="0" outside="0" xtl="1" ytl="2" xbr="11" ybr="14"/>
<box frame="3" outside="1" xtl="1" ytl="2" xbr="11" ybr="14"/></track></annotations>"""
STUDIO_BOX = {"x": 1, "y": 2, "width": 9, "height": 9, "rectanglelabels": ["ant"]}
STUDIO = {
    "id": 1,
    "data": {"image": "/data/upload/0123abcd-a.png"},
    "annotations": [
        {
            "result": [
                {
                    "id": "x",
                    "type": "rectanglelabels",
                    "original_width": 40,
                    "original_height": 30,
                    "value": STUDIO_BOX | {"rotation": 5},
                }
            ]
        }
    ],
}
STUDIO_MIN = {
    "image": "a.png",
    "box": [STUDIO_BOX],
    "annotation_id": 1,
    "annotator": 1,
}
VIA_RECT = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 12}
VIA = {
    "a.png1": {
        "filename": "a.png",
        "regions": [{"shape_attributes": VIA_RECT, "region_attributes": {"class": "ant"}}],
        "file_attributes": {},
    }
}
VIA_CSV = """filename,region_count,region_id,region_shape_attributes,region_attributes
a.png,1,0,"{""name"":""circle"",""cx"":9,""cy"":9,""r"":5}","{""class"":""ant""}"
"""


def picture(format: str) -> bytes:
    """A small image."""
    file = io.BytesIO()
    pixels = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def record(content: bytes) -> bytes:
    """Bytes as one RecordIO record."""
    return struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)


def image_record() -> bytes:
    """An image with one box as MXNet packs it."""
    label = np.asarray([2, 5, 1, 0.1, 0.1, 0.5, 0.5], "<f4").tobytes()
    return record(struct.pack("<IfQQ", 7, 0.0, 1, 0) + label + picture("PNG"))


def as_json(content: object) -> bytes:
    """JSON text."""
    return json.dumps(content).encode()


# parser -> seed, and the file's name in a channel beside the image a.png (none for what is no file)
PARSERS: dict[str, tuple[bytes, str]] = {
    "recordio": (image_record(), "train/a.rec"),
    "coco": (as_json(COCO), "train/coco.json"),
    "coco_outlines": (as_json(OUTLINES), "train/images/coco.json"),
    "image_json": (as_json({"file": "a.png", **LABEL}), "train_annotation/a.json"),
    "manifest": (as_json(MANIFEST) + b"\n", "train/a.manifest"),
    "manifest_array": (as_json([ADJUSTED]), "train/manifest"),
    "manifest_utf_16": (json.dumps(MANIFEST).encode("utf-16"), "train/a.manifest"),
    "manifest_gzip": (gzip.compress(as_json(MANIFEST)), "train/a.manifest.gz"),
    "azure_polygons": (as_json(POLYGON), "train/a.jsonl"),
    "azure_jsonl": (as_json(AZURE) + b"\n", "train/a.jsonl"),
    "voc": (VOC.encode(), "train/a.xml"),
    "yolo": (b"0 0.5 0.5 0.25 0.25\n", "train/a.txt"),
    "labelme": (as_json(LABELME), "train/a.json"),
    "labelme_xml": (LABELME_XML.encode(), "train/a.xml"),
    "cvat": (CVAT.encode(), "train/a.xml"),
    "cvat_video": (CVAT_VIDEO.encode(), "train/a.xml"),
    "label_studio": (as_json([STUDIO]), "train/a.json"),
    "label_studio_min": (as_json([STUDIO_MIN]), "train/a.json"),
    "via": (as_json(VIA), "train/a.json"),
    "via_csv": (VIA_CSV.encode(), "train/a.csv"),
    "image": (picture("JPEG"), ""),
    "pipe": (image_record() * 2, ""),
    "pipe_manifest": (record(picture("PNG")) + record(as_json(LABEL)), ""),
}


def target(parser: str, folder: Path) -> Callable[[bytes], None]:
    """A function that gives bytes to a parser, through the path that a job takes."""
    from tilewise.data.channel import ChannelFolder, read_data_set
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.checks import check_example
    from tilewise.data.decoding.decode import decode_image
    from tilewise.data.pipe.formats import read_arrivals
    from tilewise.errors import UserError

    logging.disable(logging.CRITICAL)
    name = PARSERS[parser][1]
    folders = {}
    for channel in {"train", Path(name or "train").parts[0]}:
        (folder / channel).mkdir()
        folders[channel] = ChannelFolder(folder / channel)
    (folder / name).parent.mkdir(exist_ok=True)
    if name and parser != "recordio":
        image = "frame_000000.png" if parser == "cvat_video" else "a.png"
        (folder / "train" / image).write_bytes(picture("PNG"))

    def parse(data: bytes) -> None:
        try:
            if parser == "image":
                decode_image(data, max_pixels=1_000_000)
                return
            if not name:
                for arrival in read_arrivals(io.BytesIO(data), "train_0", lambda number: True):
                    check_example(arrival.example, arrival.info, ChannelIssues("train"))
                return
            (folder / name).write_bytes(data)
            data_set = read_data_set(folders, None, validates=False, seed=0)
            for item in data_set.train.one_pass():
                assert np.isfinite(item.targets.boxes).all() and len(item.targets.boxes) == len(
                    item.targets.labels
                )
        except UserError:
            pass

    return parse


def fuzz(parser: str, seconds: int, folder: Path, channels: Path) -> None:
    """Fuzz one parser in this process, on from what a folder holds; atheris leaves it with an exit status."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["tilewise"]):
        import tilewise.data.channel
        import tilewise.data.decoding.decode  # noqa: F401
    seeds = folder / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    (seeds / "valid").write_bytes(PARSERS[parser][0])
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=20"]
    parse = target(parser, channels)
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(seeds)], parse)
    atheris.Fuzz()


def run(parser: str, seconds: int, state: Path) -> dict[str, int]:
    """Fuzz one parser in a process of its own: how many inputs it took, and exceptions that escaped."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as channels:
        options = ["--here", channels, "--state", str(state), "--seconds", str(seconds)]
        command = [sys.executable, __file__, parser, *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    counted = re.findall(r"^(?:#|Done )(\d+)", done.stderr, re.MULTILINE)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
    return {"inputs": int(counted[-1]) if counted else 0, "exceptions": int(done.returncode != 0)}


def main() -> None:
    """Fuzz the parsers in turns, those with the fewest inputs first, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=f"of {', '.join(PARSERS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for a turn of a parser")
    parser.add_argument("--turns", type=int, help="of all parsers together; default: one each")
    parser.add_argument(
        "--state", type=Path, help="folder that keeps inputs and counts: the next run goes on from there"
    )
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.parsers or list(PARSERS)
    with tempfile.TemporaryDirectory() as folder:
        state = arguments.state or Path(folder)
        if arguments.here:
            fuzz(names[0], arguments.seconds, state / names[0], arguments.here)
        state.mkdir(parents=True, exist_ok=True)
        counts = state / "counts.json"
        runs: dict[str, dict[str, int]] = json.loads(counts.read_text()) if counts.exists() else {}
        for _ in range(arguments.turns or len(names)):
            name = min(names, key=lambda name: runs.get(name, {}).get("inputs", 0))
            before = runs.get(name, {"inputs": 0, "exceptions": 0})
            found = run(name, arguments.seconds, state)
            runs[name] = {key: before[key] + found[key] for key in before}
            counts.write_text(json.dumps(runs))
    total = {key: sum(one[key] for one in runs.values()) for key in ("inputs", "exceptions")}
    print(json.dumps({**total, "parsers": runs}, indent=2))


if __name__ == "__main__":
    main()
