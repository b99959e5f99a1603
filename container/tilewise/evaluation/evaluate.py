from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from tilewise.data.annotations import ChannelIssues
from tilewise.data.decode import DecodedImage, DecodeError
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.coco import coco_metrics
from tilewise.evaluation.slow import say_if_slow
from tilewise.evaluation.voc import VocMetric, voc_metrics
from tilewise.inference.predictor import Predictor
from tilewise.instances import Instances
from tilewise.machine import available_cores
from tilewise.stop import NEVER, StopToken

READ_AHEAD = 4
"""Images that are decoded, or being decoded, while one is looked at."""


def evaluate(
    predictor: Predictor,
    records: Iterable[Record],
    issues: ChannelIssues,
    voc: VocMetric = VocMetric(),  # noqa: B008  # it is frozen
    stop: StopToken = NEVER,
    keep: Callable[[Scored], object] = lambda scored: None,
    gather: Callable[[Scored | None], Scored | None] = lambda scored: scored,
) -> dict[str, Any] | None:
    """Predict every record and compare with its ground truth.

    Args:
        predictor: takes the path that the endpoint takes.
        records: the ground truth; each is asked for once, and its image is not kept.
        issues: damaged images are noted there and left out.
        voc: how VOC's figures are computed.
        stop: looked at after each image.
        keep: gets the detections that the figures are of, with their ground truth.
        gather: puts together what several processes have found in their parts of the records; None for what
            was stopped, and where another process has the whole.

    Returns:
        See :func:`metrics`; None when it was stopped, or ``gather`` returned None.

    Raises:
        UserError: too many images are damaged.

    """
    with say_if_slow("looking at the images"):
        found = _find(predictor, records, issues, stop)
    with say_if_slow("gathering what the processes found"):
        scored = gather(found)
    if scored is None:
        return None
    keep(scored)
    return metrics(scored.records, scored.detections, predictor.classes, voc)


def _find(
    predictor: Predictor, records: Iterable[Record], issues: ChannelIssues, stop: StopToken
) -> Scored | None:
    decoded_records: list[Record] = []
    images = decoded(predictor, records, issues, decoded_records)
    detections: list[Instances] = []
    for prediction in predictor.predict_all(images):
        detections.append(prediction.detections)
        if stop.requested:
            return None
    if stop.requested:  # while it waited for a pipe
        return None
    issues.finish_pass()
    return Scored(Records(decoded_records), detections)


def metrics(
    records: Records,
    detections: list[Instances],
    classes: tuple[str, ...],
    voc: VocMetric = VocMetric(),  # noqa: B008  # it is frozen
) -> dict[str, Any]:
    """The figures of :func:`coco_metrics`, and ``VOC`` with those of :func:`voc_metrics` and their kind."""
    with say_if_slow("COCO's figures"):
        coco = coco_metrics(records, detections, classes)
    with say_if_slow("VOC's figures"):
        return {**coco, "VOC": {**voc_metrics(records, detections, classes, voc), **asdict(voc)}}


def decoded(
    predictor: Predictor, records: Iterable[Record], issues: ChannelIssues, decoded_records: list[Record]
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
