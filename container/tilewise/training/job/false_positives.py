from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from tilewise.arrays import Float32
from tilewise.data.records import Record
from tilewise.data.source import RecordSource
from tilewise.evaluation.predicting import decoded
from tilewise.inference.predictor import Predictor
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.job.context import JobContext

log = logging.getLogger(__name__)

MOST_IMAGES = 2000


class FalsePositives:
    """Negative chips from where the model is wrong: after a third of the epochs it looks, once.

    Args:
        job: which may want them, see the hyperparameter ``negative_views``.
        planner: of the training views, which draws the chips; None where there are none.
        train: the training data.
        predictor: the model as it is when all processes ask for it.

    """

    def __init__(
        self,
        job: JobContext,
        planner: ViewPlanner | None,
        train: RecordSource,
        *,
        predictor: Callable[[], Predictor],
    ):
        self.job, self.planner, self.train, self.predictor = job, planner, train, predictor
        self._epoch = max(1, job.hp.number_of_epochs // 3)  # by the first plan of a job of so many minutes

    def due(self, epoch: int) -> bool:
        """Whether they are looked for before this epoch."""
        if not self.planner or self.planner.views != "sniper":  # whole images show the objects well enough
            return False
        return self.job.hp.negative_views == "false_alarms" and epoch == self._epoch

    def look(self) -> bool:
        """Look at the training images; returns False when the job is to stop instead."""
        assert self.planner and self.train.supports_random_access
        false_positives = self._find()
        if self.job.stopping():
            return False
        self.planner.false_positives = false_positives
        return True

    def state_dict(self) -> dict[int, torch.Tensor]:
        """For a checkpoint: by the index of their image."""
        false_positives = self.planner.false_positives if self.planner else {}
        return {index: torch.from_numpy(boxes) for index, boxes in false_positives.items()}

    def load_state_dict(self, state: Mapping[int, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        if self.planner:
            self.planner.false_positives = {index: boxes.numpy() for index, boxes in state.items()}

    def _find(self) -> dict[int, Float32]:
        """Of at most :data:`MOST_IMAGES` images, by their index, (M, 4) boxes in their pixels.

        Damaged images are noted as such and left out.
        """
        records, predictor = self.train.sample, self.predictor()
        order = np.random.default_rng(self.job.hp.seed).permutation(len(records))
        indices = np.sort(order[:MOST_IMAGES]).tolist()
        decoded_records: list[Record] = []
        false_positives: dict[int, Float32] = {}
        images = decoded(
            predictor, records.select(indices), self.train.issues, decoded_records=decoded_records
        )
        index_of = {records[index].key: index for index in indices}
        for number, prediction in enumerate(predictor.predict_all(images)):
            record = decoded_records[number]
            false_positives[index_of[record.key]] = self.job.task.false_positives(prediction, record)
            if self.job.stop.requested:
                break
        count = sum(map(len, false_positives.values()))
        log.info("%d false alarms in %d images", count, len(false_positives))
        return false_positives
