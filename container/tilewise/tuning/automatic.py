"""AutoMode: a search space by task and data, for who does not want to write one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilewise.data.read import read_channel
from tilewise.registry import family_of
from tilewise.tuning.space import Categories, Interval, Range, SubSpace

RESOLVED = 32
"""Pixels of a view that an object needs, on its sides' geometric mean, before tiles are worth their cost."""

GRIDS = ("2x1", "3x2", "5x3")
"""The grids of Azure AutoML's own advice."""


@dataclass(frozen=True)
class DataFacts:
    """What of a data set decides where to search.

    Attributes:
        images: how many there are to train on.
        image_side: the median of √area of the images, in pixels.
        object_side: the median of √area of the objects, in pixels; None without boxes.
        gpu: whether the trials have one.

    """

    images: int
    image_side: float
    object_side: float | None
    gpu: bool


UNKNOWN = DataFacts(images=1000, image_side=1000, object_side=None, gpu=True)


def look_at(folder: Path, annotations: Path | None = None, *, task: str, gpu: bool) -> DataFacts:
    """What is to be known of a channel ``train`` in ``folder``.

    Raises:
        UserError: it cannot be read.

    """
    if "classification" in task:
        return replace(UNKNOWN, gpu=gpu)
    records = read_channel(folder, annotations).records
    boxes = records.targets.boxes
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return DataFacts(
        images=len(records),
        image_side=float(np.median(np.sqrt(np.prod(records.sizes, axis=1)))),
        object_side=float(np.median(sides)) if len(sides) else None,
        gpu=gpu,
    )


def automatic_space(task: str, facts: DataFacts = UNKNOWN, model: str | None = None) -> tuple[SubSpace, ...]:
    """One sub-space for each family of models that suits the task and the machine, each with its own rates.

    ``model`` leaves no other to choose. Objects that a whole image would show at less than :data:`RESOLVED`
    pixels are searched with tiles; the larger the zoom that they need, the finer the grids. Small data sets
    get stronger augmentation to try.
    """
    classifies = task in ("classification", "multilabel_classification")
    if model is not None:
        if classifies or family_of(model).scaling == "sides":
            views = {} if classifies else _views(facts, 800)
            return (_space((model,), rate=(1e-3, 2e-2), optimizer="sgd", **views),)
        return (_one_stage((model,), facts),)
    if classifies:
        models = ("resnet50", "seresnext", "vitb16r224") if facts.gpu else ("mobilenetv2", "resnet18")
        return (
            _space(models[:2], rate=(1e-3, 5e-2), optimizer="sgd"),
            *([_space(models[2:], rate=(1e-5, 1e-3), optimizer="adamw")] if models[2:] else []),
        )
    yolox: tuple[str, ...]
    if task == "instance_segmentation":
        rcnn, yolox = "maskrcnn_resnet50_fpn", (f"maskyolox_{'s' if facts.gpu else 'tiny'}",)
    else:
        rcnn, yolox = "fasterrcnn_resnet50_fpn", ("yolox_s", "yolox_m" if facts.gpu else "yolox_tiny")
    if not facts.gpu:
        return (_one_stage(yolox, facts),)
    return (
        _one_stage(yolox, facts),
        _space((rcnn,), rate=(1e-3, 2e-2), optimizer="sgd", **_views(facts, 800)),
    )


def _space(
    models: tuple[str, ...], *, rate: tuple[float, float], optimizer: str, **more: Range | str
) -> SubSpace:
    ranges: dict[str, Range] = {"learning_rate": Interval(*rate, log=True)}
    fixed = {"optimizer": optimizer}
    if len(models) > 1:
        ranges["model_name"] = Categories(models)
    else:
        fixed["model_name"] = models[0]
    for name, value in more.items():
        if isinstance(value, str):
            fixed[name] = value
        else:
            ranges[name] = value
    return SubSpace(ranges, fixed)


def _one_stage(models: tuple[str, ...], facts: DataFacts) -> SubSpace:
    more = {**_views(facts, 640), **_mixing(facts)}
    return _space(models, rate=(1e-4, 3e-3), optimizer="adamw", **more)


def _views(facts: DataFacts, side: int) -> dict[str, Range]:
    """Grids, where a view of the whole image shows half of the objects too small."""
    if facts.object_side is None:
        return {"tile_grid_size": Categories(("none", *GRIDS))}
    zoom = RESOLVED / (facts.object_side * min(1.0, side / facts.image_side))
    if zoom <= 1:
        return {}
    grids = GRIDS[: 1 if zoom < 1.5 else 2 if zoom < 2.5 else 3]
    return {"tile_grid_size": Categories((*grids, "auto")), "copy_paste": Categories(("0", "1"))}


def _mixing(facts: DataFacts) -> dict[str, Range]:
    return {"mosaic": Categories(("0", "0.5"))} if facts.images < 2000 else {}
