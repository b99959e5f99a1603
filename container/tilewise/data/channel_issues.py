"""What became of a channel's images and boxes, and when that is too bad to go on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import islice

from tilewise.data.decoding.decode import ImageHeader
from tilewise.data.quoting import some
from tilewise.errors import UserError
from tilewise.views.rendering import AS_STORED, Rendering

log = logging.getLogger(__name__)

MAX_LEFT_OUT = 0.05
"""A channel may lose this share of its images, or of its boxes, to damage before the job stops."""

MAX_NAMED = 5
"""So many images that are missing are named."""

REVERSED, REPEATED = "has no area: it ends before it begins", "repeats another one of its image exactly"
"""Reasons why a box is not used."""

MAX_WARNINGS = 100
"""So many images left out, and so many boxes dropped, are named in the log of a channel."""


@dataclass
class ChannelIssues:
    """What became of a channel's images and boxes.

    Attributes:
        channel: its name.
        images: how many the annotations name, or have come through a pipe so far.
        expected: how many there will be, where they are still coming; 0 when they are all there.
        left_out: key -> reason, for the images that cannot be used.
        boxes: how many the annotations have, or have come through a pipe so far.
        clipped: boxes that reached beyond their image and were cut at its border.
        dropped: record and reason of each box that is not used.
        repeated: how many of these only repeat another one of their image.
        masks: how many objects have a mask in the annotations, where masks are wanted.
        masks_dropped: record and reason of each mask that is not used; its object keeps its box.
        doubts: what is not plausible in the channel as a whole.
        faults: the same, where it is so bad that nothing could be learnt.
        image_files: see :class:`tilewise.data.annotations.ParsedChannel`.
        rendering: of the channel's images.
        remarks: what of an image is left aside, and has been said.
        image_labels: whether its objects are labels of whole images, all at the same place.

    """

    channel: str
    images: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    dropped: list[str] = field(default_factory=list)
    expected: int = 0
    boxes: int = 0
    repeated: int = 0
    doubts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    image_files: tuple[str, ...] = ()
    rendering: Rendering = AS_STORED
    remarks: set[str] = field(default_factory=set)
    masks: int = 0
    masks_dropped: list[str] = field(default_factory=list)
    image_labels: bool = False

    def note_remarks(self, key: str, header: ImageHeader) -> None:
        """Say what of an image is left aside, once for all images of its kind."""
        for remark in header.remarks(self.rendering):
            if remark not in self.remarks:
                self.remarks.add(remark)
                log.info("channel %s: %s has %s; so may others", self.channel, key, remark)

    def leave_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used, and stop the job when there are too many.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used.

        """
        self.note_left_out(key, reason)
        self.check()

    def note_left_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used."""
        if key not in self.left_out:
            self.left_out[key] = reason
            self._warn(len(self.left_out), f"{key} is left out: {reason}")

    def note_dropped(self, key: str, reason: str) -> None:
        """Note a box that is not used."""
        self.dropped.append(f"{key}: {reason}")
        self._warn(len(self.dropped), f"{key}: {reason}; it is dropped")

    def note_mask(self, key: str, reason: str) -> None:
        """Note a mask that is not used."""
        self.masks_dropped.append(f"{key}: {reason}")
        self._warn(len(self.masks_dropped), f"{key}: {reason}; its object keeps its box, without a mask")

    def _warn(self, count: int, message: str) -> None:
        if count <= MAX_WARNINGS:
            more = "; further ones are only counted" if count == MAX_WARNINGS else ""
            log.warning("channel %s: %s%s", self.channel, message, more)

    def begin_pass(self, expected: int) -> None:
        """Start counting again, for a pipe's next pass."""
        self.images, self.clipped, self.expected = 0, 0, expected
        self.boxes = self.repeated = self.masks = 0
        self.left_out.clear()
        self.dropped.clear()
        self.masks_dropped.clear()

    def finish_pass(self) -> None:
        """Note that no more images come.

        Raises:
            UserError: as :meth:`check`, or no image can be used.

        """
        self.expected = 0
        self.check()
        if self.left_out and len(self.left_out) == self.images:
            raise UserError(self.nothing_left())

    def check(self) -> None:
        """Stop the job when too much cannot be used.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images or, where all have been seen, of
                its boxes cannot be used, or there are :attr:`faults`.

        """
        if not self.expected:
            self.check_boxes()
        if len(self.left_out) > MAX_LEFT_OUT * max(self.images, self.expected):
            so_far = " so far" if self.expected else ""
            missing = sum("not in the" in reason for reason in self.left_out.values())
            there = f" (the image files in it are {some(self.image_files, MAX_NAMED)})"
            there = there if self.image_files and missing > len(self.left_out) / 2 else ""
            raise UserError(
                f"channel {self.channel}: {len(self.left_out)} of {self.images} images{so_far} cannot be "
                f"used, more than {MAX_LEFT_OUT:.0%}{there}; fix or remove them, starting with: "
                f"{self._first()}"
            )

    def check_boxes(self) -> None:
        """The part of :meth:`check` that concerns boxes.

        Raises:
            UserError: see there.

        """
        for fault in self.faults:
            raise UserError(f"channel {self.channel}: {fault}")
        unusable = len(self.dropped) - self.repeated
        if unusable > max(1, MAX_LEFT_OUT * self.boxes):  # a single one is an accident
            first = "; ".join(islice((each for each in self.dropped if not each.endswith(REPEATED)), 3))
            reversed_ = sum(REVERSED in each for each in self.dropped) > unusable / 2
            hint = " (are they x, y, width, height, where two corners are expected?)" if reversed_ else ""
            raise UserError(
                f"channel {self.channel}: {unusable} of {self.boxes} boxes cannot be used, more than "
                f"{MAX_LEFT_OUT:.0%}{hint}; fix or remove them, starting with: {first}"
            )
        if len(self.masks_dropped) > max(1, MAX_LEFT_OUT * self.masks):
            raise UserError(
                f"channel {self.channel}: {len(self.masks_dropped)} of {self.masks} masks cannot be used, "
                f"more than {MAX_LEFT_OUT:.0%}; fix or remove them, starting with: "
                f"{'; '.join(self.masks_dropped[:3])}"
            )

    def nothing_left(self) -> str:
        """That no image of the channel can be used, and why."""
        more = f": {self._first(MAX_NAMED)}" if self.left_out else ""
        return f"channel {self.channel} holds no image that can be used{more}"

    def _first(self, count: int = 3) -> str:
        return "; ".join(f"{key}: {reason}" for key, reason in islice(self.left_out.items(), count))
