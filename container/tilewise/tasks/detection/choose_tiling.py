"""From a job's hyperparameters and data to the views that its detector is validated and served with."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.records import Records
from tilewise.data.sizes_in_views import sizes_in_views
from tilewise.hyperparameters import Hyperparameters
from tilewise.registry import find_model
from tilewise.tiling.auto import ObjectSizes, choose_fixed, choose_grid, choose_tile_size
from tilewise.tiling.grid import grid_tile
from tilewise.tiling.pyramid import LEVEL_OVERLAP, MIN_SHARE, choose_levels, choose_zooms
from tilewise.tiling.spec import Level, Tiling
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)


def choose_tiling(hp: Hyperparameters, records: Records, scaling: Scaling) -> Tiling:
    """The views of an image that a job's detector is validated and served with; the log says why.

    Args:
        hp: the job's.
        records: the training data.
        scaling: how the detector's views are scaled.

    """
    model = find_model(hp.model_name)
    smallest_object = hp.smallest_object or model.resolves(stride_4_level=hp.stride_4_level)
    tiling = Tiling(
        overlap=hp.tile_overlap_ratio,
        merge=hp.tile_merge,
        merge_threshold=hp.tile_predictions_nms_threshold,
        mirror=hp.tta == "mirror",
    )
    if hp.training_views in ("snip", "sniper"):
        levels = _levels(hp, records, scaling, smallest_object)
        if levels != (Level(1.0),):
            tiling = replace(tiling, kind="pyramid", levels=levels)
    elif hp.training_views == "fixed" or hp.tile_size:
        size = hp.tile_size or choose_tile_size(_objects(records), scaling, smallest_object)
        if size:
            tiling = replace(tiling, kind="fixed", tile_size=size)
    elif hp.training_views == "grid" or hp.tile_grid_size:
        grid = hp.tile_grid_size
        fixed = None
        if grid == "auto":
            fixed = choose_fixed(_objects(records), scaling, smallest_object, overlap=tiling.overlap)
        if fixed:
            log.info("tile_grid_size=auto: %s", fixed.reason)
            tiling, grid = replace(tiling, kind="fixed", tile_size=fixed.size), None
        elif grid == "auto" or grid is None:
            overlap = tiling.overlap if "tile_overlap_ratio" in hp.given else None
            choice = choose_grid(_objects(records), scaling, smallest_object, overlap=overlap)
            log.info("tile_grid_size=auto: %s", choice.reason)
            tiling, grid = replace(tiling, overlap=choice.overlap), choice.grid
        if grid:
            tiling = replace(tiling, kind="grid", grid=grid)
    if tiling.kind in ("grid", "fixed") and hp.training_views != "whole" and tiling.merge != "nms":
        tiling = replace(tiling, whole_from=_whole_from(tiling, _objects(records), scaling, smallest_object))
    if tiling.kind == "whole" and hp.training_views != "whole":
        log.info("training_views=%s: whole images show the objects well enough", hp.training_views)
    log.info("each image is seen as %s", tiling)
    return tiling


def _levels(
    hp: Hyperparameters, records: Records, scaling: Scaling, smallest_object: float
) -> tuple[Level, ...]:
    if hp.pyramid_ranges:
        levels = tuple(
            Level(zoom, low, high)
            for zoom, (low, high) in zip(hp.pyramid_scales, hp.pyramid_ranges, strict=True)
        )
    else:
        scale = _scale(records.sizes, scaling)
        zooms = hp.pyramid_scales or choose_zooms(sizes_in_views(records, scaling), smallest_object)
        levels = choose_levels(zooms, scale, smallest_object, sizes=records.object_sizes)
    for level in levels:
        low, high = level.trains_on
        log.info("zoom %g trains on objects of %g to %g px of the image", level.zoom, low, high)
    return levels


def _scale(image_sizes: Int64, scaling: Scaling) -> float:
    """Pixels of a view of the whole image for one pixel of a typical image."""
    width, height = np.median(image_sizes, axis=0).tolist()
    view_size = scaling.size_of(width, height)
    return math.sqrt(view_size[0] / width * view_size[1] / height)


def _whole_from(tiling: Tiling, objects: ObjectSizes, scaling: Scaling, smallest_object: float) -> float:
    """From which size on the whole image shows objects well enough, or may be alone in showing them whole.

    Smaller ones, which the tiles show larger, would only teach the detector to see what it cannot resolve,
    and pull its anchors down to that. Hardly any of them may be longer than what neighbouring tiles share,
    since those may be whole in no tile. (Azure AutoML's way, ``tile_merge=nms``, has no such limit.)
    """
    width, height = np.median(objects.image_sizes, axis=0).tolist()
    if tiling.grid:
        tile = grid_tile(width, height, tiling.grid, overlap=tiling.overlap)
    else:
        assert tiling.tile_size is not None
        tile = tiling.tile_size, tiling.tile_size
    is_cut = (objects.sides > tiling.overlap * np.array(tile)).any(axis=1)
    rare = int(MIN_SHARE * len(objects.sides))
    limits = np.sort(objects.sizes[is_cut])[rare : rare + 1]
    resolvable_from = smallest_object / _scale(objects.image_sizes, scaling) / LEVEL_OVERLAP
    return round(float(min([resolvable_from, *limits])), 1)


def _objects(records: Records) -> ObjectSizes:
    image_of = np.repeat(np.arange(len(records)), records.object_counts)
    return ObjectSizes(records.sizes, records.object_sides, image_of)
