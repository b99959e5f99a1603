"""From a job's hyperparameters and its model to the views that it trains on."""

from __future__ import annotations

import logging

from torch.utils.data import DataLoader

from tilewise.arrays import Float64
from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.source import RecordSource
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.spec import ModelSpec
from tilewise.registry import find_model
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.loader import LoaderConfig, make_loader
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.multi_scale import multi_scale_sides

log = logging.getLogger(__name__)


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


def size_factors(hp: Hyperparameters, spec: ModelSpec) -> list[float]:
    """What the size of a batch's views is multiplied by; 1 alone without ``multi_scale``."""
    if not hp.multi_scale:
        return [1.0]
    nominal = spec.scaling.square or spec.scaling.min_size
    assert nominal is not None
    sides = multi_scale_sides(nominal, find_model(spec.name).smallest_view(nominal))
    log.info("multi_scale: the views' shorter side varies from %d to %d px", sides[-1], sides[0])
    return [side / nominal for side in sides]


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
        random_windows=hp.random_windows,
        rendering=spec.rendering,
        pinned=pinned,
    )
    return make_loader(
        source, config, planner=planner, distributed=distributed, repeats=repeats, copy_paste=copy_paste
    )
