"""What can be done to a trained model's answers when it is used: prints a table in Markdown and JSON.

python benchmarks/test_time.py JOB [--images N]

JOB is a job's folder as SageMaker lays it out, /opt/ml: its model, and its channel validation as COCO
(annotations.json, images/). The images are looked at once, mirrored too; what their views show is then merged
in several ways: as the model does it; with scores lowered where a tile's border cuts a box, or near one; by
the weighted mean; and with mirrored views. Then scores are calibrated on one half of the images, and on the
other it is counted which share of the detections above each threshold is right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.evaluation.analysis import Scored, analyse  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.evaluation.curves import Curve  # noqa: E402
from tilewise.evaluation.fit_calibration import calibration_error, fit_calibration  # noqa: E402
from tilewise.inference.detections import merge_instances  # noqa: E402
from tilewise.inference.predictor import Predictor  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.tiling.merge import cut_sides  # noqa: E402
from tilewise.tiling.spec import TileOptions, Tiling  # noqa: E402
from tilewise.views.view import View  # noqa: E402

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AR")
THRESHOLDS = (0.5, 0.7, 0.8, 0.9)
Shown = tuple[list[tuple[View, Instances]], int, int, Tiling]
Soften = Callable[[View, Instances, int, int], Instances]


def lower_cut(factor: float) -> Soften:
    """Scores of boxes that a border inside the image cuts, times a factor."""

    def soften(view: View, found: Instances, width: int, height: int) -> Instances:
        cut = cut_sides(view.upright(found).boxes, view, width=width, height=height).any(axis=1)
        return replace(found, scores=np.where(cut, factor * found.scores, found.scores).astype(np.float32))

    return soften


def lower_near(factor: float, pixels: float) -> Soften:
    """Scores down to a factor of them, the nearer a border inside the image a box ends."""

    def soften(view: View, found: Instances, width: int, height: int) -> Instances:
        boxes, (x0, y0, x1, y1) = view.upright(found).boxes, view.window
        inner = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])
        distances = np.concatenate([boxes[:, :2], np.array(view.size) - boxes[:, 2:]], axis=1)
        nearest = np.where(inner, distances, np.inf).min(axis=1)
        share = np.clip(nearest / pixels, 0, 1)
        return replace(found, scores=(found.scores * (factor + (1 - factor) * share)).astype(np.float32))

    return soften


WAYS: dict[str, dict[str, Any]] = {
    "as trained": {},
    "boxes cut by a border x 0.25": {"soften": lower_cut(0.25)},
    "boxes cut by a border x 0.5": {"soften": lower_cut(0.5)},
    "boxes cut by a border x 0.85": {"soften": lower_cut(0.85)},
    "down to x 0.5 within 16 px of a border": {"soften": lower_near(0.5, 16)},
    "down to x 0.5 within 32 px of a border": {"soften": lower_near(0.5, 32)},
    "`tile_merge=wbf`": {"merge": "wbf"},
    "`tta=mirror`": {"mirror": True},
    "`tta=mirror`, `tile_merge=wbf`": {"mirror": True, "merge": "wbf"},
}


def look(predictor: Predictor, records: Records) -> list[Shown]:
    """What each image's views show, before it is merged."""
    kept: list[Shown] = []

    def keep(shown: Sequence[tuple[View, Instances]], width: int, height: int, tiling: Tiling) -> int:
        kept.append((list(shown), width, height, tiling))
        return 0

    predictor.merge = keep
    for record in records:
        predictor.predict(record.source)
    return kept


def merged(
    kept: list[Shown],
    limit: int | None,
    *,
    mirror: bool = False,
    merge: str = "",
    soften: Soften | None = None,
) -> list[Instances]:
    """What is found in each image, merged in one way."""
    found = []
    for shown, width, height, tiling in kept:
        chosen = [(view, each) for view, each in shown if mirror or not view.mirrored]
        if soften:
            chosen = [(view, soften(view, each, width, height)) for view, each in chosen]
        how: Any = {"merge": merge} if merge else {}
        found.append(merge_instances(chosen, width, height, replace(tiling, **how), limit=limit).detections)
    return found


def calibrated(fitted_on: Curve, looked_at: Curve) -> dict[str, Any]:
    """How right detections above each threshold are, by a calibration on other images."""
    calibration = fit_calibration(fitted_on.scores, fitted_on.hits)
    if calibration is None:
        return {}
    chances = calibration(looked_at.scores).astype(np.float64)
    kinds = {"scores": looked_at.scores, "calibrated": chances}
    return {
        "calibration": calibration.to_json(),
        **{
            name: {
                "error": round(calibration_error(values, looked_at.hits), 4),
                **{
                    f"precision_from_{threshold}": round(float(looked_at.hits[values >= threshold].mean()), 3)
                    for threshold in THRESHOLDS
                    if (values >= threshold).any()
                },
            }
            for name, values in kinds.items()
        },
    }


def main() -> None:
    """Look, merge, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--images", type=int, help="only the first ones")
    arguments = parser.parse_args()
    channel = arguments.job / "input" / "data" / "validation"
    content = read_coco(channel / "annotations.json", Folder(channel / "images"))
    every = make_records(content.examples, ChannelIssues("validation"))
    records = Records(list(every)[: arguments.images])
    predictor = Predictor.load(arguments.job / "model", TileOptions(mirror=True))
    classes, own_merge = predictor.classes, predictor.merge
    limit = own_merge.keywords["limit"] if isinstance(own_merge, partial) else None
    kept = look(predictor, records)
    print(f"| {len(records)} images | {' | '.join(FIGURES)} |\n|{'---|' * (len(FIGURES) + 1)}")
    for name, how in WAYS.items():
        metrics = coco_metrics(records, merged(kept, limit, **how), classes)
        row = ["" if metrics[each] is None else f"{metrics[each]:.4f}" for each in FIGURES]
        print(f"| {name} | {' | '.join(row)} |", flush=True)
    plain = merged(kept, limit)
    order = np.random.default_rng(0).permutation(len(records)).tolist()
    halves = []
    for part in (order[: len(order) // 2], order[len(order) // 2 :]):
        scored = Scored(Records(records[index] for index in part), [plain[index] for index in part])
        halves.append(analyse(scored, classes, {}).total)
    print(json.dumps([calibrated(*halves), calibrated(*halves[::-1])], indent=2))


if __name__ == "__main__":
    main()
