"""From a run to the state that a checkpoint holds, and back."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tilewise import platform
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.artifact import DESCRIPTION, remove_others, write_file
from tilewise.models.spec import DetectorSpec

if TYPE_CHECKING:
    from tilewise.training.trainer import Trainer

log = logging.getLogger(__name__)

FIXED = (
    "model_name",
    "image_size",
    "min_size",
    "max_size",
    "stride_4_level",
    "layers_to_freeze",
    "freeze_layer_pattern",
    "optimizer",
    "momentum",
    "ams_gradient",
    "box_score_threshold",
    "nms_iou_threshold",
    "box_detections_per_image",
    "training_views",
    "tile_grid_size",
    "tile_size",
    "tile_overlap_ratio",
    "tile_merge",
    "tile_predictions_nms_threshold",
    "pyramid_scales",
    "pyramid_ranges",
)
"""These make the detector what it is, its views, and what the optimizer remembers: they cannot change."""


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


def snapshot(run: Trainer) -> dict[str, Any] | None:
    """All that a run needs to go on, for a checkpoint; all processes must ask, and the leader gets it.

    Sums and random numbers are those of all processes, by rank.
    """
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    random = {"cpu": torch.get_rng_state(), "cuda": cuda}
    parts = run.distributed.gather({"progress": asdict(run.progress), "random": random})
    if not run.distributed.is_main_process:
        return None
    done = run.progress.epoch + run.progress.trained
    false_positives = run.planner.false_positives if run.planner else {}
    return {
        "job": platform.job_name(),
        "hyperparameters": json.dumps(_facts(run.hp)),
        "classes": list(run.data.classes),
        "spec": json.dumps(run.spec.to_json()),
        "progress": asdict(run.progress),
        "processes": parts,
        "learner": run.train_step.state_dict(),
        "best_score": run.best.state_dict(),
        "history": json.dumps({"epochs": run.trained.epochs[:done], "best": run.trained.best}),
        "alarms": {index: torch.from_numpy(boxes) for index, boxes in false_positives.items()},
        "model": _read_model(run.model_dir) if run.saved else {},
    }


def restore(run: Trainer, state: dict[str, Any]) -> None:
    """Bring a new run to where another one of the same job was.

    The best model so far is put back into the run's model folder.

    Args:
        run: of the spec that :func:`agreed_spec` returned, with nothing learnt.
        state: from :func:`snapshot`; it is emptied, since it is large.

    """
    _restore_process(run, state["processes"])
    run.train_step.load_state_dict(state["learner"])
    run.best.load_state_dict(state["best_score"])
    history = json.loads(state["history"])
    run.trained.epochs, run.trained.best = history["epochs"], history["best"]
    if run.planner:
        run.planner.false_positives = {index: boxes.numpy() for index, boxes in state["alarms"].items()}
    if run.distributed.is_main_process:
        put_model_back(state, run.model_dir)
    run.saved = bool(state["model"])
    state.clear()


def _restore_process(run: Trainer, parts: Sequence[Mapping[str, Any]]) -> None:
    """What each process has of its own; where there were more of them or fewer, as near as can be."""
    rank, size = run.distributed.rank, run.distributed.size
    if size == len(parts):
        run.progress = Progress(**parts[rank]["progress"])
        random = parts[rank]["random"]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"][0])
        return
    first = Progress(**parts[0]["progress"])
    batches = first.batches * len(parts) // size
    log.warning(
        "the checkpoint is of %d processes, now there are %d: the epoch goes on after %d of its batches",
        len(parts),
        size,
        batches,
    )
    # The figures of this one epoch are those of its rest and of what the first process did.
    run.progress = (
        replace(first, batches=batches) if rank == 0 else Progress(first.epoch, first.trained, batches)
    )


def agreed_spec(state: Mapping[str, Any], hp: Hyperparameters, classes: Sequence[str]) -> DetectorSpec:
    """The detector of a checkpoint, when it is the one that this job trains.

    What was fitted to the data is taken from the checkpoint, not fitted anew.

    Raises:
        UserError: the job trains another one; the message shows both.

    """
    was, now = json.loads(state["hyperparameters"]), _facts(hp)
    changed = {name: f"{name}={was[name]}, now {now[name]}" for name in now if was.get(name) != now[name]}
    known = {name: text for name, text in changed.items() if name in was}
    fixed = [text for name, text in known.items() if name in FIXED]
    if list(classes) != state["classes"]:
        fixed.append(f"the classes {_list(state['classes'])}, now {_list(classes)}")
    if fixed:
        raise UserError(
            f"the checkpoint in {platform.checkpoint_dir()} is of another training: it has "
            f"{'; '.join(fixed)}. Give CheckpointConfig another S3Uri or delete the checkpoint, or set these "
            "as they were"
        )
    if known:
        log.warning(
            "not as they were when the checkpoint was written: %s; what they are now counts from here on",
            "; ".join(known.values()),
        )
    return DetectorSpec.from_json(json.loads(state["spec"]))


def with_batch_size_of(state: Mapping[str, Any], hp: Hyperparameters) -> Hyperparameters:
    """The hyperparameters with the batch size that the interrupted run found for ``auto``."""
    was = json.loads(state["hyperparameters"])
    sizes = {name: was[name] for name in ("training_batch_size", "validation_batch_size")}
    return hp.model_copy(update=sizes)


def say_where(state: Mapping[str, Any], hp: Hyperparameters, name: str) -> None:
    """Log what is resumed, and from which file."""
    progress = Progress(**state["progress"])
    where = f"after epoch {progress.epoch - 1}" if progress.epoch else "before the first step"
    if progress.trained:
        where = f"before the validation of epoch {progress.epoch}"
    elif progress.batches:
        where = f"in epoch {progress.epoch} after {progress.batches} batches"
    log.info("resumed from %s: %s of %d epochs", name, where, hp.number_of_epochs)
    job = state["job"]
    if job and job != platform.job_name():
        log.warning("the checkpoint is of the job %s: for a training of its own give another S3Uri", job)
    if progress.epoch >= hp.number_of_epochs:
        log.warning(
            "number_of_epochs=%d and all of them are done: nothing is left to train", hp.number_of_epochs
        )


def put_model_back(state: Mapping[str, Any], model_dir: Path) -> bool:
    """Write the best model that a checkpoint holds; returns whether it holds one.

    At every moment the folder holds the old model or the new one, whole.
    """
    files = {name: content.numpy().tobytes() for name, content in state["model"].items()}
    for name in sorted(files, key=lambda name: name == DESCRIPTION):
        write_file(model_dir / name, partial(Path.write_bytes, data=files[name]))
    if files:
        remove_others(model_dir, min(files, key=lambda name: name == DESCRIPTION))
    return bool(files)


def _read_model(folder: Path) -> dict[str, torch.Tensor]:
    """The files of a model, as bytes."""
    weights = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["weights"]
    return {
        name: torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.uint8)
        for name in (os.path.basename(weights), DESCRIPTION)
    }


def _facts(hp: Hyperparameters) -> dict[str, Any]:
    return hp.model_dump(mode="json", exclude={"dialect", "batch_unit", "given"})


def _list(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], "…"] if len(names) > 10 else names)
