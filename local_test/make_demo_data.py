"""Make a small data set to try a detector on: aerial photographs of cars, trucks and vans, in COCO form.

python local_test/make_demo_data.py DIR [--train 120] [--val 24] [--seed 0] [--width 1280] [--height 960]

The photographs are drawn, not taken. The same seed gives the same files. Written are `DIR/train.json`,
`DIR/val.json` and `DIR/images/*.jpg`; a `file_name` is relative to `DIR/images`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scenery import Colour, Points, Pose, Scene, Slot, shaded

CAR, TRUCK, VAN = 1, 2, 3
NAMES = {CAR: "car", TRUCK: "truck", VAN: "van"}
METRES = {CAR: ((4.0, 1.75), (4.9, 1.9)), TRUCK: ((6.8, 2.35), (9.0, 2.55)), VAN: ((5.2, 1.95), (6.2, 2.1))}
HEIGHTS = {CAR: 1.3, TRUCK: 3.0, VAN: 2.2}  # metres, for the shadow
LENGTHS = (14.0, 45.0)  # pixels, the shortest and the longest vehicle
EMPTY = 0.08  # share of photographs without any vehicle
VISIBLE = 0.4  # share of a vehicle inside the photograph under which it is left out
SHARP = 4  # drawing scale of a vehicle before it is reduced
GLASS = (34, 40, 48)
CAR_COLOURS = (
    (226, 226, 224), (168, 172, 176), (112, 116, 122), (46, 48, 52), (150, 34, 32), (42, 70, 124),
    (196, 190, 170), (58, 82, 66), (206, 206, 210), (70, 74, 84), (192, 120, 44), (104, 148, 178),
)  # fmt: skip
VAN_COLOURS = (
    (232, 232, 228),
    (224, 226, 230),
    (180, 184, 188),
    (96, 102, 110),
    (216, 184, 64),
    (52, 76, 128),
)
LOADS = ((226, 226, 222), (204, 206, 208), (84, 112, 150), (150, 140, 120), (70, 96, 76), (172, 70, 56))

Part = tuple[Points, Colour]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Vehicle:
    """A vehicle seen from above; sizes in pixels."""

    category: int
    pose: Pose
    length: float
    width: float
    colour: Colour
    load: Colour = LOADS[0]

    def outline(self) -> Points:
        """The body's outline in the image."""
        return self.pose.put(_body(self.category) * (self.length, self.width))


def _body(category: int) -> Points:
    """An outline of unit length and width, front towards +x; cars are the roundest."""
    front, rear, side = {CAR: (0.10, 0.06, 0.22), VAN: (0.07, 0.02, 0.14), TRUCK: (0.03, 0.0, 0.10)}[category]
    half = [(0.5, 0.5 - 1.2 * side), (0.5 - 0.4 * front, 0.5 - 0.4 * side), (0.5 - 1.6 * front, 0.5)]
    half += [(-0.5 + 1.6 * rear, 0.5), (-0.5, 0.5 - side if rear else 0.5)]
    return np.array(half + [(x, -y) for x, y in reversed(half)])


def _band(rear: float, front: float, rear_half: float, front_half: float) -> Points:
    """A part across the vehicle, between two places along it, half as wide as said at each."""
    return np.array([(rear, rear_half), (front, front_half), (front, -front_half), (rear, -rear_half)])


def _car_parts(vehicle: Vehicle) -> list[Part]:
    colour = vehicle.colour
    return [
        (_body(CAR), colour),
        (_band(0.20, 0.42, 0.38, 0.34), shaded(colour, 1.06)),
        (_band(-0.42, 0.24, 0.36, 0.42), GLASS),
        (_band(-0.27, 0.06, 0.33, 0.35), shaded(colour, 1.14)),
        (_band(-0.49, -0.46, 0.40, 0.44), shaded(colour, 0.72)),
    ]


def _van_parts(vehicle: Vehicle) -> list[Part]:
    colour = vehicle.colour
    ribs = [(_band(x, x + 0.02, 0.38, 0.38), shaded(colour, 0.9)) for x in (-0.34, -0.18, -0.02, 0.12)]
    return [
        (_body(VAN), shaded(colour, 0.9)),
        (_band(-0.48, 0.24, 0.45, 0.44), shaded(colour, 1.08)),
        *ribs,
        (_band(0.23, 0.36, 0.42, 0.46), GLASS),
        (_band(0.37, 0.46, 0.44, 0.36), shaded(colour, 1.02)),
    ]


def _truck_parts(vehicle: Vehicle) -> list[Part]:
    colour, load = vehicle.colour, vehicle.load
    ribs = [(_band(x, x + 0.015, 0.46, 0.46), shaded(load, 0.9)) for x in (-0.36, -0.22, -0.08, 0.06)]
    return [
        (_body(TRUCK), shaded(load, 0.78)),
        (_band(-0.485, 0.19, 0.46, 0.46), load),
        *ribs,
        (_band(0.205, 0.26, 0.51, 0.51), (38, 38, 40)),
        (_band(0.26, 0.46, 0.47, 0.45), colour),
        (_band(0.28, 0.40, 0.36, 0.36), shaded(colour, 1.15)),
        (_band(0.425, 0.475, 0.44, 0.40), GLASS),
    ]


PARTS = {CAR: _car_parts, TRUCK: _truck_parts, VAN: _van_parts}


def _sharp_polygon(draw: ImageDraw.ImageDraw, points: Points, corner: Points, fill: int | Colour) -> None:
    draw.polygon([(x, y) for x, y in (points - corner) * SHARP - 0.5], fill=fill)


def draw_vehicle(image: Image.Image, vehicle: Vehicle) -> None:
    """Draw a vehicle, without its shadow, into an RGB image."""
    outline = vehicle.outline()
    corner = np.floor(outline.min(axis=0)) - 1
    width, height = (int(side) for side in np.ceil(outline.max(axis=0)) + 1 - corner)
    patch = Image.new("RGB", (width * SHARP, height * SHARP), shaded(vehicle.colour, 0.8))
    mask = Image.new("L", patch.size)
    _sharp_polygon(ImageDraw.Draw(mask), outline, corner, 255)
    draw = ImageDraw.Draw(patch)
    for part, colour in PARTS[vehicle.category](vehicle):
        _sharp_polygon(draw, vehicle.pose.put(part * (vehicle.length, vehicle.width)), corner, colour)
    image.paste(patch.reduce(SHARP), (int(corner[0]), int(corner[1])), mask.reduce(SHARP))


def draw_shadows(image: Image.Image, vehicles: Sequence[Vehicle], scene: Scene) -> Image.Image:
    """Darken the ground where vehicles keep the sun off, except in the shadow of taller things."""
    mask = Image.new("L", (image.width * 2, image.height * 2))
    draw = ImageDraw.Draw(mask)
    for vehicle in vehicles:
        outline, fall = vehicle.outline(), scene.sun * scene.reach * HEIGHTS[vehicle.category]
        for share in (0.0, 0.34, 0.67, 1.0):
            draw.polygon([(x, y) for x, y in (outline + share * fall) * 2 - 0.5], fill=225)
    return scene.darkened(image, mask.reduce(2))


def _clipped(points: Points, width: int, height: int) -> Points:
    """The part of a convex polygon that lies in the image."""
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -float(width)), (1, 1, 0.0), (1, -1, -float(height))):
        kept: list[Points] = []
        for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
            a, b = sign * here[axis] - limit, sign * there[axis] - limit
            if a >= 0:
                kept.append(here)
            if a * b < 0:
                kept.append(here + (there - here) * (a / (a - b)))
        points = np.array(kept).reshape(-1, 2)
    return points


def _area(points: Points) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def vehicle_box(vehicle: Vehicle, width: int, height: int) -> Box | None:
    """The bound (x, y, width, height) of what the image shows of a vehicle; None if it shows too little."""
    outline = vehicle.outline()
    shown = _clipped(outline, width, height)
    if len(shown) < 3 or _area(shown) < VISIBLE * _area(outline):
        return None
    (left, top), (right, bottom) = shown.min(axis=0), shown.max(axis=0)
    return float(left), float(top), float(right - left), float(bottom - top)


def random_vehicle(rng: np.random.Generator, slot: Slot, metre: float) -> Vehicle:
    """A vehicle that fits a slot, at a scale of `metre` pixels a metre."""
    category = int(rng.choice((CAR, TRUCK, VAN), p=(0.46, 0.33, 0.21) if slot.roomy else (0.78, 0.0, 0.22)))
    length, width = rng.uniform(*METRES[category]) * metre
    palette = VAN_COLOURS if category == VAN else CAR_COLOURS
    colour = shaded(palette[int(rng.integers(len(palette)))], rng.uniform(0.85, 1.1))
    load = shaded(LOADS[int(rng.integers(len(LOADS)))], rng.uniform(0.9, 1.1))
    ahead, right = rng.normal(0, 0.12 * metre, 2)
    pose = slot.pose.at(ahead, right, rng.normal(0, 0.02))
    return Vehicle(category, pose, float(np.clip(length, *LENGTHS)), width, colour, load)


def _apart(one: Vehicle, other: Vehicle, gap: float = 2.0) -> bool:
    """Whether a line parts two vehicles with a gap of some pixels."""
    if math.hypot(one.pose.x - other.pose.x, one.pose.y - other.pose.y) > LENGTHS[1] + 2 * gap:
        return True
    for heading in (one.pose.heading, other.pose.heading):
        for turn in (0.0, math.pi / 2):
            axis = np.array([math.cos(heading + turn), math.sin(heading + turn)])
            a, b = one.outline() @ axis, other.outline() @ axis
            if a.max() + gap < b.min() or b.max() + gap < a.min():
                return True
    return False


def park(rng: np.random.Generator, scene: Scene) -> list[Vehicle]:
    """Choose vehicles for a scene: none, or 5 to 60 as far as there is room."""
    fewest, most = {"suburb": (5, 60), "car park": (15, 60), "countryside": (5, 30)}[scene.kind]
    wanted = 0 if rng.random() < EMPTY else int(rng.integers(fewest, most + 1))
    vehicles: list[Vehicle] = []
    for i in rng.permutation(len(scene.slots)):
        if len(vehicles) == wanted:
            break
        vehicle = random_vehicle(rng, scene.slots[i], scene.metre)
        shown = vehicle_box(vehicle, *scene.size) is not None and scene.clear(vehicle.outline())
        if shown and all(_apart(vehicle, other) for other in vehicles):
            vehicles.append(vehicle)
    return vehicles


def demo_image(rng: np.random.Generator, width: int, height: int) -> tuple[Image.Image, list[Vehicle]]:
    """One photograph and the vehicles in it."""
    scene = Scene(rng, width, height)
    vehicles = park(rng, scene)
    image = draw_shadows(scene.surface(), vehicles, scene)
    for vehicle in vehicles:
        draw_vehicle(image, vehicle)
    return scene.photograph(scene.cover(image)), vehicles


def _write_image(path: Path, seed: tuple[int, int, int], width: int, height: int) -> list[tuple[int, Box]]:
    """Write one photograph; its seed alone decides it, so that the order of making does not matter."""
    rng = np.random.default_rng(seed)
    image, vehicles = demo_image(rng, width, height)
    image.save(path, quality=int(rng.integers(75, 86)))
    boxes = ((vehicle.category, vehicle_box(vehicle, width, height)) for vehicle in vehicles)
    return [(category, box) for category, box in boxes if box is not None]


def _coco(
    names: Sequence[str], found: Sequence[list[tuple[int, Box]]], width: int, height: int
) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, objects in enumerate(found, start=1):
        for category, box in objects:
            x, y, w, h = (round(side, 2) for side in box)
            w, h = round(min(w, width - x), 2), round(min(h, height - y), 2)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            annotations.append({**row, "bbox": [x, y, w, h], "area": round(w * h, 2), "iscrowd": 0})
    images = [
        {"id": i, "file_name": n, "width": width, "height": height} for i, n in enumerate(names, start=1)
    ]
    categories = [{"id": key, "name": name, "supercategory": "vehicle"} for key, name in NAMES.items()]
    info = {"description": "Drawn aerial photographs of small vehicles", "version": "1.0"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def make_demo_data(
    folder: Path,
    train: int = 120,
    val: int = 24,
    seed: int = 0,
    width: int = 1280,
    height: int = 960,
    processes: int = 1,
) -> None:
    """Write the data set; more processes make the same files, sooner. OSError if it cannot be written."""
    if train < 0 or val < 0:
        raise ValueError(f"no data set has {min(train, val)} photographs")
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": [f"train_{i:04d}.jpg" for i in range(train)],
        "val": [f"val_{i:04d}.jpg" for i in range(val)],
    }
    jobs = [
        (images / name, (seed, part, i), width, height)
        for part, names in enumerate(splits.values())
        for i, name in enumerate(names)
    ]
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_write_image, *zip(*jobs, strict=True), chunksize=4)) if jobs else []
    else:
        found = [_write_image(*job) for job in jobs]
    for split, part in (("train", found[:train]), ("val", found[train:])):
        text = json.dumps(_coco(splits[split], part, width, height), indent=1)
        (folder / f"{split}.json").write_text(text + "\n", encoding="utf-8")


def _count(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"must be from {lowest} to {highest}, not {number}")
        return number

    parse.__name__ = "whole number"
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Make the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write; made if missing")
    for name, default, lowest, highest, meaning in (
        ("train", 120, 0, 100_000, "photographs to train on"),
        ("val", 24, 0, 100_000, "photographs to validate on"),
        ("seed", 0, 0, 2**63, "the same seed gives the same files"),
        ("width", 1280, 128, 8192, "of a photograph, in pixels"),
        ("height", 960, 128, 8192, "of a photograph, in pixels"),
    ):
        parse = _count(lowest, highest)
        parser.add_argument(f"--{name}", type=parse, default=default, help=f"{meaning} (default {default})")
    args = parser.parse_args(argv)
    processes = 2 if args.train + args.val > 8 and (os.cpu_count() or 1) > 1 else 1
    try:
        make_demo_data(args.folder, args.train, args.val, args.seed, args.width, args.height, processes)
    except OSError as error:
        parser.error(f"cannot write to {args.folder}: {error.strerror or error}")
    print(f"{args.folder}: {args.train} photographs to train on, {args.val} to validate on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
