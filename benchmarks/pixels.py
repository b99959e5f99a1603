"""How many pixels an epoch of a job passes through its detector: what training costs, whatever the views."""

from __future__ import annotations

from collections.abc import Mapping

from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Records
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.tasks.detection.fit_spec import fit_spec
from tilewise.training.job.minutes import pixels_of_views
from tilewise.training.job.view_plans import make_planner


def pixels_of_an_epoch(records: Records, raw: Mapping[str, str]) -> int:
    """The pixels of the views of a job's first epoch, by its own plan.

    Args:
        records: of the training data.
        raw: the job's hyperparameters.

    Raises:
        UserError: a hyperparameter is wrong.

    """
    hp = parse_hyperparameters(raw)
    spec = fit_spec(hp, DataSet(("object",), Split(records, ChannelIssues("train")), None))
    return pixels_of_views(records, spec, make_planner(hp, spec), seed=hp.seed)
