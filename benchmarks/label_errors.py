"""What `tilewise errors` finds of labels that were broken on purpose: prints JSON.

python benchmarks/label_errors.py DATA --work FOLDER [name=value …] [--share 0.05] [--minutes 8] [--folds 1]
    [--kinds remove add move] [--seed 0]

DATA holds train.json (COCO), val.json and images/. Of the training images' boxes this share is broken, in
equal parts: `remove` takes a box away, `add` puts one of the same size where none is, `move` shifts one by
half its sides, `class` names another class. The demo's job learns from the broken set, in so many minutes of
the CPU on one core, and `tilewise errors` looks at the very images that it learnt from; with `--folds 2` a
model that learnt from one half looks at the other. The figures are the broken labels among the first entries:
among as many as there are broken ones, and among two and four times as many, in all and by kind. Models are
kept in FOLDER, and what it has is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from demo_job import demo_hyperparameters  # noqa: E402
from lay_out import find_coco_files  # noqa: E402
from runs import BY_THE_CPUS_CLOCK, on_one_core, train_once  # noqa: E402
from tilewise.arrays import Float64  # noqa: E402
from tilewise.boxes import paired_iou  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.evaluation.label_errors import LabelError, label_errors  # noqa: E402
from tilewise.inference.model_card import ModelCard  # noqa: E402
from tilewise.inference.predictor import Predictor  # noqa: E402

KINDS = ("remove", "add", "move", "class")
SAME = 0.5
"""IoU from which on an entry names a broken label's place."""


def break_labels(
    content: dict[str, Any], share: float, kinds: list[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Break some annotations of a COCO file.

    Returns:
        Of each broken label its ``kind``, the ``image`` (file name), and the boxes, as corners, that an entry
        may name: ``wrong`` of the file, ``right`` of what was there.

    """
    annotations = [each for each in content["annotations"] if not each.get("iscrowd")]
    images = {image["id"]: image for image in content["images"]}
    count = round(share * len(annotations))
    chosen = rng.permutation(len(annotations))[:count]
    broken, removed = [], set()
    for number, index in enumerate(chosen.tolist()):
        annotation, kind = annotations[index], kinds[number % len(kinds)]
        image = images[annotation["image_id"]]
        entry: dict[str, Any] = {"kind": kind, "image": image["file_name"]}
        x, y, width, height = annotation["bbox"]
        if kind == "remove":
            removed.add(annotation["id"])
            entry["right"] = _corners(annotation)
        elif kind == "add":
            added = copy.deepcopy(annotation)
            added.pop("segmentation", None)
            added["id"] = max(each["id"] for each in content["annotations"]) + 1
            added["bbox"] = _free_place(annotation, image, annotations, rng)
            content["annotations"].append(added)
            entry["wrong"] = _corners(added)
        elif kind == "move":
            entry["right"] = _corners(annotation)
            across, down = (float(sign) * 0.5 for sign in rng.choice([-1, 1], 2))
            left = min(max(x + across * width, 0), image["width"] - width)
            top = min(max(y + down * height, 0), image["height"] - height)
            annotation["bbox"] = [left, top, width, height]
            annotation.pop("segmentation", None)
            entry["wrong"] = _corners(annotation)
        else:
            others = [each["id"] for each in content["categories"] if each["id"] != annotation["category_id"]]
            annotation["category_id"] = others[int(rng.integers(len(others)))]
            entry["wrong"] = _corners(annotation)
        broken.append(entry)
    content["annotations"] = [each for each in content["annotations"] if each["id"] not in removed]
    return broken


def _corners(annotation: dict[str, Any]) -> list[float]:
    x, y, width, height = annotation["bbox"]
    return [x, y, x + width, y + height]


def _free_place(
    annotation: dict[str, Any],
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    rng: np.random.Generator,
) -> list[float]:
    """Where a box of that size overlaps the others of its image least, of a hundred places."""
    width, height = annotation["bbox"][2:]
    taken = np.array([_corners(each) for each in annotations if each["image_id"] == image["id"]])
    low = rng.random((100, 2)) * np.maximum([image["width"] - width, image["height"] - height], 0)
    boxes = np.concatenate([low, low + np.array([width, height])], axis=1)
    overlap = paired_iou(boxes[:, None], taken).max(axis=1, initial=0)
    left, top = low[int(overlap.argmin())].tolist()
    return [left, top, width, height]


def folds_of(content: dict[str, Any], folds: int) -> list[tuple[list[int], list[int]]]:
    """The ids of the images that each model learns from, and of those that it looks at."""
    ids = [image["id"] for image in content["images"]]
    if folds == 1:
        return [(ids, ids)]
    parts = [ids[part::folds] for part in range(folds)]
    return [([each for each in ids if each not in part], part) for part in parts]


def part_of(content: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """A COCO file's content with these images only."""
    some = set(ids)
    return content | {
        "images": [image for image in content["images"] if image["id"] in some],
        "annotations": [each for each in content["annotations"] if each["image_id"] in some],
    }


def suspected(model: Path, coco: Path, images: Path) -> tuple[Records, list[LabelError]]:
    """What `tilewise errors` lists of a COCO file."""
    predictor, calibration = Predictor.load(model), ModelCard.read(model).calibration
    content = read_coco(coco, Folder(images))
    records = make_records(content.examples, ChannelIssues("broken"))
    detections = []
    for record in records:
        prediction = predictor.predict(record.source)
        detections.append((prediction.rescored(calibration) if calibration else prediction).detections)
    return records, label_errors(records, detections)


def names(entry: LabelError, image: str, broken: dict[str, Any]) -> bool:
    """Whether an entry points at a broken label."""
    if image != broken["image"]:
        return False
    if "wrong" in broken and _iou(broken["wrong"], entry.box) > 0.99:
        return True
    return "right" in broken and _iou(broken["right"], entry.found) >= SAME


def _iou(box: list[float], other: Float64 | None) -> float:
    """0 where there is no other."""
    return 0.0 if other is None else float(paired_iou(np.array(box), other))


def score(ranked: list[tuple[str, LabelError]], broken: list[dict[str, Any]]) -> dict[str, Any]:
    """How many broken labels are among the first entries, by kind."""
    figures: dict[str, Any] = {"broken": len(broken)}
    for times in (1, 2, 4):
        first = ranked[: times * len(broken)]
        hit = [any(names(entry, image, each) for image, entry in first) for each in broken]
        right = sum(any(names(entry, image, each) for each in broken) for image, entry in first)
        figures[f"first_{len(first)}"] = {
            "found": sum(hit),
            "found_share": round(sum(hit) / max(1, len(broken)), 3),
            "entries_that_are_broken": round(right / max(1, len(first)), 3),
            "by_kind": {
                kind: f"{sum(now for now, each in zip(hit, broken, strict=True) if each['kind'] == kind)}"
                f" of {sum(each['kind'] == kind for each in broken)}"
                for kind in KINDS
                if any(each["kind"] == kind for each in broken)
            },
        }
    return figures


def main() -> None:
    """Break, train, look, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--work", type=Path, required=True, help="keeps the broken sets and the models")
    parser.add_argument("--share", type=float, default=0.05, help="of the boxes")
    parser.add_argument("--minutes", type=float, default=8, help="of each training")
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["remove", "add", "move"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help="where all takes place; the first one by default")
    arguments = parser.parse_intermixed_args()
    on_one_core(arguments.core)
    content = json.loads(find_coco_files(arguments.data)[0].read_text())
    if "class" in arguments.kinds and len(content["categories"]) < 2:
        parser.error("--kinds class: this set has one class")
    broken = break_labels(content, arguments.share, arguments.kinds, np.random.default_rng(arguments.seed))
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    minutes = {"minutes": f"{arguments.minutes:g}", "seed": str(arguments.seed)}
    ranked: list[tuple[str, LabelError]] = []
    figures: list[dict[str, Any]] = []
    for number, (learnt, looked_at) in enumerate(folds_of(content, arguments.folds)):
        folder = arguments.work / f"seed{arguments.seed}_{number}of{arguments.folds}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.json").write_text(json.dumps(part_of(content, learnt)))
        (folder / "val.json").write_text((find_coco_files(arguments.data)[1] or folder).read_text())
        (folder / "looked_at.json").write_text(json.dumps(part_of(content, looked_at)))
        if not (folder / "images").exists():
            (folder / "images").symlink_to((arguments.data / "images").resolve())
        if not (folder / "model").is_dir():
            raw = demo_hyperparameters(chosen | minutes)
            trained = train_once(folder, raw, keep=folder / "model", program=BY_THE_CPUS_CLOCK)
            (folder / "figures.json").write_text(json.dumps(trained))
        figures.append(json.loads((folder / "figures.json").read_text()))
        records, errors = suspected(folder / "model", folder / "looked_at.json", folder / "images")
        ranked += [(Path(records[error.record].key).name, error) for error in errors]
    ranked.sort(key=lambda entry: -entry[1].suspicion)
    result = {"data": arguments.data.name, "seed": arguments.seed, "share": arguments.share}
    result |= {"folds": arguments.folds, "models": [{"AP": each["AP"]} for each in figures]}
    print(json.dumps(result | score(ranked, broken), indent=2))


if __name__ == "__main__":
    main()
