"""What a training takes for a detector and for its validations, in tests of all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.coco import FIGURES
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.stop import StopToken
from tilewise.tasks.detection.task import DetectionTask
from tilewise.tasks.registry import make_task
from tilewise.tasks.task import Evaluation, Gather
from tilewise.training.job.context import JobContext
from tilewise.training.job.metric_lines import MetricLines
from torch import Tensor

Evaluate = Callable[[Predictor, StopToken], float | None]


@dataclass(frozen=True)
class StandInTask(DetectionTask):
    """Object detection by the detector that a test brings, with the scores that it says.

    Attributes:
        detector: makes it; None for the real one.
        evaluate_as: the score of a model, None when it was stopped; None for real figures.

    """

    detector: Callable[[], Detector] | None = None
    evaluate_as: Evaluate | None = None

    def build(self, spec: DetectorSpec) -> Detector:
        return self.detector() if self.detector else super().build(spec)

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        if self.evaluate_as is None:
            return super().evaluate(predictor, records, issues, stop=stop, gather=gather)
        score = self.evaluate_as(predictor, stop)
        return None if score is None else Evaluation(figures_of(score), Scored(Records([]), []))


def figures_of(score: float) -> dict[str, Any]:
    """All figures of a validation; VOC's mAP is the score, COCO's half of it."""
    return {
        **dict.fromkeys(FIGURES, score / 2),
        "AP_class": {"dot": score / 2},
        "VOC": {"mAP": score, "points": "all"},
    }


class Script:
    """Validations give these scores, one after the other; None: stopped.

    Attributes:
        seen: the weights that each of them saw.

    """

    def __init__(self, scores: Iterable[float | None]):
        self._scores = iter(scores)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, predictor: Predictor, stop: StopToken) -> float | None:
        assert isinstance(predictor.backend, TorchBackend)
        state = predictor.backend.model.network.state_dict()
        self.seen.append({key: value.clone() for key, value in state.items()})
        return next(self._scores)


def make_hp(**given: object) -> Hyperparameters:
    """Those of a small job that downloads and forks nothing: plain SGD on whole images, if not told else."""
    basis: dict[str, object] = {
        "model_name": "ssdlite_mobilenet_v3_large",
        "use_pretrained_model": 0,
        "num_workers": 0,
        "training_batch_size": 4,
        "optimizer": "sgd",
    }
    if given.keys().isdisjoint(("training_views", "tile_grid_size", "tile_size")):
        basis["training_views"] = "whole"
    return parse_hyperparameters(basis | given)


def make_job(
    hp: Hyperparameters,
    model_dir: Path,
    detector: Detector | Callable[[], Detector] | None = None,
    evaluate_as: Evaluate | None = None,
    **more: Any,
) -> JobContext:
    """A job that trains the detector given, or the real one, and validates it as given, or really."""
    task = make_task(hp)
    if detector is not None or evaluate_as is not None:
        built = (lambda: detector) if isinstance(detector, Detector) else detector
        task = replace(StandInTask.of_job(hp), detector=built, evaluate_as=evaluate_as)
    return JobContext(hp, task, MetricLines("algo-1"), model_dir, **more)
