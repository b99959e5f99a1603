"""Scenery of a made-up aerial photograph: ground, roads, car parks, houses and trees under one sun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = NDArray[np.float64]  # (n, 2): x, y in pixels
Field = NDArray[np.float32]  # (height, width)
Colour = tuple[int, int, int]

FINE = 2  # drawing scale of everything that is reduced afterwards, for smooth edges
GRID = 4  # pixels a cell of the map of occupied ground
KINDS = ("suburb", "car park", "countryside")
ROOFS = ((146, 84, 62), (120, 66, 54), (98, 94, 96), (84, 76, 72), (150, 112, 88), (128, 124, 122))
BRIGHT = ((196, 62, 48), (44, 92, 160), (222, 178, 48), (60, 122, 84), (206, 206, 202), (122, 74, 52))
GRASS = ((98, 110, 74), (114, 118, 82), (88, 104, 76), (126, 122, 92))
CROPS = ((118, 122, 80), (160, 146, 108), (134, 116, 92), (94, 110, 70), (172, 158, 116), (112, 100, 82))
RING = np.array([(math.cos(turn), math.sin(turn)) for turn in np.arange(24) * math.pi / 12])


@dataclass(frozen=True)
class Pose:
    """Where a thing is, in pixels, and the way it points, in radians from the x axis towards y."""

    x: float
    y: float
    heading: float

    def put(self, local: ArrayLike) -> Points:
        """Points of the thing's own frame (ahead, to the right) in the image."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        turned = np.asarray(local, np.float64) @ np.array([[cos, sin], [-sin, cos]])
        points: Points = turned + np.array([self.x, self.y])
        return points

    def at(self, ahead: float, right: float = 0.0, turn: float = 0.0) -> Pose:
        """The pose so far ahead and to the right of this one, turned by some angle."""
        x, y = self.put((ahead, right))
        return Pose(float(x), float(y), self.heading + turn)

    def rectangle(self, length: float, width: float) -> Points:
        """The corners of a rectangle around this place."""
        a, b = length / 2, width / 2
        return self.put([(a, b), (-a, b), (-a, -b), (a, -b)])


@dataclass(frozen=True)
class Slot:
    """A place where a vehicle may stand; a roomy one takes a truck."""

    pose: Pose
    roomy: bool


@dataclass(frozen=True)
class Road:
    """A carriageway: its centre line, with a point every metre and a half, and its width in pixels."""

    centre: Points
    width: float

    def shifted(self, offset: float) -> Points:
        """The line beside the centre line, to the right of the direction of travel."""
        along = np.gradient(self.centre, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        return self.centre + offset * np.stack([-along[:, 1], along[:, 0]], axis=1)

    def strip(self, margin: float) -> Points:
        """The carriageway's outline, widened by a margin on both sides."""
        half = self.width / 2 + margin
        return np.concatenate([self.shifted(half), self.shifted(-half)[::-1]])

    def pose(self, i: int) -> Pose:
        """The pose at one of the centre line's points but the last."""
        (x, y), (dx, dy) = self.centre[i], self.centre[i + 1] - self.centre[i]
        return Pose(float(x), float(y), math.atan2(dy, dx))


def shaded(colour: Colour, light: float) -> Colour:
    """A colour in stronger (above 1) or weaker light."""
    red, green, blue = (max(0, min(255, round(part * light))) for part in colour)
    return red, green, blue


def noise(rng: np.random.Generator, size: tuple[int, int], coarse: float, fine: float) -> Field:
    """Smooth random texture of about unit deviation, with structure from `coarse` down to `fine` pixels."""
    width, height = size
    if fine >= 6:
        small = noise(rng, (width // 2, height // 2), coarse / 2, fine / 2)
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))
    total, power, cell = np.zeros((height, width), np.float32), 0.0, coarse
    while cell >= fine:
        across, down = width / cell, height / cell
        grid = rng.standard_normal((math.ceil(down) + 2, math.ceil(across) + 2), dtype=np.float32)
        ox, oy = rng.random(2)
        box = (ox, oy, ox + across, oy + down)
        weight = cell**0.4
        total += weight * np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC, box))
        power += 0.5 * weight**2
        cell /= 2
    return total / np.float32(math.sqrt(power))


def _vacant(area: Image.Image, outline: Points) -> tuple[bool, Image.Image, tuple[int, int]]:
    """Whether a map is blank inside an outline; the outline's mask, and where that lies on the map."""
    left, top = (int(side) for side in np.clip(outline.min(axis=0), 0, area.size))
    right, bottom = (int(side) + 1 for side in np.clip(outline.max(axis=0), (left, top), area.size))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline - (left, top)], fill=255)
    here = area.crop((left, top, right, bottom))
    return ImageChops.multiply(mask, here).getbbox() is None, mask, (left, top)


class Layer:
    """A sheet drawn `FINE` times as large as the image, laid over it once it is reduced."""

    def __init__(self, size: tuple[int, int], mode: str = "L") -> None:
        self.image = Image.new(mode, (size[0] * FINE, size[1] * FINE))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Points, fill: int | tuple[int, ...]) -> None:
        """Fill a polygon given in image pixels."""
        self.draw.polygon([(x, y) for x, y in points * FINE - 0.5], fill=fill)

    def line(self, points: ArrayLike, fill: int | tuple[int, ...], width: float) -> None:
        """Draw a line given in image pixels."""
        spots = [(x, y) for x, y in np.asarray(points) * FINE - 0.5]
        self.draw.line(spots, fill=fill, width=max(1, round(width * FINE)), joint="curve")

    def reduced(self) -> Image.Image:
        """The layer in the image's size."""
        return self.image.reduce(FINE)


class Scene:
    """One view from above, laid out at random: where things are, and how they look from the air.

    `surface` draws what lies flat, `cover` what stands above vehicles, `photograph` what the camera adds;
    vehicles are put between the first and the second, on some of `slots`.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.size = rng, (width, height)
        self.kind = KINDS[int(rng.choice(3, p=(0.45, 0.3, 0.25)))]
        self.metre = rng.uniform(7.0, 10.0)  # in pixels
        self.middle = Pose(width / 2, height / 2, rng.uniform(0, math.pi))
        fall = rng.uniform(0, 2 * math.pi)
        self.sun = np.array([math.cos(fall), math.sin(fall)])  # the way shadows fall
        self.reach = self.metre * rng.uniform(0.45, 0.95)  # pixels of shadow for a metre of height
        self.dark = tuple(round(255 * part * rng.uniform(0.9, 1.1)) for part in (0.44, 0.47, 0.55))
        self.slots: list[Slot] = []
        self.roads: list[Road] = []
        self.lawns: list[tuple[Points, Colour]] = []
        self.trees: list[tuple[float, float, float]] = []
        self.paths, self.asphalt, self.wear, self.paint, self.shade = (Layer(self.size) for _ in range(5))
        self.roofs = Layer(self.size, "RGBA")
        self.taken = Image.new("L", (width // GRID + 1, height // GRID + 1))
        {"suburb": self._suburb, "car park": self._retail, "countryside": self._countryside}[self.kind]()
        self._plant()
        self.roof_sheet = self.roofs.reduced()
        self.tall = self.roof_sheet.getchannel("A")  # where roofs and trees would hide a vehicle
        self.crowns, self.shadow = self._grow()

    # -- layout ---------------------------------------------------------------------------------------

    def _suburb(self) -> None:
        """Streets on a bent grid, houses with gardens and drives, sometimes a small car park."""
        rng, metre = self.rng, self.metre
        for offset in (np.arange(-3, 4) * 66 + rng.uniform(-30, 30)) * metre:
            self._road(self.middle.at(0, offset), rng.uniform(6.0, 8.5), rng.uniform(0, 6))
        for offset in (np.arange(-1, 2) * 150 + rng.uniform(-90, 90)) * metre:
            turn = math.pi / 2 + rng.uniform(-0.15, 0.15)
            self._road(self.middle.at(offset, 0, turn), rng.uniform(6.0, 7.5), 0)
        self._mark_roads()
        if rng.random() < 0.5:
            self._car_parks(4, bays=(6, 12), rows=1)
        for road in self.roads:
            self._houses(road)
        self._clutter(60, ("container", "skip", "pallets", "pool", "disc", "shed", "shed", "shed"))

    def _retail(self) -> None:
        """A road or two, large flat-roofed halls, and car parks between them."""
        rng = self.rng
        self._road(self.middle.at(0, rng.uniform(0.25, 0.42) * self.size[1]), rng.uniform(7, 10), 0)
        if rng.random() < 0.6:
            ahead = rng.uniform(-0.45, 0.45) * self.size[0]
            self._road(self.middle.at(ahead, 0, math.pi / 2), rng.uniform(6, 8), 0)
        self._mark_roads()
        for rows in (3, 2, 1):
            self._car_parks(4, bays=(8, 22), rows=rows)
        for _ in range(60):
            length, width = rng.uniform((18, 14), (45, 28)) * self.metre
            self._hall(self._somewhere(rng.integers(2) * math.pi / 2), length, width)
        for road in self.roads[1:]:
            self._houses(road)
        self._clutter(90, ("container", "container", "skip", "pallets", "shed"))

    def _countryside(self) -> None:
        """Fields with hedges, a bent road, perhaps a lane, and farmyards."""
        rng = self.rng
        aside = rng.uniform(-0.2, 0.2) * self.size[1]
        self._road(self.middle.at(0, aside), rng.uniform(6.5, 8), rng.uniform(5, 25))
        if rng.random() < 0.6:
            self._road(self._somewhere(rng.uniform(1.0, 2.1)), rng.uniform(4.5, 6), rng.uniform(0, 12))
        self._mark_roads()
        for _ in range(int(rng.integers(5, 14))):
            self._yard(self._somewhere(rng.uniform(-0.3, 0.3)))
        self._clutter(70, ("container", "skip", "pallets", *["bale"] * 9))

    def _somewhere(self, turn: float) -> Pose:
        x, y = self.rng.uniform(0.02, 0.98, 2) * self.size
        return Pose(float(x), float(y), self.middle.heading + turn)

    def _free(self, outline: Points) -> bool:
        """Whether nothing in an outline stands or is paved."""
        return _vacant(self.taken, outline / GRID)[0]

    def _claim(self, outline: Points) -> bool:
        """Claim the ground in an outline; whether it was free."""
        free, mask, corner = _vacant(self.taken, outline / GRID)
        self.taken.paste(255, corner, mask)
        return free

    def _take(self, outline: Points) -> bool:
        """Claim the ground in an outline if it is free."""
        return self._free(outline) and self._claim(outline)

    def _road(self, pose: Pose, metres: float, bend: float) -> None:
        """A road through a place, with kerb, worn asphalt and slots on both lanes."""
        rng, metre, town = self.rng, self.metre, self.kind != "countryside"
        reach = math.hypot(*self.size)
        along = np.arange(-reach, reach, 1.5 * metre)
        aside = bend * metre * np.sin(along / reach * rng.uniform(2, 5) + rng.uniform(0, 6))
        centre = pose.put(np.stack([along, aside - aside[len(along) // 2]], axis=1))
        centre = centre[np.all((centre > -80) & (centre < np.array(self.size) + 80), axis=1)]
        if len(centre) < 8:
            return
        road = Road(centre, metres * metre)
        self.roads.append(road)
        self.paths.polygon(road.strip((1.8 if town else 0.6) * metre), 255 if town else 190)
        self.asphalt.polygon(road.strip(0), 255)
        for lane in (-0.36, -0.14, 0.14, 0.36):
            self.wear.line(road.shifted(lane * road.width), 36, 0.6 * metre)
        self._claim(road.strip((2.2 if town else 1.2) * metre))
        self._lane_slots(road, 0.22, int(rng.integers(6, 11)), roomy=True)
        if self.kind == "suburb":
            self._lane_slots(road, 0.40, 4, roomy=False)

    def _lane_slots(self, road: Road, share: float, step: int, *, roomy: bool) -> None:
        for side in (1, -1):
            lane = Road(road.shifted(side * share * road.width)[::side], 0)
            for i in range(int(self.rng.integers(step)), len(lane.centre) - 1, step):
                self.slots.append(Slot(lane.pose(i), roomy))

    def _mark_roads(self) -> None:
        """Lane markings, repairs, and what junctions change."""
        rng, metre = self.rng, self.metre
        for road in self.roads:
            if road.width > 6.4 * metre:
                for i in range(0, len(road.centre) - 3, 6):
                    self.paint.line(road.centre[i : i + 3], 210, 0.2 * metre)
                if rng.random() < 0.6:
                    for side in (-0.46, 0.46):
                        self.paint.line(road.shifted(side * road.width), 170, 0.15 * metre)
            for i in rng.integers(0, len(road.centre) - 1, size=len(road.centre) // 16):
                spot = road.pose(int(i)).at(0, rng.uniform(-0.35, 0.35) * road.width)
                length, width = rng.uniform((1.5, 0.8), (6, 2.2)) * metre
                self.wear.polygon(spot.rectangle(length, width), int(rng.integers(40, 150)))
        for first in self.roads:
            for second in self.roads:
                gap = np.linalg.norm(first.centre[:, None] - second.centre[None], axis=2).min(axis=1)
                if first is not second and gap.min() < first.width:
                    self._junction(first, second, int(gap.argmin()))

    def _junction(self, first: Road, second: Road, i: int) -> None:
        """Clear the paint where roads meet, and draw a zebra crossing beside some of the junctions."""
        metre, (x, y) = self.metre, first.centre[i]
        spot, radius = Pose(float(x), float(y), 0), 0.62 * max(first.width, second.width)
        self.paint.polygon(spot.put(RING * radius), 0)
        self.asphalt.polygon(spot.put(RING * 1.15 * radius), 255)
        i += math.ceil(0.9 * radius / metre) + 2
        if i < len(first.centre) - 1 and self.rng.random() < 0.5:
            for aside in np.arange(-0.44, 0.46, 1.1 * metre / first.width) * first.width:
                self.paint.polygon(first.pose(i).at(0, aside).rectangle(3 * metre, 0.55 * metre), 215)

    def _car_parks(self, tries: int, bays: tuple[int, int], rows: int) -> None:
        """Rows of marked bays on both sides of aisles, where there is room."""
        rng, metre = self.rng, self.metre
        for _ in range(tries):
            pose, count = self._somewhere(0), int(rng.integers(*bays))
            length, depth = (2.7 * count + 9) * metre, 16.5 * rows * metre
            if not self._take(pose.rectangle(length + 3 * metre, depth + 3 * metre)):
                continue
            self.paths.polygon(pose.rectangle(length + 2 * metre, depth + 2 * metre), 255)
            self.asphalt.polygon(pose.rectangle(length, depth), 255)
            self._drive_to_road(pose, 5.6 * metre, self.asphalt)
            for row in range(rows):
                aisle = pose.at(0, 16.5 * (row + 0.5) * metre - depth / 2)
                self._bays(aisle, count)
                self._bays(aisle.at(0, 0, math.pi), count)
                for along in rng.uniform(-0.45, 0.45, 2) * length:
                    self.slots.append(Slot(aisle.at(along, 1.4 * metre), roomy=True))

    def _bays(self, aisle: Pose, count: int) -> None:
        """Bays on an aisle's right, some with a stain of oil."""
        rng, metre = self.rng, self.metre
        for i in range(count + 1):
            along = (i - count / 2) * 2.7 * metre
            self.paint.line(aisle.put([(along, 3.1 * metre), (along, 8.1 * metre)]), 200, 0.17 * metre)
            if i < count:
                turn = math.pi / 2 + rng.choice([0, math.pi], p=[0.7, 0.3]) + rng.normal(0, 0.03)
                bay = aisle.at(along + 1.35 * metre, 5.6 * metre, turn)
                self.slots.append(Slot(bay, roomy=False))
                if rng.random() < 0.35:
                    length, width = rng.uniform(0.8, 3.4, 2) * metre
                    self.wear.polygon(bay.rectangle(length, width), int(rng.integers(25, 80)))

    def _drive_to_road(self, pose: Pose, width: float, top: Layer) -> None:
        if not self.roads:
            return
        points = np.concatenate([road.centre for road in self.roads])
        here = np.array([pose.x, pose.y])
        way = Road(np.linspace(here, points[np.linalg.norm(points - here, axis=1).argmin()], 3), width)
        self.paths.polygon(way.strip(0.7 * self.metre), 200)
        top.polygon(way.strip(0), 200 if top is self.paths else 255)
        self._claim(way.strip(self.metre))

    def _houses(self, road: Road) -> None:
        """Houses with gardens on both sides of a road, some with a drive and room for a car."""
        rng, metre = self.rng, self.metre
        for side in (1, -1):
            i = int(rng.integers(2, 9))
            while i < len(road.centre) - 1:
                length, depth, front = rng.uniform((9, 7, 4.5), (14, 9.5, 7)) * metre
                street = road.pose(i).at(0, 0, 0 if side == 1 else math.pi)  # the house is on its right
                pose = street.at(0, road.width / 2 + 2.2 * metre + front + depth / 2)
                i += round((length / metre + rng.uniform(5, 9)) / 1.5)
                if self._take(pose.rectangle(length + 2 * metre, depth + 2 * metre)):
                    plot = pose.at(0, 5 * metre).rectangle(length + 6.5 * metre, depth + 22 * metre)
                    self.lawns.append((plot, GRASS[int(rng.integers(len(GRASS)))]))
                    self._house(pose, length, depth, rng.uniform(5, 8))
                    if rng.random() < 0.7:
                        self._drive(pose.at(length / 2 + 2.6 * metre, -front - depth / 2, math.pi / 2))

    def _drive(self, kerb: Pose) -> None:
        """A drive beside a house, from the kerb, with room for a car or two."""
        metre, long = self.metre, self.rng.uniform(6, 12) * self.metre
        if self._free(kerb.at(long / 2 + metre).rectangle(long - 2 * metre, 2.8 * metre)):
            self._claim(kerb.at(long / 2).rectangle(long, 3 * metre))
            self.paths.polygon(kerb.at(long / 2 - 1.5 * metre).rectangle(long + 3 * metre, 2.8 * metre), 235)
            turn = self.rng.choice([0, math.pi])
            self.slots.append(Slot(kerb.at(self.rng.uniform(3, 4) * metre, 0, turn), roomy=False))

    def _yard(self, pose: Pose) -> None:
        """A gravel farmyard with sheds, containers and some room to park."""
        rng, metre = self.rng, self.metre
        length, width = rng.uniform((26, 20), (44, 32)) * metre
        if not self._free(pose.rectangle(length + 4 * metre, width + 16 * metre)):
            return
        for side in (1, -1):
            shed = pose.at(rng.uniform(-0.1, 0.1) * length, side * (width / 2 + 4 * metre))
            self._hall(shed, length * rng.uniform(0.5, 0.9), 8 * metre, pitched=True)
        self._drive_to_road(pose, 3.5 * metre, self.paths)
        self.paths.polygon(pose.rectangle(length, width), 200)
        self._claim(pose.rectangle(length, width))
        for along in np.arange(-0.4, 0.41, 0.2) * length:
            spot = pose.at(along, rng.uniform(-0.35, 0.35) * width, rng.normal(0, 0.5))
            if rng.random() < 0.4:
                self._thing(spot, ("container", "skip", "pallets")[int(rng.integers(3))])
            else:
                self.slots.append(Slot(spot.at(0, 0, rng.uniform(0, 6.28)), roomy=True))

    # -- things that stand above the ground -----------------------------------------------------------

    def _cast(self, outline: Points, height: float) -> None:
        """The shadow of an upright block."""
        fall = self.sun * self.reach * height
        for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
            self.shade.polygon(np.array([start, end, end + fall, start + fall]), 255)
        self.shade.polygon(outline + fall, 255)

    def _roof(self, points: Points, colour: Colour, light: float = 1.0) -> None:
        self.roofs.polygon(points, (*shaded(colour, light), 255))

    def _facing(self, pose: Pose, ahead: float, right: float) -> float:
        """The light on a slope that falls that way."""
        x, y = Pose(0, 0, pose.heading).put((ahead, right))
        return float(1 - 0.26 * (x * self.sun[0] + y * self.sun[1]))

    def _house(self, pose: Pose, length: float, depth: float, height: float) -> None:
        """A pitched or hipped roof with rows of tiles, a chimney, and roof windows or panels."""
        rng, metre = self.rng, self.metre
        colour = shaded(ROOFS[int(rng.integers(len(ROOFS)))], rng.uniform(0.85, 1.2))
        self._cast(pose.rectangle(length, depth), height)
        a, b = length / 2, depth / 2
        ridge = a - rng.choice([0.0, 0.9 * b])
        for side in (1, -1):
            light = self._facing(pose, 0, side)
            self._roof(pose.put([(-a, side * b), (a, side * b), (ridge, 0), (-ridge, 0)]), colour, light)
            gable = pose.put([(side * a, b), (side * a, -b), (side * ridge, 0)])
            self._roof(gable, colour, self._facing(pose, side, 0))
            for row in np.arange(0.12, 1, 0.16):
                half = ridge + (a - ridge) * row
                tiles = pose.put([(-half, side * b * row), (half, side * b * row)])
                self.roofs.line(tiles, (*shaded(colour, 0.9 * light), 255), 0.5)
            for along in rng.uniform(-0.7, 0.7, int(rng.integers(0, 4))) * ridge:
                window, wide = pose.at(along, side * 0.5 * b), metre * rng.choice([1.2, 1.2, 3.6])
                self._roof(window.rectangle(wide + 1, 1.8 * metre + 1), (150, 150, 150))
                self._roof(window.rectangle(wide, 1.8 * metre), (44, 56, 76))
        if height > 3:
            chimney = pose.at(ridge * rng.uniform(-0.7, 0.7))
            self._roof(chimney.rectangle(metre, metre) + self.sun * self.reach * 0.7, (60, 50, 48))
            self._roof(chimney.rectangle(0.9 * metre, 0.9 * metre), (150, 110, 96))

    def _hall(self, pose: Pose, length: float, width: float, *, pitched: bool = False) -> None:
        """A large flat roof with skylights and machines, or a shed of ribbed metal."""
        rng, metre = self.rng, self.metre
        if not self._take(pose.rectangle(length + 3 * metre, width + 3 * metre)):
            return
        grey = int(rng.integers(110, 190))
        colour = (grey, grey, grey + 4) if rng.random() < 0.7 else (132, 92, 78)
        self.paths.polygon(pose.rectangle(length + 3 * metre, width + 3 * metre), 0 if pitched else 190)
        self._cast(pose.rectangle(length, width), 5 if pitched else 8)
        self._roof(pose.rectangle(length, width), colour, 1.12)
        self._roof(pose.rectangle(length - metre, width - metre), colour)
        for side in (1, -1) if pitched else ():
            slope = pose.at(0, side * width / 4).rectangle(length, width / 2)
            self._roof(slope, colour, self._facing(pose, 0, side))
        for along in np.arange(-length / 2 + 2, length / 2, (1.5 if pitched else 6) * metre):
            seam = pose.put([(along, -width / 2), (along, width / 2)])
            self.roofs.line(seam, (*shaded(colour, 0.93), 255), 0.5)
        turn = rng.integers(2) * math.pi / 2
        for ahead in np.arange(-0.5 * length + 4 * metre, 0.5 * length - 3 * metre, 6.5 * metre):
            for right in np.arange(-0.5 * width + 4 * metre, 0.5 * width - 3 * metre, 6.5 * metre):
                if rng.random() < 0.5:
                    self._fitting(pose.at(ahead, right + rng.normal(0, 0.3 * metre), turn))

    def _fitting(self, pose: Pose) -> None:
        """A machine or a skylight on a flat roof, of a vehicle's size."""
        length, width = self.rng.uniform((1.8, 1.2), (5.2, 2.2)) * self.metre
        outline = pose.rectangle(length, width)
        if self.rng.random() < 0.45:
            self._roof(outline + self.sun * self.reach * 1.2, (70, 72, 78))
            self._roof(outline, (186, 188, 190))
            self._roof(pose.rectangle(0.5 * length, 0.6 * width), (120, 122, 126))
        else:
            self._roof(outline, (206, 214, 220))
            self._roof(pose.rectangle(0.85 * length, 0.75 * width), (150, 172, 190))

    def _clutter(self, tries: int, names: Sequence[str]) -> None:
        """Things of a vehicle's size that are none, where there is room."""
        for _ in range(tries):
            pose = self._somewhere(self.rng.integers(2) * math.pi / 2 + self.rng.normal(0, 0.08))
            if self._take(pose.rectangle(7.5 * self.metre, 4.5 * self.metre)):
                self._thing(pose, names[int(self.rng.integers(len(names)))])

    def _thing(self, pose: Pose, name: str) -> None:
        metre, colour = self.metre, BRIGHT[int(self.rng.integers(len(BRIGHT)))]
        match name:
            case "container":
                self._box(pose, 6.1, 2.4, 2.6, colour, ribs=11)
            case "skip":
                self._box(pose, 4.2, 1.9, 1.5, colour, ribs=0)
                self._roof(pose.rectangle(3.5 * metre, 1.4 * metre), (82, 74, 66))
            case "pallets":
                self._box(pose, 2.6, 2.2, 1.4, (168, 140, 100), ribs=5)
            case "shed":
                self._house(pose, self.rng.uniform(3, 4.5) * metre, 2.8 * metre, 2.4)
            case "pool":
                self._roof(pose.rectangle(7.0 * metre, 4.0 * metre), (206, 200, 188))
                self._roof(pose.rectangle(5.8 * metre, 2.8 * metre), (92, 170, 190))
            case "disc":
                self._cast(pose.put(RING * 1.7 * metre), 0.8)
                self._roof(pose.put(RING * 1.8 * metre), (70, 96, 130))
                self._roof(pose.put(RING * 1.4 * metre), (44, 46, 50))
            case _:
                self._box(pose, 1.6, 1.5, 1.4, (186, 166, 112), ribs=2)

    def _box(self, pose: Pose, length: float, width: float, height: float, colour: Colour, ribs: int) -> None:
        """A block with ribs across; sizes in metres."""
        length, width = length * self.metre, width * self.metre
        self._cast(pose.rectangle(length, width), height)
        self._roof(pose.rectangle(length, width), colour)
        for share in (np.arange(ribs) + 0.5) / max(ribs, 1) - 0.5:
            rib = pose.put([(share * length, -0.45 * width), (share * length, 0.45 * width)])
            self.roofs.line(rib, (*shaded(colour, 0.82), 255), 0.5)

    def _plant(self) -> None:
        """Trees in groups, alone, and in hedges between fields, clear of everything that is paved."""
        rng, (width, height) = self.rng, self.size
        wood = noise(rng, (width // 8 + 1, height // 8 + 1), 30, 8)
        least = 1.3 if self.kind == "countryside" else 0.75
        for x, y in rng.uniform(0, 1, (width * height // 1300, 2)) * self.size:
            if wood[int(y) // 8, int(x) // 8] + rng.normal(0, 0.5) > least:
                self._tree(x, y, rng.uniform(1.6, 4.6))
        if self.kind == "countryside":
            for x, y in self._fields():
                self._tree(x, y, rng.uniform(1.0, 2.6))

    def _tree(self, x: float, y: float, metres: float) -> None:
        radius = metres * self.metre
        if self._free(RING[::3] * radius + (x, y)):
            self.trees.append((x, y, radius))

    # -- what the light shows -------------------------------------------------------------------------

    def _fields(self) -> Points:
        """Fields in strips, with crops and furrows; the places of the hedges between them."""
        rng, (width, height) = self.rng, (self.size[0] // 2, self.size[1] // 2)
        turn = self.middle.heading + rng.uniform(-0.2, 0.2)
        down, across = np.mgrid[0:height, 0:width].astype(np.float32)
        u = across * np.float32(math.cos(turn)) + down * np.float32(math.sin(turn))
        v = down * np.float32(math.cos(turn)) - across * np.float32(math.sin(turn))
        warp = 2.5 * noise(rng, (width, height), 120, 30)
        span = math.hypot(width, height)
        column = np.searchsorted(np.sort(rng.uniform(-span, span, 9)), u + warp)
        row = np.searchsorted(np.sort(rng.uniform(-span, span, 8)), v + warp + 37 * (column % 3))
        index = (column * 9 + row) % 64
        crops = np.array(CROPS)[rng.integers(len(CROPS), size=64)] * rng.uniform(0.85, 1.12, (64, 1))
        furrow = np.where(rng.random(64) < 0.5, rng.uniform(0.02, 0.09, 64), 0).astype(np.float32)
        turned = np.where(index % 2 == 1, u, v)
        rows = np.sin(turned * np.float32(2 * math.pi / rng.uniform(3, 6)))
        self.crops = crops.astype(np.float32)[index] * (1 + furrow[index] * rows)[..., None]
        border = (index[1:, 1:] != index[:-1, 1:]) | (index[1:, 1:] != index[1:, :-1])
        self.crops[1:, 1:][border] *= 0.72
        y, x = np.nonzero(border & (noise(rng, (width, height), 160, 80)[1:, 1:] > 0.1))
        hedges = np.stack([x, y], axis=1)[rng.random(len(x)) < 0.05]
        return hedges * 2 + rng.normal(0, 1.5, hedges.shape)

    def _ground(self) -> Image.Image:
        """Grass, soil and fields, without fine texture."""
        rng, half = self.rng, (self.size[0] // 2, self.size[1] // 2)
        patches, dry = noise(rng, half, 160, 4)[..., None], noise(rng, half, 90, 5)[..., None]
        if self.kind == "countryside":
            colours = self.crops * (1 + 0.05 * patches + 0.03 * dry)
        else:
            lush, pale = (np.array(GRASS[int(rng.integers(4))], np.float32) for _ in range(2))
            colours = lush + (1.12 * pale - lush) / (1 + np.exp(-2 * patches))
            bare = 1 / (1 + np.exp(-5 * (dry - 1.3)))
            colours = colours * (1 + 0.06 * dry) * (1 - bare) + np.array([150, 132, 104], np.float32) * bare
        ground = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
        sheet = Image.new("RGBA", half)
        draw = ImageDraw.Draw(sheet)
        for outline, colour in self.lawns:
            spots = [(x, y) for x, y in outline / 2]
            draw.polygon(spots, fill=(*shaded(colour, rng.uniform(0.85, 1.1)), 150))
            draw.line([*spots, spots[0]], fill=(66, 78, 52, 220), width=int(rng.integers(1, 3)))
        ground.paste(sheet, mask=sheet)
        return ground.resize(self.size, Image.Resampling.BILINEAR)

    def surface(self) -> Image.Image:
        """All that lies flat: ground, paths, asphalt with wear, and paint."""
        rng, image, (width, height) = self.rng, self._ground(), self.size
        stone, tar = int(rng.integers(140, 176)), int(rng.integers(84, 128))
        patchy = noise(rng, self.size, 64, 8)
        asphalt, paths = self.asphalt.reduced(), self.paths.reduced()
        worn = Image.fromarray(np.clip(170 + 60 * patchy, 0, 255).astype(np.uint8))
        image.paste((stone, stone - 4, stone - 14), mask=paths)
        image.paste((tar, tar, tar + 3), mask=asphalt)
        image.paste(shaded((tar, tar, tar), 0.68), mask=ImageChops.multiply(self.wear.reduced(), asphalt))
        image.paste((216, 216, 208), mask=ImageChops.multiply(self.paint.reduced(), worn))
        grain = np.tile(noise(rng, (width // 2 + 1, height // 2 + 1), 3.6, 1.8), (2, 2))[:height, :width]
        hard = ImageChops.lighter(asphalt, paths.point(lambda level: level * 7 // 10))
        smooth = np.asarray(hard, np.float32) * np.float32(1 / 255)
        light = 1 + grain * (0.085 - 0.06 * smooth) + patchy * (0.03 + 0.015 * smooth)
        pixels = np.asarray(image) * light[..., None]
        return Image.fromarray(np.minimum(pixels, 255, out=pixels).astype(np.uint8))

    def _grow(self) -> tuple[list[tuple[Image.Image, tuple[int, int]]], Image.Image]:
        """Pictures of the trees with their places, and the shadows of all tall things."""
        rng, shadow = self.rng, self.shade.reduced()
        stamps, trees = [_canopy(rng, self.sun) for _ in range(6)], []
        for x, y, radius in self.trees:
            side = round(2.2 * radius)
            stamp = stamps[int(rng.integers(len(stamps)))].resize((side, side), Image.Resampling.BILINEAR)
            corner = np.array([x, y]) - side / 2
            trees.append((stamp, (round(corner[0]), round(corner[1]))))
            self.tall.paste(255, trees[-1][1], stamp.getchannel("A"))
            left, top = corner + self.sun * self.reach * 1.4 * radius / self.metre
            shadow.paste(255, (round(left), round(top)), stamp.getchannel("A"))
        return trees, shadow.filter(ImageFilter.BoxBlur(0.8))

    def clear(self, outline: Points) -> bool:
        """Whether nothing tall hides an outline."""
        return _vacant(self.tall, outline)[0]

    def darkened(self, image: Image.Image, mask: Image.Image) -> Image.Image:
        """The image with the sun kept off where the mask says, save where tall things do so anyway."""
        return self._dim(image, ImageChops.subtract(mask, self.shadow))

    def _dim(self, image: Image.Image, mask: Image.Image) -> Image.Image:
        dark = ImageChops.multiply(image, Image.new("RGB", self.size, self.dark))
        return Image.composite(dark, image, mask)

    def cover(self, image: Image.Image) -> Image.Image:
        """Lay shadows of tall things over an image, then roofs and trees."""
        image = self._dim(image, self.shadow)
        image.paste(self.roof_sheet, mask=self.roof_sheet)
        for stamp, place in self.crowns:
            image.paste(stamp, place, stamp)
        return image

    def photograph(self, image: Image.Image) -> Image.Image:
        """What air and camera add: uneven light, haze, tint, slight blur and noise."""
        rng, (width, height) = self.rng, self.size
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.45)))
        across, down = (np.linspace(-1, 1, side, dtype=np.float32) for side in self.size)
        slope = rng.uniform(-0.09, 0.09, 2).astype(np.float32)
        fall = np.float32(rng.uniform(0.02, 0.07))
        light = (slope[0] * across - fall * across**2) + (slope[1] * down - fall * down**2)[:, None]
        light += noise(rng, self.size, 500, 250) * np.float32(0.03) + np.float32(rng.uniform(0.92, 1.08))
        haze, tint = rng.uniform(0, 22), rng.uniform((0.97, 1, 0.93), (1.05, 1, 1.04)).astype(np.float32)
        grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 5))
        pixels = np.asarray(image) * (light * np.float32(1 - haze / 255))[..., None]
        pixels *= tint
        pixels += grain + np.float32(haze)
        return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _canopy(rng: np.random.Generator, sun: Points, side: int = 56) -> Image.Image:
    """A tree from above: an irregular crown of leaf clumps, bright towards the sun."""
    y, x = np.mgrid[-1.1 : 1.1 : side * 1j, -1.1 : 1.1 : side * 1j].astype(np.float32)
    rise = 1 - x**2 - y**2 + 0.22 * noise(rng, (side, side), side / 3, 4)
    bumps = rise + 0.12 * noise(rng, (side, side), 9, 2)
    slope_y, slope_x = np.gradient(bumps)
    light = 0.92 + 2.2 * (slope_x * sun[0] + slope_y * sun[1])
    colour = np.array(((74, 94, 56), (88, 102, 60), (64, 84, 58), (100, 104, 66))[int(rng.integers(4))])
    rgb = np.clip(colour * np.clip(light, 0.4, 1.6)[..., None], 0, 255)
    alpha = np.clip(rise * 900, 0, 255)[..., None]
    return Image.fromarray(np.concatenate([rgb, alpha], axis=2).astype(np.uint8))
