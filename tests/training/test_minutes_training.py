from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_training import SIDE, StandIn, description
from stand_ins import make_hp, make_job
from tilewise.data.channel import DataSet
from tilewise.errors import UserError
from tilewise.stop import StopWhen
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.job.minutes import VALIDATIONS, refuse_pipe
from tilewise.training.train import Start, train
from tilewise.training.train_state import with_choices_of

MINUTES = 0.01


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(data: DataSet, folder: Path, stop_after: int | None = None, **given: object) -> dict[str, Any]:
    """A job's epochs, planned and done; its checkpoints lie beside its model."""
    checkpoints = folder.parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    hp = make_hp(image_size=SIDE, early_stopping=0, **given)
    asked = count()
    stop = StopWhen(lambda: stop_after is not None and next(asked) > stop_after)
    job = make_job(hp, folder, StandIn, lambda predictor, stop: 0.5, stop=stop, checkpoint_dir=checkpoints)
    kept = Checkpoints(checkpoints)
    trained = train(data, job, Start(checkpoints=kept, state=kept.newest()))
    hp_kept = description(folder)["hyperparameters"]
    return {"planned": hp_kept["number_of_epochs"], "done": len(trained.epochs), "epochs": trained.epochs}


def test_minutes__plan_the_epochs_and_the_validations(data: DataSet, model_dir: Path) -> None:
    result = run(data, model_dir, minutes=MINUTES)
    assert 1 < result["done"] == result["planned"]
    validated = [epoch for epoch in result["epochs"] if "validation_seconds" in epoch]
    assert 1 <= len(validated) <= VALIDATIONS


@pytest.mark.parametrize("factor", [1, 3])
def test_minutes__a_resumed_job_keeps_its_plan(data: DataSet, model_dir: Path, factor: int) -> None:
    """Another machine may be faster; and whoever gives more minutes gets more epochs."""
    planned = run(data, model_dir, stop_after=8, minutes=MINUTES)["planned"]
    resumed = run(data, model_dir, minutes=factor * MINUTES)
    assert resumed["planned"] == resumed["done"] == factor * planned


def test_minutes__a_resumed_job_takes_what_it_is_given_now() -> None:
    was = make_hp(minutes=5, training_batch_size="auto").model_copy(
        update={"evaluation_frequency": 7, "warmup_cosine_lr_warmup_epochs": 3, "validation_batch_size": 16}
    )
    state = {"hyperparameters": json.dumps(was.model_dump(mode="json"))}
    kept = with_choices_of(state, make_hp(minutes=5, training_batch_size="auto"))
    given = {"evaluation_frequency": 1, "warmup_cosine_lr_warmup_epochs": 0, "validation_batch_size": 2}
    changed = with_choices_of(state, make_hp(minutes=5, training_batch_size="auto", **given))
    for name, value in given.items():
        assert getattr(kept, name) == getattr(was, name) and getattr(changed, name) == value


def test_minutes__of_a_pipe_are_refused() -> None:
    pipe: Any = SimpleNamespace(known_length=False)
    with pytest.raises(UserError, match=r"minutes=5 plans epochs .* a pipe: give number_of_epochs instead"):
        refuse_pipe(make_hp(minutes=5), pipe)
    refuse_pipe(make_hp(), pipe)
