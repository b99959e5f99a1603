"""How cost grows: CPU seconds and memory over two decades of each size, and the exponent of each curve.

python benchmarks/scaling.py [AXIS …] [--runs FILE] [--minutes 20] [--plot FILE]

Each point is a process of its own on one core with one thread; it prints a JSON line as it ends. The file of
--runs keeps the points: the same command goes on where the last one stopped, and with all of them there it
only prints the exponents and draws the plot, an SVG. A point that takes longer than three minutes is left
out, and larger ones of its axis with it. Memory is the peak of what the work adds to what its inputs take.
The exponent is that of the steepest half decade from the point where the work takes a twentieth of a second:
an overhead that is paid once would hide it below.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import json
import math
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("container", "tests", "benchmarks")]

import torch  # noqa: E402
import torchvision  # noqa: E402, F401  # before the processes fork: each would import them anew
from runs import on_one_core  # noqa: E402
from tilewise.training.distributed.context import DistributedContext  # noqa: E402

Work = Callable[[], object]
HALF_DECADE = math.sqrt(10)
ENOUGH_SECONDS, LEAST_SECONDS, MOST_SECONDS = 0.5, 0.05, 180
LEAST_MIB = 20.0
SIDE = 320
MODEL = "yolox_nano"


class OneOfMany(DistributedContext):
    """A process that asks none of the others."""

    def all_reduce_max(self, number: int) -> int:
        """Its own."""
        return number


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
    from tilewise.views.view import Scaling
    from worker_memory import simulated

    image = folder / "image.jpg"
    image.write_bytes(picture(600))
    records, scaling = Records(simulated(image, count, 10)), Scaling(square=SIDE)
    loader = make_loader(
        Split(records, ChannelIssues("train")),
        LoaderConfig(scaling=scaling, batch_size=4, workers=0),
        planner=ViewPlanner("grid", Tiling("grid", grid=(3, 2)), scaling, negative_ratio=1.0),
        distributed=OneOfMany(size=processes),
    )
    batches: Any = loader.batch_sampler
    epochs = itertools.count(1)

    def plan() -> int:
        batches.epoch = next(epochs)  # a sampler keeps the plan of its epoch
        return sum(len(batch) for batch in batches)

    return plan


def sharing(count: int, folder: Path) -> Work:
    """One of so many processes plans its share of an epoch of 1,000 images."""
    return planning(1000, folder, processes=count)


def scene(count: int) -> Any:
    """The record of a scene with so many objects of 10 to 40 px; their density stays."""
    import numpy as np
    from tilewise.data.records import Record
    from tilewise.targets import Targets

    side, rng = round(200 * math.sqrt(count)), np.random.default_rng(0)
    corners, sides = rng.uniform(0, side - 40, (count, 2)), rng.uniform(10, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    targets: Targets[Any] = Targets(boxes, np.zeros(count, np.int64), np.zeros(count, np.bool_))
    return Record("scene", Path("scene"), side, side, targets)


def planning_tiles(count: int, folder: Path, views: Any = "fixed") -> Work:
    """The tiles of a scene with so many objects are planned: those with objects, and as many without."""
    import numpy as np
    from tilewise.tiling.spec import Level, Tiling
    from tilewise.training.dataloading.view_sampler import ViewPlanner
    from tilewise.views.view import Scaling

    record, zoom = scene(count), 200 * math.sqrt(count) / SIDE
    tiling = Tiling("fixed", tile_size=SIDE, overlap=0.25, whole_from=100.0)
    if views == "sniper":
        levels = (Level(1.0, 100.0), Level(zoom / 2, 25.0, 100.0), Level(zoom, 0.0, 50.0))
        tiling = Tiling("pyramid", levels=levels)
    planner = ViewPlanner(views, tiling, Scaling(square=SIDE), SIDE, negative_ratio=1.0)
    planner.draw([record], np.random.default_rng(0))  # what depends on the image's size alone is kept
    return lambda: planner.draw([record], np.random.default_rng(0))


def planning_chips(count: int, folder: Path) -> Work:
    """SNIPER's chips of a scene with so many objects are planned."""
    return planning_tiles(count, folder, "sniper")


def pasting(count: int, folder: Path) -> Work:
    """A scene with so many objects is copied, and its small objects are pasted into the copy."""
    from tilewise.augment.copy_paste import CopyPaste

    record, copies = scene(count), CopyPaste()

    def paste() -> object:
        size, own = (record.width, record.height), copies.pasteable_of(record.targets)
        return copies.plan(record.targets, *size, seed=0, donor=None, own=own)

    return paste


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
    "tiles of a scene": ("objects", planning_tiles, (1000, 100_000)),
    "chips of a scene": ("objects", planning_chips, (1000, 100_000)),
    "scene pasted": ("objects", pasting, (1000, 100_000)),
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


def in_own_process(axis: str, size: int) -> dict[str, Any]:
    """A point; its seconds are None where it takes too long. This process has imported what all need."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(measure(axis, size)))
    process.start()
    sender.close()
    process.join(MOST_SECONDS)
    if process.is_alive():
        process.kill()
        return {"axis": axis, "size": size, "seconds": None, "MiB": None}
    try:
        return dict(receiver.recv())
    except EOFError:
        raise RuntimeError(f"{axis}, {size}: failed with exit code {process.exitcode}") from None


def peak_mib() -> float:
    """The peak of this process's memory since it was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def exponents(points: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The steepest half decade of time, and that of memory, and over all of them."""
    result: dict[str, float | None] = {}
    for key, least in (("seconds", LEAST_SECONDS), ("MiB", LEAST_MIB)):
        slopes = [
            slope(earlier, later, key)
            for earlier, later in itertools.pairwise(points)
            if earlier[key] >= least
        ]
        result[f"steepest {key}"] = round(max(slopes), 2) if slopes else None
        if len(points) > 1 and min(points[0][key], points[-1][key]) > 0:
            result[f"overall {key}"] = round(slope(points[0], points[-1], key), 2)
    return result


def slope(earlier: dict[str, Any], later: dict[str, Any], key: str) -> float:
    """The exponent between two points."""
    return math.log(later[key] / earlier[key]) / math.log(later["size"] / earlier["size"])


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 420, 60, 300, 16, 44
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")


def draw(curves: dict[str, Sequence[dict[str, Any]]]) -> str:
    """An SVG of CPU seconds over the size as a multiple of the smallest, both in decades."""
    every = [row["seconds"] for rows in curves.values() for row in rows]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))

    def at(size: float, seconds: float) -> str:
        across = math.log10(size) / 2 * (WIDTH - LEFT - RIGHT)
        up = (math.log10(seconds) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{LEFT + across:.1f},{HEIGHT - BOTTOM - up:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    ]
    for decade in range(low, high + 1):
        left, right = at(1, 10**decade), at(100, 10**decade)
        y = float(left.partition(",")[2])
        parts.append(f'<polyline points="{left} {right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g} s</text>')
    for times in (1, 10, 100):
        x = float(at(times, 1).partition(",")[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{times}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">times the smallest size</text>')
    first = 10.0 ** (low + 0.3)
    line = f'{at(1, first)} {at(100, first * 100)}" stroke="#999" stroke-dasharray="4 4'
    parts.append(f'<polyline points="{line}"/>')
    for number, (axis, rows) in enumerate(curves.items()):
        colour, dash = COLOURS[number % len(COLOURS)], ' stroke-dasharray="6 3"' * (number >= len(COLOURS))
        places = " ".join(at(row["size"] / rows[0]["size"], row["seconds"]) for row in rows)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        x, y = WIDTH - RIGHT + 14, TOP + 14 + 22 * number
        parts.append(f'<path d="M{x} {y}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        found = exponents(rows)["steepest seconds"]
        label = f"{axis}: {rows[0]['size']} to {rows[-1]['size']} {AXES[axis][0]}"
        parts.append(f'<text x="{x + 28}" y="{y + 4}" font-size="10">{label}, {found or "-"}</text>')
    y = TOP + 14 + 22 * len(curves)
    parts.append(f'<path d="M{WIDTH - RIGHT + 14} {y}h22" stroke="#999" stroke-dasharray="4 4"/>')
    parts.append(f'<text x="{WIDTH - RIGHT + 42}" y="{y + 4}" font-size="10">exponent 1</text></svg>\n')
    return "\n".join(parts)


def complete(known: Sequence[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """The points of an axis that were measured, the smallest first."""
    own = [point for point in known if point["axis"] == axis and point["seconds"] is not None]
    return sorted(own, key=lambda point: int(point["size"]))


def main() -> None:
    """Measure each point in a process of its own, print the exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of: {', '.join(AXES)}")
    parser.add_argument("--runs", type=Path, help="a file to keep the points in, a line each")
    parser.add_argument("--minutes", type=float, default=20, help="no point begins after them")
    parser.add_argument("--plot", type=Path, help="an SVG to draw")
    arguments = parser.parse_args()
    if unknown := {*arguments.axes} - AXES.keys():
        parser.error(f"no such axis: {', '.join(unknown)}; there are {', '.join(AXES)}")
    end, store = time.monotonic() + 60 * arguments.minutes, arguments.runs
    on_one_core(None)
    torch.set_num_threads(1)
    points = [json.loads(line) for line in store.read_text().splitlines()] if store and store.exists() else []
    wanted = arguments.axes or list(AXES)
    for axis in wanted:
        for size in sizes_of(AXES[axis][2]):
            found = next((each for each in points if (each["axis"], each["size"]) == (axis, size)), None)
            if found is None and time.monotonic() < end:
                found = in_own_process(axis, size)
                points.append(found)
                print(json.dumps(found), flush=True)
                if store:
                    with store.open("a") as file:
                        file.write(json.dumps(found) + "\n")
            if found is None or found["seconds"] is None:
                break
    if time.monotonic() >= end:
        print(
            "the time is over: the same command with --runs goes on where this one stopped", file=sys.stderr
        )
    curves = {axis: complete(points, axis) for axis in wanted}
    for axis, rows in curves.items():
        print(json.dumps({"axis": axis, "over": AXES[axis][0], "points": len(rows), **exponents(rows)}))
    if arguments.plot:
        arguments.plot.write_text(draw({axis: rows for axis, rows in curves.items() if len(rows) > 1}))


if __name__ == "__main__":
    main()
