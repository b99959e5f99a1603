"""How far a training is, and what its epochs gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tilewise.hyperparameters import Hyperparameters
from tilewise.tasks.task import Scored


@dataclass
class Progress:
    """How far a run is: an epoch, and the sums over those of its batches that are done.

    Attributes:
        epoch: the present one, from 0.
        trained: whether all of its batches are learnt, so that only its validation is missing.
        batches: so many of its batches are done.
        learnt: so many of them had a finite loss.
        records: views in these batches.
        pixels: of these views.
        seconds: that they took.
        losses: the sum of each loss.

    """

    epoch: int = 0
    trained: bool = False
    batches: int = 0
    learnt: int = 0
    records: int = 0
    pixels: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def epochs_trained(self) -> int:
        """So many epochs are learnt."""
        return self.epoch + self.trained

    def next_epoch(self) -> None:
        """Nothing of the next epoch is done."""
        self.load_state_dict(asdict(Progress(self.epoch + 1)))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        for each in fields(self):
            setattr(self, each.name, state[each.name])

    def shared_anew(self, rank: int, views: int, now: int) -> Progress:
        """That of a process which goes on with steps of ``now`` views where they had so many ``views``.

        The figures of this one epoch are those of its rest and of what the first process did.
        """
        batches = self.batches * views // now
        return replace(self, batches=batches) if rank == 0 else Progress(self.epoch, self.trained, batches)


class History:
    """What each epoch gave.

    Args:
        progress: says how many of them are whole.

    Attributes:
        epochs: figures of each, as plain JSON types; the last may be of a part of it.

    """

    def __init__(self, progress: Progress):
        self.progress = progress
        self.epochs: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, str]:
        """For a checkpoint: the whole epochs."""
        return {"epochs": json.dumps(self.epochs[: self.progress.epochs_trained])}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.epochs[:] = json.loads(state["epochs"])


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves beside the model: the figures of its weights, of each epoch, of the test.

    ``scored`` is what the saved model found in the validation images; ``hp`` the job's hyperparameters with a
    number for every ``auto`` that the job found out; ``from_scratch`` why it trained from scratch although
    weights were asked for, empty where it did not.
    """

    best: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    test: dict[str, Any] | None = None
    scored: Scored | None = None
    hp: Hyperparameters | None = None
    from_scratch: str = ""
