"""Channels in Pipe mode as a job's data: what they must be, and what their first images say."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tilewise.data.annotations import ParsedChannel
from tilewise.data.label_numbers import ImageLabels, media_type
from tilewise.data.pipe.buffer import Pipe, buffer_bytes
from tilewise.data.pipe.stream import first_items
from tilewise.data.shard import EVERYTHING, Shard
from tilewise.errors import UserError
from tilewise.stop import StopToken

log = logging.getLogger(__name__)

CONTENT_TYPES = (
    *("", "application/x-recordio", "application/jsonlines", "application/x-jsonlines"),
    *("application/x-image", "image/jpeg", "image/jpg", "image/png"),
)
"""Those that the built-in algorithm takes for RecordIO files or an augmented manifest, and its lines' own."""


@dataclass(frozen=True)
class ChannelPipe:
    """A channel in Pipe mode: one FIFO a pass, ``<path>_0``, ``<path>_1`` and so on.

    Attributes:
        path: without the number.
        content_type: as the job states it, "" for none.
        passes: how many of the FIFOs will be read.
        images: how many images each holds, where the job says so.
        shard: the part of them that is for this host.

    """

    path: Path
    content_type: str = ""
    passes: int = 1
    images: int | None = None
    shard: Shard = EVERYTHING


def check_pipe(
    name: str, channel: ChannelPipe, *, knows_classes: bool, max_images: int | None = None
) -> None:
    """Refuse what cannot come through a pipe.

    Args:
        name: the channel's.
        channel: what the job says of it.
        knows_classes: whether the job says how many classes there are.
        max_images: how many images of each channel the job uses, where it does not use all.

    Raises:
        UserError: it cannot; the message says what to do.

    """
    if name.endswith(("_annotation", "_lst")) or media_type(channel.content_type) not in CONTENT_TYPES:
        what = f"content type {channel.content_type}" if channel.content_type else "annotation channels"
        raise UserError(
            f"channel {name}: input mode Pipe takes RecordIO files or an augmented manifest (content type "
            f"application/x-recordio, image/jpeg or image/png), not {what}: use input mode File"
        )
    if max_images is not None:
        raise UserError(
            f"channel {name}: input mode Pipe shows all images, one after the other: leave max_images out, "
            "or use input mode File"
        )
    if not knows_classes:
        raise UserError(
            f"channel {name}: input mode Pipe needs num_classes (or class_map), since training begins with "
            "the first images: give it, or use input mode File"
        )
    if name == "train" and channel.images is None:
        raise UserError(
            "channel train: input mode Pipe needs num_training_samples, the number of its images, since "
            "training begins with the first ones: give it, or use input mode File"
        )


def open_pipe(name: str, channel: ChannelPipe, stop: StopToken, labels: ImageLabels | None = None) -> Pipe:
    """Begin to read a channel, of images with ``labels`` or with objects.

    What is not shuffled waits in a quarter of the memory.
    """
    memory = buffer_bytes() // (1 if name == "train" else 4)
    log.info(
        "channel %s streams through pipes, the first is %s_0; up to %.0f MB of its images wait in memory",
        name,
        channel.path,
        memory / 2**20,
    )
    # An eighth is for the images that the loader keeps to fill up the last batch.
    return Pipe(
        channel.path, channel.passes, memory // 8 * 7, stop=stop, turn=channel.shard.takes, labels=labels
    )


def read_head(name: str, pipe: Pipe) -> ParsedChannel:
    """What the first images say of the classes; they stay where they are.

    Raises:
        UserError: the pipe is damaged there, empty, or holds something else.
        StopWaiting: the job is to stop.

    """
    items = first_items(pipe)
    if items:
        log.info("channel %s holds %s (%s_0)", name, items[0].format, pipe.path.name)
    names: dict[int, set[str]] = {}
    for arrival in items:
        for number, text in arrival.names.items():
            names.setdefault(number, set()).add(text)
    return ParsedChannel(
        [], names={number: next(iter(one)) for number, one in names.items() if len(one) == 1}
    )
