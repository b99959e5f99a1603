"""Copy-paste of small objects: which objects come once more into an image, and where.

Source: Kisantal et al., "Augmentation for small object detection", 2019 (arXiv 1902.07296).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_masks

from tilewise.arrays import Array, Bool, Float32, Float64, Int64
from tilewise.boxes import area, intersection, object_size
from tilewise.data.decode import DecodedImage
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

PLACES = (4, 4, 8, 16, 32)
"""So many places are tried for each object, in so many rounds."""

AT_ONCE = 64
PAIRS_AT_ONCE = 1 << 21
"""So many objects, and so many pairs of places and boxes, are compared at a time, to bound the memory."""

ALWAYS_FREE = 0
"""The seed that tells whether an image has room: what it places can be pasted in each epoch."""


@dataclass(frozen=True)
class Paste:
    """An object that an image shows once more.

    Attributes:
        source: its number among the objects that it was chosen from.
        to_image: (2, 3) from the pixels of its own image to those where it is pasted.
        feather: pixels of its own image over which its rectangle fades out; 0 where its mask is its shape.

    """

    source: int
    to_image: Float64
    feather: int


@dataclass(frozen=True)
class PastePlan:
    """What is pasted into one image.

    Attributes:
        targets: of the image with what is pasted, in its pixels: its own come first.
        pastes: they follow in this order.

    """

    targets: Targets[Array]
    pastes: tuple[Paste, ...]


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
    poses = _Poses.draw(extents(objects), *size, soft, rng)
    placed = poses.place(extents(targets), rng)
    to_image = poses.to_image()[placed]
    moved = _warped(replace(objects.select(placed), boxes=poses.boxes()[placed]), to_image, size)
    left = np.flatnonzero(area(moved.boxes) > 0)  # of some so few pixels that none is left
    feathers = poses.feather[placed].tolist()
    sources = numbers[placed].tolist()
    pastes = tuple(Paste(sources[one], to_image[one], feathers[one]) for one in left.tolist())
    return PastePlan(Targets.cat([targets, moved.select(left)]), pastes) if pastes else None


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
    numbers, limits = np.flatnonzero(small), MOST_OF_OTHERS * area(boxes)
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        grown = covered[some] + np.array([-1, -1, 1, 1], np.float32) * max(FEATHERS)
        held = intersection(grown[:, None], boxes) > limits
        held[np.arange(len(some)), some] = False
        for row in np.flatnonzero(held.any(axis=1)).tolist():
            others = np.flatnonzero(held[row])
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
        low: (K, 2) where its centre may lie.
        high: (K, 2) the same; below ``low`` where it has no room.
        centre: (K, 2) where it goes, as far as that is known.

    """

    linear: Float64
    feather: Int64
    own_centre: Float64
    ellipse: Float64
    covered: Float64
    low: Float64
    high: Float64
    centre: Float64

    @staticmethod
    def draw(boxes_K4: Float32, width: int, height: int, soft_K: Bool, rng: np.random.Generator) -> _Poses:
        """For what objects cover in their own images; ``soft`` says which fade out around their boxes."""
        count, boxes = len(boxes_K4), boxes_K4.astype(np.float64)
        scale = rng.uniform(1 - SCALE, 1 + SCALE, count)
        angle = rng.uniform(-ANGLE, ANGLE, count)
        mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
        feather = rng.choice(FEATHERS, count) * soft_K
        cosine, sine = np.cos(angle), np.sin(angle)
        linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]]).transpose(2, 0, 1)
        turned = abs(linear)
        half = scale[:, None, None] * (boxes[:, 2:] - boxes[:, :2])[..., None] / 2
        covered = (turned @ (half + (scale * feather)[:, None, None]))[..., 0]
        low, high = BORDER + covered, np.array([width, height]) - BORDER - covered
        return _Poses(
            linear=scale[:, None, None] * linear,
            feather=feather,
            own_centre=(boxes[:, :2] + boxes[:, 2:]) / 2,
            ellipse=np.sqrt(turned**2 @ half**2)[..., 0],
            covered=covered,
            low=low,
            high=high,
            centre=np.zeros_like(low),
        )

    def place(self, taken_N4: Float32, rng: np.random.Generator) -> Int64:
        """Choose free places at random. Returns which objects have one.

        All objects choose at once. Where two want one place, it is the first one's, and the other chooses
        again in the next round.
        """
        placed = np.zeros(len(self.low), np.bool_)
        roomy = np.all(self.low <= self.high, axis=1)
        for count in PLACES:
            waiting = np.flatnonzero(roomy & ~placed)
            step = max(1, min(4 * AT_ONCE, PAIRS_AT_ONCE // (count * (len(taken_N4) + AT_ONCE))))
            for start in range(0, len(waiting), step):
                some = waiting[start : start + step]
                low, high = self.low[some, None], self.high[some, None]
                places = low + rng.random((len(some), count, 2)) * (high - low)
                apart = _apart(_around(places, self.covered[some, None]), taken_N4)
                free: Bool = np.all(apart, axis=-1)
                has: Bool = np.any(free, axis=1)
                some, centres = some[has], places[has, free[has].argmax(axis=1)]
                boxes = _around(centres, self.covered[some])
                mine = _first_apart(boxes)
                self.centre[some[mine]] = centres[mine]
                placed[some[mine]] = True
                taken_N4 = np.concatenate([taken_N4, boxes[mine]])
        return np.flatnonzero(placed)

    def to_image(self) -> Float64:
        """(K, 2, 3) from each one's own image to where it is pasted."""
        offset = self.centre[..., None] - self.linear @ self.own_centre[..., None]
        return np.concatenate([self.linear, offset], axis=2)

    def boxes(self) -> Float32:
        """(K, 4) where they are pasted."""
        return _around(self.centre, self.ellipse)


def _around(centres: Float64, half: Float64) -> Float32:
    """(..., 4) boxes by their centres and half their sides."""
    return np.concatenate([centres - half, centres + half], axis=-1).astype(np.float32)


def _apart(boxes: Float32, others_N4: Float32) -> Bool:
    """(…, 4) and (N, 4) -> (…, N) whether they share nothing."""
    x0, y0, x1, y1 = (boxes[..., side, None] for side in range(4))
    left, top, right, bottom = np.ascontiguousarray(others_N4.T)
    apart: Bool = x1 <= left
    apart |= x0 >= right
    apart |= y1 <= top
    apart |= y0 >= bottom
    return apart


def _first_apart(boxes_N4: Float32) -> Bool:
    """(N,) which boxes are kept if each one that overlaps with a kept one before it is not."""
    kept = np.ones(len(boxes_N4), np.bool_)
    for later, earlier in np.argwhere(np.tril(~_apart(boxes_N4, boxes_N4), -1)).tolist():
        kept[later] &= not kept[earlier]
    return kept
