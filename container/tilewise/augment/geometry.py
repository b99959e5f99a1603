"""Changes of a whole view's geometry: turns and mirrors, which are exact, and small rotations and shears."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from tilewise.arrays import Float64
from tilewise.augment.transform import Transform
from tilewise.targets import Targets
from tilewise.views.arrays import FILL
from tilewise.views.sample import Sample


@dataclass(frozen=True)
class RandomOrientation(Transform):
    """Mirrors a sample top to bottom, and turns it by quarters, each choice alike.

    Attributes:
        vertical: whether it is mirrored, with probability one half.
        quarter_turns: whether it is turned by 0, 90, 180 or 270°.

    """

    vertical: bool
    quarter_turns: bool

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Each as it is drawn."""
        mirrored = self.vertical and rng.random() < 0.5
        turns = int(rng.integers(4)) if self.quarter_turns else 0
        pixels, targets = sample.pixels, sample.targets
        if mirrored:
            height, width = pixels.shape[1:]
            pixels = pixels.flip(-2)
            targets = warp(targets, np.array([[1.0, 0, 0], [0, -1, height]]), (width, height))
        for _ in range(turns):  # counter-clockwise, as torch.rot90
            height, width = pixels.shape[1:]
            pixels = pixels.rot90(1, (1, 2))
            targets = warp(targets, np.array([[0.0, 1, 0], [-1, 0, width]]), (height, width))
        return Sample(pixels, targets)


@dataclass(frozen=True)
class RandomAffine(Transform):
    """Turns and shears a sample about its middle by small angles.

    A box becomes the one around its inscribed ellipse; objects of which less than half is left are ignored.

    Attributes:
        rotation: degrees, at most, to either side.
        shear: degrees, at most, along x and along y.

    """

    rotation: float
    shear: float

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Each by angles of its own."""
        angle, along_x, along_y = np.radians(
            rng.uniform(-1, 1, 3) * [self.rotation, self.shear, self.shear]
        ).tolist()
        height, width = sample.pixels.shape[1:]
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = turn @ np.array([[1, math.tan(along_x)], [math.tan(along_y), 1]])
        middle = np.array([width, height]) / 2
        matrix = np.column_stack([linear, middle - linear @ middle])
        return Sample(warp_pixels(sample.pixels, matrix), warp(sample.targets, matrix, (width, height)))


def warp_pixels(pixels_3HW: Tensor, matrix: Float64) -> Tensor:
    """A view as an affine map of its pixels shows it, of the same size; what comes in is filled."""
    height, width = pixels_3HW.shape[1:]
    # OpenCV's pixels have their centres at whole numbers
    linear, offset = matrix[:, :2], matrix[:, 2]
    centred = np.column_stack([linear, offset + linear @ [0.5, 0.5] - 0.5])
    colours = np.ascontiguousarray(pixels_3HW.permute(1, 2, 0).numpy())
    moved = cv2.warpAffine(colours, centred, (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL)
    return torch.from_numpy(moved).permute(2, 0, 1)


def warp(targets: Targets[Tensor], matrix: Float64, size: tuple[int, int]) -> Targets[Tensor]:
    """Targets as an affine map shows them in a frame of (width, height), cut at its border.

    Quarter turns and mirrors are exact. Where there is any other turn a box becomes the one around its
    inscribed ellipse. Objects of which less than half is left are ignored, those of which nothing is,
    dropped.
    """
    if not len(targets):
        return targets
    boxes = targets.boxes.double()
    linear = torch.from_numpy(matrix[:, :2])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + torch.from_numpy(matrix[:, 2])
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    reach = (half.square() @ linear.square().T).sqrt()
    moved = torch.cat([centres - reach, centres + reach], dim=1).float()
    fields = {name: each.warp(matrix, size) for name, each in targets.fields.items()}
    whole = replace(targets, boxes=moved, fields=fields)
    return whole.crop((0, 0, *size), size, min_visibility=0.5)
