"""Copy-paste of small objects: which objects come once more into an image, and where.

Source: Kisantal et al., "Augmentation for small object detection", 2019 (arXiv 1902.07296).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from pycocotools import mask as coco_masks

from tilewise.arrays import Array, Bool, Float32, Float64, Int64
from tilewise.boxes import AlongAxis, area, intersection, object_size
from tilewise.data.decoding.decode import DecodedImage
from tilewise.masks import Masks, masks_in
from tilewise.targets import Targets

SMALL = 32.0
"""Smaller objects are small (COCO): √area of the box in pixels of the upright image."""

BORDER = 5
"""Pixels between what is pasted and the image's border."""

SCALE, ANGLE = 0.2, math.radians(15)
"""An object is pasted larger or smaller by up to this share, and turned by up to so much."""

FEATHERS = (1, 2, 3)
"""Pixels of the image over which a rectangle fades out around its box; one is drawn for each object."""

MOST_OF_OTHERS = 0.3
"""An object whose pixels hold a larger share of another one is not pasted: that one would have no box."""

PLACES = (16, 48)
"""So many places are tried for each object, in so many rounds."""

MOST_CELLS = 1 << 16
"""Free places are looked for in cells of an image, which has no more of them: a pixel each in a small one."""

AT_ONCE = 256
"""So many objects are compared with all at a time, to bound the memory."""

ALWAYS_FREE = 0
"""The seed that tells whether an image has room: what it places can be pasted in each epoch."""


@dataclass(frozen=True)
class Pastes:
    """P objects that an image shows once more.

    Attributes:
        sources: (P,) their numbers among the objects that they were chosen from.
        to_image: (P, 2, 3) from the pixels of their own images to those where they are pasted: turned, scaled
            alike in all directions, perhaps mirrored, and moved.
        feather: (P,) pixels of their own images over which their rectangles fade out; 0 where a mask is the
            shape.
        covered: (P, 4) the boxes around all that they cover where they are pasted.

    """

    sources: Int64
    to_image: Float64
    feather: Int64
    covered: Float32

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class PastePlan:
    """What is pasted into one image.

    Attributes:
        targets: of the image with what is pasted, in its pixels: its own come first.
        pastes: they follow in this order.

    """

    targets: Targets[Array]
    pastes: Pastes


@dataclass(frozen=True)
class PatchBank:
    """Objects of many images, each with the pixels around it.

    Attributes:
        patches: (3, h, w) uint8 of each.
        targets: one object a patch, in its patch's pixels.

    """

    patches: Sequence[Array]
    targets: Targets[Array]

    def image(self, number: int) -> DecodedImage:
        """What an object is cut from."""
        return DecodedImage.whole(self.patches[number])


@dataclass(frozen=True)
class CopyPaste:
    """How images come once more with small objects pasted into them.

    Attributes:
        repeats: how often an image with small objects comes once more.
        times: how often each of them is pasted into it.
        max_size: objects below this √area, in pixels of the upright image, are small.
        of_others: whether what is pasted comes from other images; as many objects as the image has itself.
        class_weights: (C,) how often an object of a class is drawn, to favour rare ones; None for all alike.
        bank: the other images' objects; None where they come with each image.

    """

    repeats: int = 1
    times: int = 1
    max_size: float = SMALL
    of_others: bool = False
    class_weights: Float64 | None = None
    bank: PatchBank | None = None

    def plan(
        self,
        targets: Targets[Array],
        width: int,
        height: int,
        *,
        seed: int,
        donor: Targets[Array] | None = None,
        own: Int64 | None = None,
    ) -> PastePlan | None:
        """Draw what an image shows once more; the same for each view of it, and in each process.

        Args:
            targets: of the image, in its pixels.
            width: pixels of the image.
            height: pixels of the image.
            seed: of what is drawn. Where it finds no room for anything, :data:`ALWAYS_FREE` is tried.
            donor: of the image that objects come from, where each image has one.
            own: what :meth:`pasteable_of` says of ``targets``, where that is known already.

        Returns:
            None where nothing finds room.

        """
        own = self.pasteable_of(targets) if own is None else own
        objects, numbers = targets, own
        if self.of_others and self.bank:  # its objects have been chosen already
            objects, numbers = self.bank.targets, np.arange(len(self.bank.targets))
        elif self.of_others and donor is not None:
            objects, numbers = donor, self.pasteable_of(donor)
        for each in (seed, ALWAYS_FREE):
            rng = np.random.default_rng(each)
            chosen = self._choose(numbers, objects.labels, len(own), rng)
            if len(chosen) and (plan := _draw(targets, (width, height), objects.select(chosen), chosen, rng)):
                return plan
        return None

    def pasteable_of(self, targets: Targets[Array]) -> Int64:
        """The numbers of the objects of an image that may be pasted."""
        return np.flatnonzero(pasteable(targets, self.max_size))

    def _choose(self, numbers: Int64, labels: Int64, own: int, rng: np.random.Generator) -> Int64:
        """The objects to paste, in their order."""
        if not len(numbers) or not own:
            return numbers[:0]
        if not self.of_others and self.class_weights is None:
            return np.repeat(numbers, self.times)
        weights = None
        if self.class_weights is not None:
            weights = self.class_weights[labels[numbers]]
            weights = weights / weights.sum()
        return rng.choice(numbers, self.times * own, p=weights)


def _draw(
    targets: Targets[Array],
    size: tuple[int, int],
    objects: Targets[Array],
    numbers: Int64,
    rng: np.random.Generator,
) -> PastePlan | None:
    """Where objects, which have these numbers among all, go in an image of that (width, height)."""
    masks = masks_in(objects.fields)
    soft = np.ones(len(objects), bool) if masks is None else ~masks.known
    poses = _Poses.draw(extents(objects), soft, rng)
    placed = poses.place(extents(targets), size, rng)
    poses = poses.select(placed)
    to_image = poses.to_image()
    moved = _warped(replace(objects.select(placed), boxes=poses.boxes()), to_image, size)
    pastes = Pastes(numbers[placed], to_image, poses.feather, _around(poses.centre, poses.covered))
    left = area(moved.boxes) > 0  # of some so few pixels that none is left
    if not left.all():
        moved = moved.select(left)
        pastes = Pastes(pastes.sources[left], to_image[left], pastes.feather[left], pastes.covered[left])
    return PastePlan(Targets.cat([targets, moved]), pastes) if len(pastes) else None


def extents(targets: Targets[Array]) -> Float32:
    """(N, 4) what objects cover: their boxes, and their masks where these reach beyond."""
    masks = masks_in(targets.fields)
    if masks is None:
        return targets.boxes
    low, high = targets.boxes[:, :2], targets.boxes[:, 2:]
    of_masks, known = masks.boxes, masks.known[:, None]
    low = np.where(known, np.minimum(low, of_masks[:, :2]), low)
    high = np.where(known, np.maximum(high, of_masks[:, 2:]), high)
    return np.concatenate([low, high], axis=1)


def pasteable(targets: Targets[Array], max_size: float) -> Bool:
    """(N,) which objects are small, and show little of others when they are pasted.

    Those with a mask show its pixels, others a rectangle. A mask that reaches beyond its image has pixels
    that nobody knows.
    """
    boxes, covered, masks = targets.boxes, extents(targets), masks_in(targets.fields)
    small = ~targets.ignored & (object_size(boxes) < max_size) & (area(boxes) > 0)
    if masks is not None:
        beyond = (masks.boxes[:, :2] < -1).any(axis=1) | (masks.boxes[:, 2:] > masks.limits + 1).any(axis=1)
        small &= ~(masks.known & beyond)
    numbers, limits, along_y = np.flatnonzero(small), MOST_OF_OTHERS * area(boxes), AlongAxis(boxes, 1)
    numbers = numbers[np.argsort(boxes[numbers, 1])]
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        grown = covered[some] + np.array([-1, -1, 1, 1], np.float32) * max(FEATHERS)
        near = along_y.near(grown[:, 1].min(), grown[:, 3].max())
        held = (intersection(grown[:, None], boxes[near]) > limits[near]) & (near != some[:, None])
        for row in np.flatnonzero(held.any(axis=1)).tolist():
            others = near[held[row]]
            small[some[row]] = masks is not None and not _mask_holds(masks, boxes, some[row], others)
    return np.asarray(small)


def _mask_holds(masks: Masks, boxes_N4: Float32, one: int, others: Int64) -> bool:
    """Whether an object's mask holds much of others, whose boxes stand for those without a mask."""
    if not masks.known[one]:
        return True
    concerned = np.append(others, one)
    width, height = np.ceil(boxes_N4[concerned, 2:].max(axis=0)).astype(int).tolist()
    *of_others, own = masks.select(concerned).encoded(width, height)
    sides = np.concatenate([boxes_N4[others, :2], boxes_N4[others, 2:] - boxes_N4[others, :2]], axis=1)
    of_boxes = coco_masks.frPyObjects(sides.astype(np.float64), height, width)
    shapes = [mask or box for mask, box in zip(of_others, of_boxes, strict=True)]
    shares = coco_masks.iou(shapes, [own], [1])  # of a crowd, COCO takes the share that it holds
    return bool((np.asarray(shares) > MOST_OF_OTHERS).any())


def _warped(targets: Targets[Array], to_image_N23: Float64, size: tuple[int, int]) -> Targets[Array]:
    """Objects whose boxes are where they are pasted already, with their fields there, too."""
    if not targets.fields:
        return targets
    fields = {name: each.warp(to_image_N23, size) for name, each in targets.fields.items()}
    masks = masks_in(fields)
    known = np.zeros((len(targets), 1), np.bool_) if masks is None else masks.known[:, None]
    boxes = targets.boxes if masks is None else np.where(known, masks.boxes, targets.boxes)
    return replace(targets, boxes=boxes, fields=fields)


@dataclass
class _Poses:
    """How objects are turned, and where they go.

    A box that is turned becomes the one around its inscribed ellipse: the one around its corners would grow
    by a fifth at 15°, and few objects fill their corners.

    Attributes:
        linear: (K, 2, 2) each one's scale, turn and mirror.
        feather: (K,) pixels of its own image over which it fades out.
        own_centre: (K, 2) in its own image.
        ellipse: (K, 2) half the sides of its box where it goes.
        covered: (K, 2) half the sides of all that it covers there.
        centre: (K, 2) where it goes, as far as that is known.

    """

    linear: Float64
    feather: Int64
    own_centre: Float64
    ellipse: Float64
    covered: Float64
    centre: Float64

    @staticmethod
    def draw(boxes_K4: Float32, soft_K: Bool, rng: np.random.Generator) -> _Poses:
        """For what objects cover in their own images; ``soft`` says which fade out around their boxes."""
        boxes = boxes_K4.astype(np.float64)
        drawn = rng.random((4, len(boxes)))
        scale, angle = 1 + SCALE * (2 * drawn[0] - 1), ANGLE * (2 * drawn[1] - 1)
        mirror = np.where(drawn[2] < 0.5, -1.0, 1.0)
        feather = np.array(FEATHERS)[(len(FEATHERS) * drawn[3]).astype(np.int64)] * soft_K
        cosine, sine = np.cos(angle), np.sin(angle)
        linear = scale * np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
        half = (boxes[:, 2:] - boxes[:, :2]).T / 2
        around = half + feather
        across, along = scale * cosine, scale * abs(sine)
        return _Poses(
            linear=linear.transpose(2, 0, 1),
            feather=feather,
            own_centre=(boxes[:, :2] + boxes[:, 2:]) / 2,
            ellipse=np.hypot(across * half, along * half[::-1]).T,
            covered=(across * around + along * around[::-1]).T,
            centre=np.zeros((len(boxes), 2)),
        )

    def select(self, some: Int64) -> _Poses:
        """Some of them."""
        return _Poses(*(getattr(self, name)[some] for name in self.__dataclass_fields__))

    def place(self, taken_N4: Float32, size: tuple[int, int], rng: np.random.Generator) -> Int64:
        """Choose free places at random in an image of that (width, height). Returns which objects have one.

        All objects choose at once. Where two want one place, it is the first one's, and the other chooses
        again in the next round.
        """
        cells = _Cells.of(taken_N4, *size)
        wanted = np.ceil(2 * self.covered / cells.side).astype(np.int64)
        counts = [cells.taken.shape[1], cells.taken.shape[0]] - wanted + 1  # of places along x and y
        spare = wanted * cells.side - 2 * self.covered  # within its cells it lies anywhere
        waiting, placed = np.flatnonzero((counts > 0).all(axis=1)), np.zeros(len(wanted), np.bool_)
        for tries in PLACES:
            for start in range(0, len(waiting), AT_ONCE):
                some = waiting[start : start + AT_ONCE]
                places = rng.random((len(some), tries, 2)) * counts[some, None]
                corners = places.astype(np.int64)
                free = cells.free(corners, wanted[some, None])
                first = free.argmax(axis=1)
                has = np.flatnonzero(free[np.arange(len(some)), first])
                some, first = some[has], first[has]
                within, corner = places[has, first], corners[has, first]
                middle = cells.side * corner + (within - corner) * spare[some] + self.covered[some] + BORDER
                mine = _first_apart(_around(middle, self.covered[some]))
                some, corner = some[mine], corner[mine]
                self.centre[some], placed[some] = middle[mine], True
                cells.take(np.concatenate([corner, corner + wanted[some]], axis=1))
            waiting = waiting[~placed[waiting]]
        return np.flatnonzero(placed)

    def to_image(self) -> Float64:
        """(K, 2, 3) from each one's own image to where it is pasted."""
        offset = self.centre[..., None] - self.linear @ self.own_centre[..., None]
        return np.concatenate([self.linear, offset], axis=2)

    def boxes(self) -> Float32:
        """(K, 4) where they are pasted."""
        return _around(self.centre, self.ellipse)


@dataclass(frozen=True)
class _Cells:
    """What of an image is taken, in square cells that begin :data:`BORDER` pixels from its corner.

    Attributes:
        side: pixels of a cell.
        taken: (rows, columns) uint8, 1 for a cell of which anything is taken.

    """

    side: int
    taken: Array

    @staticmethod
    def of(boxes_N4: Float32, width: int, height: int) -> _Cells:
        """Those that boxes take of an image."""
        side = max(1, math.ceil(math.sqrt(width * height / MOST_CELLS)))
        columns, rows = ((each - 2 * BORDER) // side for each in (width, height))
        cells = _Cells(side, np.zeros((max(rows, 0), max(columns, 0)), np.uint8))
        low, high = np.floor((boxes_N4[:, :2] - BORDER) / side), np.ceil((boxes_N4[:, 2:] - BORDER) / side)
        cells.take(np.concatenate([low, high], axis=1).clip(0).astype(np.int64))
        return cells

    def take(self, corners_K4: Int64) -> None:
        """From the first corner to the second, in cells."""
        for x0, y0, x1, y1 in corners_K4.tolist():
            self.taken[y0:y1, x0:x1] = 1

    def free(self, corners: Int64, sides: Int64) -> Bool:
        """(…, 2) and (…, 2) in cells, x and y first -> (…,) whether nothing is taken of such a rectangle."""
        sums = cv2.integral(self.taken).reshape(-1)
        row = self.taken.shape[1] + 1
        start, wide, high = corners[..., 1] * row + corners[..., 0], sides[..., 0], sides[..., 1] * row
        one, other = sums[start] + sums[start + wide + high], sums[start + wide] + sums[start + high]
        return np.asarray(one == other)


def _around(centres: Float64, half: Float64) -> Float32:
    """(..., 4) boxes by their centres and half their sides."""
    return np.concatenate([centres - half, centres + half], axis=-1).astype(np.float32)


def _first_apart(boxes_N4: Float32) -> Bool:
    """(N,) which boxes are kept if each one that overlaps with a kept one before it is not."""
    kept = np.ones(len(boxes_N4), np.bool_)
    left, top, right, bottom = boxes_N4.T
    meet = (left[:, None] < right) & (left < right[:, None])
    meet &= (top[:, None] < bottom) & (top < bottom[:, None])
    for later, earlier in zip(*(each.tolist() for each in meet.nonzero()), strict=True):
        if earlier < later:
            kept[later] &= not kept[earlier]
    return kept
