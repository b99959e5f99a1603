from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from stand_ins import make_hp, make_job
from tilewise.models.spec import DetectorSpec
from tilewise.training.job.best_model import BestModel
from tilewise.training.step.train_step import TrainStep
from tilewise.views.view import Scaling


@pytest.mark.parametrize(("minutes", "told"), [(5, 7), (None, 9)], ids=["planned anew", "fixed"])
def test_finish__the_model_tells_the_epochs_of_the_end(
    minutes: float | None, told: int, tmp_path: Path
) -> None:
    """The best model may have been kept before the last plan was made."""
    given = {"number_of_epochs": 9} if minutes is None else {"minutes": minutes}
    job = make_job(make_hp(**given), tmp_path)
    spec = DetectorSpec("yolox_nano", 1, Scaling(square=64), None, 0.1, 0.5, 10)
    best = BestModel(job, spec, ("dot",), train_step=cast(TrainStep, None))
    kept = {"weights": "model-0000.safetensors", "hyperparameters": {"number_of_epochs": 9}}
    (tmp_path / "model.json").write_text(json.dumps(kept))
    job.hp = job.hp.model_copy(update={"number_of_epochs": 7})
    best.finish()
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["weights"] == kept["weights"]
    assert description["hyperparameters"]["number_of_epochs"] == told
