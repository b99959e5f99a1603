"""The table: every hyperparameter with its names, values, defaults and one line of help."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tilewise.hyperparameters.groups.augmentation import AugmentationHyperparameters
from tilewise.hyperparameters.groups.checkpoints import CheckpointsHyperparameters
from tilewise.hyperparameters.groups.classification import ClassificationHyperparameters
from tilewise.hyperparameters.groups.data import DataHyperparameters
from tilewise.hyperparameters.groups.detections import DetectionsHyperparameters
from tilewise.hyperparameters.groups.early_stopping import EarlyStoppingHyperparameters
from tilewise.hyperparameters.groups.evaluation import EvaluationHyperparameters
from tilewise.hyperparameters.groups.learning_rate import LearningRateHyperparameters
from tilewise.hyperparameters.groups.masks import MasksHyperparameters
from tilewise.hyperparameters.groups.model import ModelHyperparameters
from tilewise.hyperparameters.groups.optimizer import OptimizerHyperparameters
from tilewise.hyperparameters.groups.small_objects import SmallObjectsHyperparameters
from tilewise.hyperparameters.groups.training import TrainingHyperparameters
from tilewise.hyperparameters.row import Dialect, Row
from tilewise.views.rendering import Rendering

GROUPS: dict[str, type[BaseModel]] = {
    "Model": ModelHyperparameters,
    "Data": DataHyperparameters,
    "Augmentation": AugmentationHyperparameters,
    "Training": TrainingHyperparameters,
    "Optimizer": OptimizerHyperparameters,
    "Learning rate": LearningRateHyperparameters,
    "Early stopping": EarlyStoppingHyperparameters,
    "Checkpoints": CheckpointsHyperparameters,
    "Evaluation": EvaluationHyperparameters,
    "Detections": DetectionsHyperparameters,
    "Masks": MasksHyperparameters,
    "Classification": ClassificationHyperparameters,
    "Small objects": SmallObjectsHyperparameters,
}
"""The hyperparameters by heading, a module in ``groups`` each, in the order of the page on them."""

ROWS: dict[str, Row] = {
    name: row
    for group in GROUPS.values()
    for name, field in group.model_fields.items()
    for row in field.metadata
    if isinstance(row, Row)
}
"""The rows of all groups, by name."""

AZURE_OTHER_NAMES = {
    "amsgrad": "ams_gradient",
    "box_detections_per_img": "box_detections_per_image",
    "box_nms_thresh": "nms_iou_threshold",
    "box_score_thresh": "box_score_threshold",
    "grad_accumulation_step": "gradient_accumulation_step",
    "img_size": "image_size",
    "lr_scheduler": "learning_rate_scheduler",
    "nms_iou_thresh": "nms_iou_threshold",
    "number_of_workers": "num_workers",
    "random_seed": "seed",
    "train_crop_size": "training_crop_size",
    "tile_predictions_nms_thresh": "tile_predictions_nms_threshold",
    "valid_crop_size": "validation_crop_size",
    "valid_resize_size": "validation_resize_size",
    "validation_size": "validation_data_size",
}
"""Azure AutoML's names from before its second SDK, and those that only its SDK has: jobs still have them."""

WITHOUT_EFFECT = (
    "distributed",
    "enable_onnx_normalization",
    "log_training_metrics",
    "log_validation_loss",
)
"""Azure AutoML's settings that are read and change nothing."""


class Hyperparameters(  # pydantic takes the fields of the last of these first
    SmallObjectsHyperparameters,
    ClassificationHyperparameters,
    MasksHyperparameters,
    DetectionsHyperparameters,
    EvaluationHyperparameters,
    CheckpointsHyperparameters,
    EarlyStoppingHyperparameters,
    LearningRateHyperparameters,
    OptimizerHyperparameters,
    TrainingHyperparameters,
    AugmentationHyperparameters,
    DataHyperparameters,
    ModelHyperparameters,
):
    """The hyperparameters of one job, complete and checked. ``parse_hyperparameters`` makes them.

    The table says what each is for. The last three fields say how the job was written: ``dialect`` is the one
    whose defaults hold; ``batch_unit`` says whether the two batch sizes are for each GPU or for all GPUs of a
    machine together; ``given`` holds the names of what the user gave, in their spelling and order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=False)

    dialect: Dialect
    batch_unit: Literal["gpu", "machine"]
    given: tuple[str, ...]

    @property
    def azure_yolov5(self) -> bool:
        """Whether the model was named ``yolov5``: Azure's limits and stages are those of YOLOv5."""
        return self.model_size is not None

    @property
    def rendering(self) -> Rendering:
        """Which of an image's stored values the model sees."""
        return Rendering(self.bands, self.pixel_range)

    def spelling(self, name: str) -> str:
        """The name of a hyperparameter as this job writes it, or would."""
        alias = ROWS[name].alias
        if alias and name not in self.given and (alias in self.given or self.dialect == "builtin"):
            return alias
        return name
