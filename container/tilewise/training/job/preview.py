"""What a job would train on, without training."""

from __future__ import annotations

import torch

from tilewise.data.channel import DataSet
from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.values import AUTO_BATCH
from tilewise.tasks.registry import make_task
from tilewise.training.dataloading.loader import read_batch
from tilewise.training.job.augmentation_choices import with_colour_changes, with_random_windows
from tilewise.training.job.class_balance import balance
from tilewise.training.job.copy_paste import make_copy_paste
from tilewise.training.job.view_plans import load_views, make_planner, with_size_factors
from tilewise.views.sample import Sample

BATCH = 4
"""The size of a batch that the job is to find out."""


def training_views(hp: Hyperparameters, data: DataSet, count: int) -> list[Sample]:
    """The first views of a job's first epoch, as its network gets them.

    Args:
        hp: the job's.
        data: of files.
        count: so many, or all where there are fewer.

    Raises:
        UserError: the hyperparameters do not go with the data.

    """
    spec = make_task(hp).fit_spec(hp, data, None)
    hp = with_size_factors(hp, spec, data.train.sample)
    hp = with_colour_changes(hp, data.train.sample, spec.rendering)
    planner, repeats = make_planner(hp, spec), balance(hp, data.train, data.classes)
    hp = with_random_windows(hp, data.train.expected_images, tiled=planner is not None)
    if planner:
        planner.repeats = repeats
    size = BATCH if hp.training_batch_size == AUTO_BATCH else hp.training_batch_size
    copy_paste = make_copy_paste(hp, data.train, classes=len(data.classes), rendering=spec.rendering)
    batches = load_views(
        hp, spec, data.train, planner=planner, repeats=repeats, copy_paste=copy_paste, batch_size=size
    )
    samples: list[Sample] = []
    for sent in batches:
        samples += read_batch(sent).samples(torch.device("cpu"))
        if len(samples) >= count:
            break
    return samples[:count]
