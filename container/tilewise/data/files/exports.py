"""Which labelling tool or program wrote a file, by its name and its first and last bytes.

Most tools write JSON, and each a form of its own: a reader must not take another's for its own. Forms that no
reader takes are known too, so that a message can say what they are and how to convert them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from tilewise.data.files.folder import Folder

PEEK = 64 * 1024
MAX_CANDIDATES = 10
LABELME, LABELME_XML, VIA = "LabelMe JSON", "LabelMe XML", "VGG Image Annotator"
CVAT, LABEL_STUDIO = "CVAT XML", "Label Studio JSON"
DOTA, VISDRONE = "DOTA text files", "VisDrone text files"

_DATUMARO = "datum convert -i FOLDER -if {0} -f coco -o OUTPUT -- --save-media (pip install datumaro)"
_COCO = "export it from there as COCO"
CURES: Mapping[str, str] = {
    "Supervisely": "run the app Export to COCO there",
    "CreateML": "export the project as COCO where it comes from, such as Roboflow",
    "TFRecord": "export the project as COCO where it comes from, or write Pascal VOC XML or COCO from the "
    "script that wrote the records",
    "Datumaro": "convert it with " + _DATUMARO.format("datumaro"),
    "Open Images": "convert it with " + _DATUMARO.format("open_images"),
    "VoTT JSON": "export it from VoTT as Pascal VOC, or convert it with " + _DATUMARO.format("vott_json"),
    "VGG Image Annotator 3": "label still images with version 2, or " + _COCO,
    "Labelbox": "convert it with Labelbox's Python SDK to COCO",
    "V7 Darwin": _COCO,
    "BDD100K (Scalabel)": "convert it with bdd100k's to_coco",
    "Label Studio CSV": "export the project as JSON",
    "KITTI": "convert it with " + _DATUMARO.format("kitti"),
    "MOT": "convert it with " + _DATUMARO.format("mot_seq"),
    "WIDER FACE": "convert it with " + _DATUMARO.format("wider_face"),
    "list of im2rec": "pack it and its images into a .rec file with im2rec's --pack-label",
    "Parquet": "write its images to files, with COCO JSON beside them",
    "archive": "unpack it into the channel",
}
"""What else people bring -> how it becomes something that is read."""


def _keys(*names: str) -> re.Pattern[bytes]:
    return re.compile(rb'"(?:' + "|".join(names).encode() + rb')"\s*:')


# kind -> of each pattern one key is in the file
_JSON: tuple[tuple[str, tuple[re.Pattern[bytes], ...]], ...] = (
    ("VGG Image Annotator 3", (re.compile(rb'"__VIA_PROJECT_ID__"|"vid_list"'),)),
    (VIA, (_keys("_via_img_metadata"),)),
    (VIA, (_keys("regions"), _keys("file_attributes"))),
    (VIA, (_keys("regions"), _keys("shape_attributes"))),
    (LABELME, (_keys("shapes"), _keys("imagePath", "imageData", "imageHeight"))),
    ("Labelbox", (_keys("data_row", "Labeled Data"),)),
    ("V7 Darwin", (_keys("bounding_box"), _keys("item", "slots"))),
    ("BDD100K (Scalabel)", (_keys("box2d"),)),
    ("VoTT JSON", (_keys("regions"), _keys("boundingBox"))),
    ("Supervisely", (_keys("classTitle", "projectType"),)),
    ("Supervisely", (re.compile(rb'"objects"\s*:\s*\['), re.compile(rb'"size"\s*:\s*\{'), _keys("tags"))),
    ("CreateML", (_keys("annotations?"), _keys("image", "imagefilename"), _keys("coordinates"))),
    ("Datumaro", (_keys("dm_format_version"),)),
    ("Datumaro", (_keys("items"), _keys("categories"), _keys("infos?"))),
    (LABEL_STUDIO, (_keys("data"), _keys("annotations", "completions"), _keys("result"))),
    (LABEL_STUDIO, (_keys("data"), _keys("total_annotations", "is_labeled", "file_upload"))),
    (LABEL_STUDIO, (_keys("annotation_id"), _keys("annotator", "lead_time"))),
    (LABEL_STUDIO, (_keys("original_width"), _keys("rectanglelabels", "polygonlabels", "ellipselabels"))),
)
# The tool's and datumaro's files: of VOC's form but for their objects.
_LABELME_XML = re.compile(rb"\A(?!.*<bndbox>).*<(imagesize|sourceImage|submittedBy)>", re.DOTALL)
_XML = (
    (CVAT, (re.compile(rb"<annotations[\s>]"), re.compile(rb"<(image|track|meta|version)[\s>/]"))),
    (LABELME_XML, (re.compile(rb"<annotation[\s>]"), _LABELME_XML)),
)
_CSV = (
    (VIA, (re.compile(rb"\A(\xef\xbb\xbf)?#?\"?filename\"?,.*region_shape_attributes"),)),
    ("Label Studio CSV", (re.compile(rb"annotation_id|annotator"), re.compile(rb"lead_time"))),
    ("Open Images", (re.compile(rb"ImageID"), re.compile(rb"XMin"))),
)
_NAMES = (
    ("TFRecord", re.compile(r"\.(tfrecords?|record)(-\d+-of-\d+)?$", re.IGNORECASE)),
    ("WIDER FACE", re.compile(r"(^|/)wider_face_.*\.txt$", re.IGNORECASE)),
    ("MOT", re.compile(r"(^|/)(gt|det)/(gt|det)\.txt$")),
    ("list of im2rec", re.compile(r"\.lst$", re.IGNORECASE)),
    ("Parquet", re.compile(r"\.(parquet|arrow)$")),
    ("archive", re.compile(r"\.(zip|tar|tgz|tar\.gz|7z|rar)$", re.IGNORECASE)),
)
_NO_EXPORTS = ("archive", "list of im2rec")
_TEXT = (
    ("KITTI", (re.compile(rb"^[A-Za-z]\S*( -?[\d.]+){14,15}\s*$", re.MULTILINE),)),
    (DOTA, (re.compile(rb"^(-?[\d.]+ ){8}[A-Za-z]\S*( [012])?\s*$", re.MULTILINE),)),
    (VISDRONE, (re.compile(rb"^(-?\d+,){4}[01],\d+,-?\d+,-?\d+,?\s*$", re.MULTILINE),)),
)
_BY_SUFFIX = {".json": _JSON, ".ndjson": _JSON, ".xml": _XML, ".csv": _CSV, ".txt": _TEXT}


def kind_of(path: Path) -> str:
    """Who wrote a file: a tool that a reader is for, one of :data:`CURES`, or "" for anything else."""
    table = _BY_SUFFIX.get(path.suffix.lower())
    if table is None:
        return ""
    content = _ends(path)
    return next((kind for kind, every in table if all(one.search(content) for one in every)), "")


def _ends(path: Path) -> bytes:
    """The beginning and the end of a file; the middle may be an image."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(PEEK)
        file.seek(max(PEEK, size - PEEK))
        content += file.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "ignore").encode()
    return content


def has_json_export(folder: Folder) -> bool:
    """Whether a folder's JSON files are a tool's, read or not: then no other reader of JSON takes them."""
    return any(folder.ask(kind_of, path) for path in few_of(folder, ".json"))


def some_of(folder: Folder, kind: str, *suffixes: str) -> list[str]:
    """The files of a kind among the first and the largest few of a folder."""
    few = dict.fromkeys(path for path in few_of(folder, *suffixes) if folder.ask(kind_of, path) == kind)
    return [path.relative_to(folder.root).as_posix() for path in few]


def files_of(folder: Folder, kind: str, *suffixes: str) -> dict[str, Path]:
    """The files of a kind that has one file or a few for all images."""
    if not some_of(folder, kind, *suffixes):
        return {}
    files = folder.with_suffix(*suffixes)
    return {name: path for name, path in files.items() if folder.ask(kind_of, path) == kind}


def few_of(folder: Folder, *suffixes: str) -> Iterator[Path]:
    """The first few files of a folder that end so, and its largest: they tell what there is."""
    files = folder.with_suffix(*suffixes)
    yield from islice(files.values(), MAX_CANDIDATES)
    yield from folder.largest(files, MAX_CANDIDATES).values()


def name_foreign(folder: Folder) -> str:
    """A sentence on files that no reader takes: what they are and how to convert them; "" for none."""
    for name in folder.files:
        for kind, pattern in _NAMES:
            if pattern.search(name):
                return _sentence(name, kind)
    for suffix in _BY_SUFFIX:
        for name, path in islice(folder.with_suffix(suffix).items(), MAX_CANDIDATES):
            if (kind := folder.ask(kind_of, path)) in CURES:
                return _sentence(name, kind)
    return ""


def _sentence(name: str, kind: str) -> str:
    article = "an" if kind[0] in "aO" else "a"
    return f"{name} is {article} {kind}{'' if kind in _NO_EXPORTS else ' export'}: {CURES[kind]}"
