"""How cost grows: CPU seconds and memory over two decades of each size, and the exponent of each curve.

python benchmarks/scaling.py [AXIS …] [--runs FILE] [--plot FILE]

Each point is a process of its own with one thread; it prints a JSON line as it ends, and with --runs goes on
where it stopped. Memory is the peak of what the work adds to what its inputs take. The exponent is that of
the steepest half decade from the point where the work takes a twentieth of a second: an overhead that is paid
once would hide it below. --plot draws all curves as one SVG.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("container", "tests", "benchmarks")]

Work = Callable[[], object]
HALF_DECADE = math.sqrt(10)
ENOUGH_SECONDS, LEAST_SECONDS = 0.5, 0.05
SIDE = 320
MODEL = "yolox_nano"


def coco_channel(folder: Path, images: int, each: int) -> Path:
    """A channel with so many images, and as many boxes on each."""
    from million_boxes import make_boxes, write_coco

    channel = folder / "train"
    write_coco(channel, make_boxes(images, each))
    return channel


def reading(count: int, folder: Path) -> Work:
    """A COCO channel of so many records with ten boxes each is read."""
    from tilewise.data.channel import ChannelFolder, read_data_set

    channel = coco_channel(folder, count, 10)
    return lambda: read_data_set({"train": ChannelFolder(channel)}, None, validates=False, seed=0)


def reading_boxes(count: int, folder: Path) -> Work:
    """A COCO channel of a hundred records with so many boxes each is read."""
    from tilewise.data.channel import ChannelFolder, read_data_set

    channel = coco_channel(folder, 100, count)
    return lambda: read_data_set({"train": ChannelFolder(channel)}, None, validates=False, seed=0)


def planning(count: int, folder: Path, processes: int = 1) -> Work:
    """The views of an epoch are planned: so many images with ten boxes each, in a grid of 3 x 2."""
    from tilewise.data.channel import Split
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.records import Records
    from tilewise.tiling.spec import Tiling
    from tilewise.training.dataloading.loader import LoaderConfig, make_loader
    from tilewise.training.dataloading.view_sampler import ViewPlanner
    from tilewise.training.distributed.context import SINGLE_PROCESS
    from tilewise.views.view import Scaling
    from worker_memory import simulated

    image = folder / "image.jpg"
    image.write_bytes(picture(600))
    records, scaling = Records(simulated(image, count, 10)), Scaling(square=SIDE)
    loader = make_loader(
        Split(records, ChannelIssues("train")),
        LoaderConfig(scaling=scaling, batch_size=4, workers=0),
        planner=ViewPlanner("grid", Tiling("grid", grid=(3, 2)), scaling, negative_ratio=1.0),
        distributed=replace(SINGLE_PROCESS, size=processes),
    )
    batches: Any = loader.batch_sampler
    return lambda: sum(len(batch) for batch in batches)


def sharing(count: int, folder: Path) -> Work:
    """One of so many processes plans its share of an epoch of 1,000 images."""
    return planning(1000, folder, processes=count)


def picture(side: int) -> bytes:
    """A JPEG of so many pixels in both directions, as smooth as photographs are."""
    import numpy as np
    from PIL import Image

    rough = np.random.default_rng(0).integers(256, size=(side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rough).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


def step(boxes: int = 10, classes: int = 1) -> Work:
    """A training step with two views."""
    import torch
    from stand_ins import make_hp
    from tilewise.models.build import build_detector
    from tilewise.models.spec import DetectorSpec
    from tilewise.targets import Targets
    from tilewise.training.dataloading.batch import Batch
    from tilewise.training.job.batch_size import synthetic_batch
    from tilewise.training.step.train_step import TrainStep
    from tilewise.views.view import Scaling

    def targets(size: tuple[int, int], generator: torch.Generator) -> Targets[torch.Tensor]:
        corners = torch.rand(boxes, 2, generator=generator) * (SIDE - 12)
        labels = torch.randint(classes, (boxes,), generator=generator)
        return Targets(
            torch.cat([corners, corners + 12], dim=1), labels, torch.zeros(boxes, dtype=torch.bool)
        )

    torch.set_flush_denormal(True)
    detector = build_detector(DetectorSpec(MODEL, classes, Scaling(square=SIDE), None, 0.1, 0.5, 100))
    hp = make_hp(model_name=MODEL, image_size=SIDE, training_batch_size=2)
    train_step = TrainStep(detector, hp, 100, view_size=(SIDE, SIDE))
    train_step.begin_epoch()
    batch = Batch.of(synthetic_batch(2, (SIDE, SIDE), targets))
    return lambda: train_step.learn(batch)


def learning_boxes(count: int, folder: Path) -> Work:
    """A training step with so many objects in each of two views."""
    return step(boxes=count)


def learning_classes(count: int, folder: Path) -> Work:
    """A training step with so many classes."""
    return step(classes=count)


def predictor(folder: Path, tiling: Any, classes: int = 2) -> Any:
    """An untrained YOLOX, which finds nothing above its threshold."""
    import torch
    from tilewise.inference.detections import merge_instances
    from tilewise.inference.predictor import Predictor
    from tilewise.inference.torch_backend import TorchBackend
    from tilewise.inference.view_plan import ViewPlan
    from tilewise.models.build import build_detector
    from tilewise.models.spec import DetectorSpec
    from tilewise.views.view import Scaling

    torch.set_flush_denormal(True)
    scaling = Scaling(square=SIDE)
    detector = build_detector(DetectorSpec(MODEL, classes, scaling, None, 0.1, 0.5, 100)).eval()
    names = tuple(f"class {label}" for label in range(classes))
    return Predictor(TorchBackend(detector, 4), ViewPlan(scaling, tiling), names, merge=merge_instances)


def predicting_pixels(count: int, folder: Path) -> Work:
    """A JPEG of so many megapixels is seen whole."""
    from tilewise.tiling.spec import WHOLE_IMAGE

    data, model = picture(round(math.sqrt(count * 1e6))), predictor(folder, WHOLE_IMAGE)
    return lambda: model.predict(data)


def predicting_tiles(count: int, folder: Path) -> Work:
    """A JPEG is seen through about so many tiles of 320 pixels without overlap: it has as many pixels."""
    from tilewise.tiling.spec import Tiling

    data = picture(round(math.sqrt(count)) * SIDE)
    model = predictor(folder, Tiling("fixed", tile_size=SIDE, overlap=0.0))
    return lambda: model.predict(data)


def predicting_classes(count: int, folder: Path) -> Work:
    """An image of 320 pixels is seen by a model of so many classes."""
    from tilewise.tiling.spec import WHOLE_IMAGE

    data, model = picture(SIDE), predictor(folder, WHOLE_IMAGE, classes=count)
    return lambda: model.predict(data)


def merging(count: int, folder: Path) -> Work:
    """So many detections of 60 views are merged; their density stays."""
    from scattered import scattered_detections
    from tilewise.tiling.merge import merge_detections

    raw = scattered_detections(0, count, 15_000 * math.sqrt(count / 100_000), views=60)
    return lambda: merge_detections(*raw, rule="fragment", threshold=0.25)


def evaluating(count: int, folder: Path) -> Work:
    """COCO's figures of so many detections in 20 images; half of them lie on objects."""
    import numpy as np
    from evaluation import scored
    from tilewise.evaluation.coco import coco_metrics

    each = count // 40
    side = 12 * math.ceil(math.sqrt(each))
    places = np.array([(x, y) for x in range(0, side, 12) for y in range(0, side, 12)], np.float32)[:each]
    boxes = np.concatenate([places, places + 8], axis=1)
    case = scored([(side, side, boxes)] * 20, 1.0)
    return lambda: coco_metrics(case.records, case.detections, ("object",))


AXES: dict[str, tuple[str, Callable[[int, Path], Work], tuple[int, int]]] = {
    "records read": ("records", reading, (1000, 100_000)),
    "boxes read": ("boxes an image", reading_boxes, (10, 1000)),
    "epoch planned": ("records", planning, (300, 30_000)),
    "share planned": ("processes", sharing, (1, 100)),
    "step, boxes": ("boxes an image", learning_boxes, (10, 1000)),
    "step, classes": ("classes", learning_classes, (1, 100)),
    "whole image": ("megapixels", predicting_pixels, (1, 100)),
    "tiles": ("tiles", predicting_tiles, (4, 400)),
    "prediction, classes": ("classes", predicting_classes, (1, 100)),
    "merging": ("detections", merging, (1000, 100_000)),
    "COCO figures": ("detections", evaluating, (1000, 100_000)),
}


def sizes_of(ends: tuple[int, int]) -> list[int]:
    """Five sizes, half a decade apart."""
    return [round(ends[0] * HALF_DECADE**number) for number in range(5)]


def measure(axis: str, size: int) -> dict[str, Any]:
    """CPU seconds of the work, the least of several times, and what it adds to the memory at its peak."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = AXES[axis][1](size, Path(folder))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_mib()
        times: list[float] = []
        while sum(times) < ENOUGH_SECONDS:
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
            if len(times) == 1:
                memory = peak_mib() - before
        return {
            "axis": axis,
            "size": size,
            "seconds": round(min(times[1:] or times), 5),
            "MiB": round(memory, 1),
        }


def peak_mib() -> float:
    """The peak of this process's memory since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def exponents(points: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """The steepest half decade of time, and that of memory, and over all of them."""
    rows = sorted(points, key=lambda point: point["size"])
    result: dict[str, float | None] = {}
    for key, least in (("seconds", LEAST_SECONDS), ("MiB", 20.0)):
        slopes = [
            math.log(later[key] / earlier[key]) / math.log(later["size"] / earlier["size"])
            for earlier, later in itertools.pairwise(rows)
            if earlier[key] >= least
        ]
        result[f"steepest {key}"] = round(max(slopes), 2) if slopes else None
        first, last = rows[0], rows[-1]
        if min(first[key], last[key]) > 0:
            whole = math.log(last[key] / first[key]) / math.log(last["size"] / first["size"])
            result[f"overall {key}"] = round(whole, 2)
    return result


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Time relative to the smallest size over the size relative to the smallest, both in decades."""
    from tilewise.evaluation.charts import HEIGHT, WIDTH, Line, line_chart

    lines = []
    for axis in dict.fromkeys(point["axis"] for point in points):
        rows = sorted((each for each in points if each["axis"] == axis), key=lambda each: each["size"])
        first = rows[0]
        decades = [
            (math.log10(row["size"] / first["size"]), math.log10(row["seconds"] / first["seconds"]))
            for row in rows
        ]
        lines.append(Line(axis, decades))
    chart = line_chart(lines, "CPU time over size", "decades of size", y_max=2.2, x_range=(0, 2))
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">{chart}</svg>\n')


def main() -> None:
    """Measure each point in a process of its own, print the exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of: {', '.join(AXES)}")
    parser.add_argument("--runs", type=Path, help="a file to keep the points in, a line each")
    parser.add_argument("--plot", type=Path, help="an SVG to draw")
    parser.add_argument("--here", type=int, metavar="SIZE", help="measure one point in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.axes[0], arguments.here)))
        return
    known = arguments.runs.read_text().splitlines() if arguments.runs and arguments.runs.exists() else []
    points = [json.loads(line) for line in known]
    for axis in arguments.axes or AXES:
        for size in sizes_of(AXES[axis][2]):
            if any((point["axis"], point["size"]) == (axis, size) for point in points):
                continue
            command = [sys.executable, __file__, axis, "--here", str(size)]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[
                -1
            ]
            points.append(json.loads(line))
            print(line, flush=True)
            if arguments.runs:
                with arguments.runs.open("a") as file:
                    file.write(line + "\n")
        its = [point for point in points if point["axis"] == axis]
        print(json.dumps({"axis": axis, "over": AXES[axis][0], **exponents(its)}), flush=True)
    if arguments.plot:
        draw(points, arguments.plot)


if __name__ == "__main__":
    main()
