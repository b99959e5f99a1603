"""How many pixels an epoch of a job passes through its detector: what training costs, whatever the views."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tilewise.data.records import Records
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.models.spec import DetectorSpec
from tilewise.training.tiling import choose_tiling, make_planner
from tilewise.views.view import Scaling


def pixels_of_an_epoch(records: Records, raw: Mapping[str, str]) -> int:
    """The pixels of the views of a job's first epoch, by its own plan.

    Args:
        records: of the training data.
        raw: the job's hyperparameters.

    Raises:
        UserError: a hyperparameter is wrong.

    """
    hp = parse_hyperparameters(raw)
    scaling = Scaling(square=hp.image_size) if hp.image_size else Scaling(None, hp.min_size, hp.max_size)
    spec = DetectorSpec(hp.model_name, 1, scaling, None, 0.0, 0.5, 1, choose_tiling(hp, records, scaling))
    planner = make_planner(hp, spec)
    if planner is None:
        sizes = [scaling.size_of(*size) for size in records.sizes.tolist()]
    else:
        drawn = planner.draw(records, np.random.default_rng((hp.seed, 0)))
        sizes = [view.size for views in drawn for view in views]
    return sum(width * height for width, height in sizes)
