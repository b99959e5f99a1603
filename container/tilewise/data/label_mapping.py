"""The classes of a job that goes on from an earlier model: each gets the label that it has there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.channel import DataSet
from tilewise.data.quoting import some

log = logging.getLogger(__name__)


def with_labels_of(data: DataSet, earlier: Sequence[str]) -> DataSet:
    """The data with the labels of an earlier model's classes.

    A class has the label of the earlier one of its name; those without take the labels that are left, in
    their order. Where the data has ids and the model names, the names stay; a warning says what was matched
    by position. Data with another number of classes stay as they are.

    Args:
        data: changed.
        earlier: the model's classes, by label.

    """
    own, model = data.classes, tuple(earlier)
    if own == model or len(own) != len(model):
        return data
    labels = label_mapping(own, model)
    placed = tuple(own[old] for old in np.argsort(labels).tolist())
    classes = model if _are_ids(own) and not _are_ids(model) else placed
    pairs = [f"{mine} as {theirs}" for mine, theirs in zip(placed, model, strict=True) if mine != theirs]
    if pairs:
        log.warning(
            "channel model: that model has the classes %s, this job %s; where no name agrees, they are "
            "matched by position: %s",
            some(model),
            some(own),
            some(pairs),
        )
    if placed != own:
        log.info("channel model: the labels are in the order of that model's classes: %s", some(classes))
    sources = {
        name: None if source is None else source.relabel(labels)
        for name, source in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    return replace(data, classes=classes, **sources)  # type: ignore[arg-type]  # train stays one


def label_mapping(own: Sequence[str], model: Sequence[str]) -> Int64:
    """(C,) the model's label of each of one's own classes, of which there are as many."""
    labels = {name: model.index(name) for name in own if name in model}
    left = iter(sorted(set(range(len(model))) - set(labels.values())))
    return np.asarray([labels[name] if name in labels else next(left) for name in own], np.int64)


def _are_ids(classes: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in classes)
