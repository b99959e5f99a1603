"""From a job's hyperparameters and its model to the views that it trains on."""

from __future__ import annotations

import logging

import numpy as np
from torch.utils.data import DataLoader

from tilewise.arrays import Float64
from tilewise.augment.augmentations import Augmentations
from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.records import Records
from tilewise.data.sizes_in_views import sizes_in_tiles, sizes_in_views
from tilewise.data.source import RecordSource
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.spec import ModelSpec
from tilewise.registry import find_model
from tilewise.tiling.spec import QUARTILE, WHOLE_IMAGE
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.loader import LoaderConfig, make_loader
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.multi_scale import STEP, factors_for, multi_scale_sides, sides_of

log = logging.getLogger(__name__)

PLAIN_SHARE = 15
"""Percent of the epochs, the last ones, that have no mosaic and no mixup where the job does not say."""


def make_planner(hp: Hyperparameters, spec: ModelSpec) -> ViewPlanner | None:
    """Who draws the views of a job's epochs; None where each image is seen once, as a whole, at one size."""
    assert hp.training_views is not None
    views = hp.training_views
    if views != "whole" and spec.tiling.kind == "whole":  # tile_grid_size=auto found that no tiles are needed
        views = "whole"
    if views == "whole" and not hp.multi_scale:
        return None
    ratio, visibility = hp.negative_views_ratio, hp.min_box_visibility
    return ViewPlanner(views, spec.tiling, spec.scaling, hp.chip_size, ratio, visibility)


def with_size_factors(hp: Hyperparameters, spec: ModelSpec, records: Records) -> Hyperparameters:
    """The hyperparameters with factors in place of ``multi_scale=auto``; the log says which.

    Args:
        hp: the job's.
        spec: of its model.
        records: the training images, or the first of them.

    """
    if hp.multi_scale != "auto":
        return hp
    tiling = spec.tiling if hp.training_views != "whole" else WHOLE_IMAGE
    smallest = hp.smallest_object or find_model(spec.name).resolves(stride_4_level=hp.stride_4_level)
    factors = factors_for(sizes_in_views(records, spec.scaling, tiling), smallest)
    log.info(
        "multi_scale=auto: factors %s, by the objects' sizes in views and the %g px that the model resolves",
        ", ".join(f"{factor:g}" for factor in factors),
        smallest,
    )
    return hp.model_copy(update={"multi_scale": factors})


def shown_from(hp: Hyperparameters, spec: ModelSpec, records: Records) -> float:
    """From how many pixels (√area, in a view) on tiles show three quarters of the objects.

    What the model resolves, where they get so far: no more than that counts.

    Args:
        hp: the job's.
        spec: of its model, whose tiles were chosen from the data.
        records: the training images, or the first of them.

    """
    resolves = find_model(spec.name).resolves(stride_4_level=hp.stride_4_level)
    sizes = sizes_in_tiles(records, spec.scaling, spec.tiling)
    return min(resolves, float(np.percentile(sizes, QUARTILE)))


def size_factors(hp: Hyperparameters, spec: ModelSpec) -> list[float]:
    """What the size of a batch's views is multiplied by; 1 alone without ``multi_scale``."""
    if not hp.multi_scale:
        return [1.0]
    nominal = spec.scaling.square or spec.scaling.min_size
    assert nominal is not None
    smallest = find_model(spec.name).smallest_view(nominal)
    if isinstance(hp.multi_scale, tuple):
        step = STEP if spec.scaling.square else 1
        sides = sides_of(nominal, hp.multi_scale, smallest=smallest, step=step)
    else:
        sides = multi_scale_sides(nominal, smallest)
    log.info("multi_scale: the views' shorter side varies from %d to %d px", sides[-1], sides[0])
    return [side / nominal for side in sides]


def augmentations_of(hp: Hyperparameters) -> Augmentations:
    """What varies a job's views beside windows and mirroring."""
    any_way_up = hp.orientation == "any"
    return Augmentations(
        vertical_flip=hp.vertical_flip or any_way_up,
        quarter_turns=hp.quarter_turns or any_way_up,
        rotation=hp.rotation,
        shear=hp.shear,
        degradation=hp.degradation,
        mosaic=hp.mosaic,
        mixup=hp.mixup,
        colours=bool(hp.colour_changes),
        resized_crop=hp.training_crop_size,
    )


def plain_epochs(hp: Hyperparameters) -> int:
    """How many of the last epochs have no mosaic and no mixup."""
    if hp.plain_epochs is not None:
        return hp.plain_epochs
    return -(-hp.number_of_epochs * PLAIN_SHARE // 100)


def load_views(  # noqa: PLR0913  # what the job has decided
    hp: Hyperparameters,
    spec: ModelSpec,
    source: RecordSource,
    *,
    planner: ViewPlanner | None,
    repeats: Float64 | None,
    copy_paste: CopyPaste | None,
    batch_size: int,
    workers: int = 0,
    distributed: DistributedContext = SINGLE_PROCESS,
    pinned: bool = False,
) -> DataLoader[Batch | bytes]:
    """A job's training views in batches of one process, see :func:`make_loader`."""
    config = LoaderConfig(
        scaling=spec.scaling,
        batch_size=batch_size,
        workers=workers,
        seed=hp.seed,
        min_visibility=hp.min_box_visibility,
        factors=size_factors(hp, spec),
        random_windows=bool(hp.random_windows),
        rendering=spec.rendering,
        augmentations=augmentations_of(hp),
        plain_from=hp.number_of_epochs - plain_epochs(hp),
        pinned=pinned,
    )
    return make_loader(
        source, config, planner=planner, distributed=distributed, repeats=repeats, copy_paste=copy_paste
    )
