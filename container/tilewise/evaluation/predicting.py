"""What a model says of annotated images, whatever its task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.decoding.decode import DecodedImage, DecodeError
from tilewise.data.records import Record, Records
from tilewise.inference.predictor import Predictor
from tilewise.machine import available_cores
from tilewise.stop import StopToken

READ_AHEAD = 4
"""Images that are decoded, or being decoded, while one is looked at."""


def predict_records(
    predictor: Predictor, records: Iterable[Record], issues: ChannelIssues, *, stop: StopToken
) -> tuple[Records, list[Any]] | None:
    """Predict every record.

    Args:
        predictor: takes the path that the endpoint takes.
        records: each is asked for once, and its image is not kept.
        issues: damaged images are noted there and left out.
        stop: looked at after each image.

    Returns:
        The records whose images could be decoded, and a prediction of each; None when it was stopped.

    Raises:
        UserError: too many images are damaged.

    """
    decoded_records: list[Record] = []
    predictions: list[Any] = []
    for prediction in predictor.predict_all(
        decoded(predictor, records, issues, decoded_records=decoded_records)
    ):
        predictions.append(prediction)
        if stop.requested:
            return None
    if stop.requested:  # while it waited for a pipe
        return None
    issues.finish_pass()
    return Records(decoded_records), predictions


def decoded(
    predictor: Predictor, records: Iterable[Record], issues: ChannelIssues, *, decoded_records: list[Record]
) -> Iterator[DecodedImage]:
    """The records' images, a few decoded ahead; ``decoded_records`` gets each record whose image could be.

    Raises:
        UserError: too many images are damaged.

    """

    def decode(record: Record) -> DecodedImage | str:
        try:
            return predictor.decode(record.source)
        except (DecodeError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(_decoders(on_gpu=predictor.backend.on_gpu)) as pool:
        for record, image in _ahead(pool, decode, records):
            if isinstance(image, str):
                issues.leave_out(record.key, image)
            else:
                decoded_records.append(replace(record, encoded=None))
                yield image


def _decoders(*, on_gpu: bool) -> int:
    """Threads that decode: a CPU that looks at images is slower than one, a GPU faster."""
    return max(1, min(READ_AHEAD, available_cores() - 1)) if on_gpu else 1


def _ahead(
    pool: ThreadPoolExecutor, decode: Callable[[Record], DecodedImage | str], records: Iterable[Record]
) -> Iterator[tuple[Record, DecodedImage | str]]:
    waiting: list[tuple[Record, Any]] = []
    for record in records:
        waiting.append((record, pool.submit(decode, record)))
        if len(waiting) > READ_AHEAD:
            first, future = waiting.pop(0)
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
