"""The state of a training: the sum of its parts', and what each process has of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.fixed import FIXED
from tilewise.hyperparameters.values import AUTO_BATCH
from tilewise.models.spec import ModelSpec
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.history import Progress
from tilewise.training.job.best_model import write_model_files
from tilewise.training.job.context import JobContext

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part of a training that a checkpoint holds."""

    def state_dict(self) -> Any:
        """Texts, numbers, lists, dicts and tensors."""

    def load_state_dict(self, state: Any) -> None:
        """The inverse of :meth:`state_dict`."""


class TrainState:
    """All that a training needs to go on: the states of its parts by name, progress and random numbers.

    Args:
        job: the training job.
        spec: of its model.
        classes: their names, by label.
        progress: of this process.
        parts: alike in all processes, so that the leader's stand for all.

    """

    def __init__(
        self,
        job: JobContext,
        spec: ModelSpec,
        classes: Sequence[str],
        *,
        progress: Progress,
        parts: Mapping[str, Stateful],
    ):
        self.job, self.spec, self.classes, self.progress, self.parts = job, spec, classes, progress, parts

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint; all processes must ask, and the leader gets it.

        Progress and random numbers are those of all processes, by rank.
        """
        own = {"progress": self.progress.state_dict(), "random": _random_state()}
        processes = self.job.distributed.gather(own)
        if not self.job.distributed.is_main_process:
            return None
        return {
            "job": self.job.name,
            "hyperparameters": json.dumps(_facts(self.job.hp)),
            "classes": list(self.classes),
            "spec": json.dumps(self.spec.to_json()),
            "processes": processes,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a new training to where another one of the same job was.

        Args:
            state: from :meth:`state_dict`, of the spec that :func:`agreed_spec` returned; it is large, and
                emptied.

        """
        self._load_process(state["processes"], json.loads(state["hyperparameters"])["training_batch_size"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        state.clear()

    def _load_process(self, processes: Sequence[Mapping[str, Any]], batch: int) -> None:
        """What each process has of its own; as near as can be where there were others, or other batches."""
        hp, distributed = self.job.hp, self.job.distributed
        rank, begun, now = distributed.rank, len(processes), distributed.size
        if begun == now:
            _set_random_state(processes[rank]["random"])
        if (begun, batch) == (now, hp.training_batch_size):
            self.progress.load_state_dict(processes[rank]["progress"])
            return
        batches = (begun, now) if hp.batch_unit == "gpu" else (1, 1)  # of each process, or of each host
        views = batches[0] * batch, batches[1] * hp.training_batch_size
        shared = Progress(**processes[0]["progress"]).shared_anew(rank, *views)
        log.warning(
            "the checkpoint is of %d processes with training_batch_size=%d, now there are %d with %d: the "
            "epoch goes on after %d of its batches",
            begun,
            batch,
            now,
            hp.training_batch_size,
            shared.batches,
        )
        self.progress.load_state_dict(shared.state_dict())


class Checkpointer:
    """Writes the state of a training into its checkpoints, where any process has some; one of them writes.

    Args:
        job: the training job.
        checkpoints: of this process, where the job wants them: the leader's.
        state: what they hold.

    """

    def __init__(self, job: JobContext, checkpoints: Checkpoints | None, state: TrainState):
        self.checkpoints, self.state = checkpoints, state
        self.wanted = job.distributed.any(checkpoints is not None)
        self.every = 1 if job.hp.checkpoint_frequency is None else job.hp.checkpoint_frequency

    def due(self, epochs: int) -> bool:
        """Whether there is to be a checkpoint after so many epochs; a frequency of 0 wants none."""
        return bool(self.every) and epochs % self.every == 0

    def save(self) -> None:
        """Write a checkpoint; all processes must call it."""
        state = self.state.state_dict() if self.wanted else None
        if self.checkpoints and state:
            self.checkpoints.save(state)


def _random_state() -> dict[str, Any]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])


def agreed_spec(state: Mapping[str, Any], job: JobContext, classes: Sequence[str]) -> ModelSpec:
    """The model of a checkpoint, when it is the one that this job trains.

    What was fitted to the data is taken from the checkpoint, not fitted anew.

    Raises:
        UserError: the job trains another one; the message shows both.

    """
    was, now = json.loads(state["hyperparameters"]), _facts(job.hp)
    changed = {name: f"{name}={was[name]}, now {now[name]}" for name in now if was.get(name) != now[name]}
    known = {name: text for name, text in changed.items() if name in was}
    fixed = [text for name, text in known.items() if name in FIXED]
    if list(classes) != state["classes"]:
        fixed.append(f"the classes {_list(state['classes'])}, now {_list(classes)}")
    if fixed:
        raise UserError(
            f"the checkpoint in {job.checkpoint_dir} is of another training: it has "
            f"{'; '.join(fixed)}. Give CheckpointConfig another S3Uri or delete the checkpoint, or set these "
            "as they were"
        )
    if known:
        log.warning(
            "not as they were when the checkpoint was written: %s; what they are now counts from here on",
            "; ".join(known.values()),
        )
    spec: ModelSpec = job.task.spec_from_json(json.loads(state["spec"]))
    return spec


def with_choices_of(state: Mapping[str, Any], hp: Hyperparameters) -> Hyperparameters:
    """The hyperparameters with what the interrupted run found out where they leave it to the job."""
    was = json.loads(state["hyperparameters"])
    names: list[str] = []
    if hp.training_batch_size == AUTO_BATCH:
        names += ["training_batch_size", *_left_out(["validation_batch_size"], hp)]
    if hp.precision == "auto" and not hp.deterministic:
        names += ["precision"]
    names += [name for name in ("random_windows", "colour_changes") if getattr(hp, name) == "auto"]
    if hp.multi_scale == "auto" and isinstance(was["multi_scale"], list):
        was["multi_scale"] = tuple(was["multi_scale"])
        names += ["multi_scale"]
    if hp.minutes is not None and not was["minutes"]:
        log.warning(
            "minutes=%g has no effect: the run of the checkpoint has number_of_epochs=%d, and keeps to "
            "epochs: give another number_of_epochs instead, or begin anew",
            hp.minutes,
            was["number_of_epochs"],
        )
    if hp.minutes is None:
        return hp.model_copy(update={name: was[name] for name in names})
    names += _left_out(["evaluation_frequency", "warmup_cosine_lr_warmup_epochs"], hp)
    names += ["smallest_object"] if hp.smallest_object is None else []
    epochs = was["number_of_epochs"]
    planned = max(1, round(epochs * hp.minutes / was["minutes"])) if was["minutes"] else epochs
    return hp.model_copy(update={"number_of_epochs": planned} | {name: was[name] for name in names})


def _left_out(names: Sequence[str], hp: Hyperparameters) -> list[str]:
    """Those of the names that the user has not given."""
    return [name for name in names if name not in hp.given]


def progress_in(state: Mapping[str, Any]) -> Progress:
    """How far the run of a checkpoint was: its first process."""
    return Progress(**state["processes"][0]["progress"])


def say_where(state: Mapping[str, Any], job: JobContext, name: str) -> None:
    """Log what is resumed, and from which file."""
    progress, epochs = progress_in(state), job.hp.number_of_epochs
    where = f"after epoch {progress.epoch - 1}" if progress.epoch else "before the first step"
    if progress.trained:
        where = f"before the validation of epoch {progress.epoch}"
    elif progress.batches:
        where = f"in epoch {progress.epoch} after {progress.batches} batches"
    log.info("resumed from %s: %s of %d epochs", name, where, epochs)
    before = state["job"]
    if before and before != job.name:
        log.warning("the checkpoint is of the job %s: for a training of its own give another S3Uri", before)
    if progress.epoch >= epochs:
        log.warning("number_of_epochs=%d and all of them are done: nothing is left to train", epochs)


def put_model_back(state: Mapping[str, Any], model_dir: Path) -> bool:
    """Write the best model that a checkpoint holds; returns whether it holds one."""
    files = state["parts"]["best_model"]["files"]
    write_model_files(files, model_dir)
    return bool(files)


def _facts(hp: Hyperparameters) -> dict[str, Any]:
    return hp.model_dump(mode="json", exclude={"dialect", "batch_unit", "given"})


def _list(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], "…"] if len(names) > 10 else names)
