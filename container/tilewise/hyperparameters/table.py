"""The table: every hyperparameter with its names, values, defaults and one line of help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tilewise.hyperparameters.models import BASE_NETWORKS
from tilewise.hyperparameters.values import (
    AdvancedSettings,
    AutoFlag,
    Bands,
    BatchSize,
    ClassMap,
    Count,
    Decay,
    Few,
    Flag,
    Fraction,
    Grid,
    MergeName,
    ModelSize,
    MultiScale,
    Names,
    Natural,
    ObjectSize,
    Overlap,
    Pattern,
    PixelRange,
    Positive,
    PrimaryMetric,
    Ranges,
    Scales,
    Share,
    Steps,
    TTAName,
    Workers,
)
from tilewise.registry import InputScaling
from tilewise.views.rendering import Rendering

Dialect = Literal["azure", "builtin"]


class Tuning(NamedTuple):
    """The range that a tuning job may search: a scale from ``low`` to ``high``, or categories."""

    scale: Literal["Linear", "Logarithmic", "Categorical"]
    low: float = 0
    high: float = 0
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of the table: all that is to be said of a hyperparameter beside its name and its type.

    Attributes:
        group: the heading it stands under.
        help: one line for the user; ``$square_models`` and ``$stride_4_models`` stand for their names.
        azure: the default, in a job with Azure AutoML's names; a family of models may have another.
        builtin: the default in a job of the built-in algorithm, ``...`` where it is the same.
        unset: what a default of None means, in words.
        alias: the built-in algorithm's name for it.
        alias_type: the values under that name, where they differ.
        required: whether a job of the built-in algorithm has to give it.
        scaling: the models it applies to, by the way their input is scaled; None for all of them.
        tuning: the range for a tuning job, where there is one.
        task: the one that it applies to; None for all of them.

    """

    group: str
    help: str
    azure: Any
    builtin: Any = ...
    unset: str = "none"
    alias: str | None = None
    alias_type: Any = None
    required: bool = False
    scaling: InputScaling | None = None
    tuning: Tuning | None = None
    task: str | None = None

    def default(self, dialect: Dialect) -> Any:
        """The default in jobs of one kind."""
        return self.azure if dialect == "azure" or self.builtin is ... else self.builtin


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

_BaseNetwork = Annotated[Literal["vgg-16", "resnet-50"], AfterValidator(BASE_NETWORKS.__getitem__)]


class Hyperparameters(BaseModel):
    """The hyperparameters of one job, complete and checked. ``parse_hyperparameters`` makes them.

    The table says what each is for. The last three fields say how the job was written: ``dialect`` is the one
    whose defaults hold; ``batch_unit`` says whether the two batch sizes are for each GPU or for all GPUs of a
    machine together; ``given`` holds the names of what the user gave, in their spelling and order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[
        str,
        Row(
            "Model",
            "What the model is for: `detection`, `instance_segmentation`, `classification` or"
            " `multilabel_classification`. Azure AutoML's names, such as `image-object-detection`, are read,"
            " too, and a model's name tells its task ([how](classification.md)).",
            azure="detection",
        ),
    ]
    model_name: Annotated[
        str,
        Field(description="one of the models below"),
        Row(
            "Model",
            "The model, for instance segmentation by default `maskrcnn_resnet50_fpn`, for classification"
            " `seresnext`. In the built-in's terms, an SSD on this base network.",
            azure="fasterrcnn_resnet50_fpn",
            builtin="ssd_vgg16",
            alias="base_network",
            alias_type=_BaseNetwork,
        ),
    ]
    model_size: Annotated[
        ModelSize,
        Row(
            "Model",
            "The size of `model_name=yolov5`: `yolox_s`, `_m`, `_l` or `_x`.",
            azure=None,
            unset="medium",
        ),
    ]
    use_pretrained_model: Annotated[
        Flag,
        Row(
            "Model",
            "Start from the weights in channel `pretrained`, or in the image (`TILEWISE_WEIGHTS`), if there"
            " are any; 0 starts from random ones.",
            azure=True,
            alias="use_pretrained_model",
        ),
    ]
    image_size: Annotated[
        Count | None,
        Row(
            "Model",
            "Side of the square, in pixels, that an image is scaled to ($square_models).",
            azure=640,
            builtin=300,
            alias="image_shape",
            alias_type=Annotated[int, Field(ge=300)],
            scaling="square",
        ),
    ]
    min_size: Annotated[
        Count | None,
        Row(
            "Model",
            "Pixels that the shorter side is scaled to (all models but $square_models).",
            azure=600,
            builtin=None,
            unset="-",
            scaling="sides",
        ),
    ]
    max_size: Annotated[
        Count | None,
        Row(
            "Model",
            "Pixels that the longer side may have after scaling (all models but $square_models).",
            azure=1333,
            builtin=None,
            unset="-",
            scaling="sides",
        ),
    ]
    multi_scale: Annotated[
        MultiScale,
        Row(
            "Model",
            "Draw the size of each training batch: from ±50 % of `image_size`, or of `min_size` and"
            " `max_size`, in multiples of 32 (1); from these factors of it; or from factors that suit the "
            "sizes of the objects (`auto`). The first is the largest.",
            azure=False,
        ),
    ]
    random_windows: Annotated[
        AutoFlag,
        Row(
            "Model",
            "Train on random crops and zoom-outs of whole images and tiles; 0: these are only mirrored and"
            " recoloured, as the views of `snip` and `sniper` are. `auto`: from 14 epochs on.",
            azure=True,
        ),
    ]
    colour_changes: Annotated[
        AutoFlag,
        Row(
            "Model",
            "Change brightness, contrast, saturation and hue of training views at random; `auto`: unless the"
            " training images are grey.",
            azure=True,
        ),
    ]
    stride_4_level: Annotated[
        Flag,
        Row(
            "Model",
            "One more feature map, at stride 4, for the smallest objects ($stride_4_models).",
            azure=False,
        ),
    ]
    layers_to_freeze: Annotated[
        Natural | None,
        Row(
            "Model",
            "How many stages of the backbone to freeze, counted from its input"
            " ([which they are](models.md#stages-of-the-backbones)).",
            azure=None,
        ),
    ]
    freeze_layer_pattern: Annotated[
        Pattern,
        Row(
            "Model",
            "Freeze the parameters whose names it matches from their beginning, here or in the built-in's"
            " base network. `false` means none.",
            azure=None,
            alias="freeze_layer_pattern",
        ),
    ]

    num_classes: Annotated[
        Count | None,
        Row(
            "Data",
            "Number of classes, without background; must agree with the data.",
            azure=None,
            unset="from the data",
            alias="num_classes",
            required=True,
        ),
    ]
    class_map: Annotated[
        ClassMap,
        Row(
            "Data",
            "Which class ids there are, and their names, where they are not 0, 1, 2, …: "
            '`{"0": "dog", "5": "cat"}`; for formats whose classes are numbers.',
            azure=None,
            unset="ids from 0",
        ),
    ]
    classes: Annotated[
        Names,
        Row(
            "Data",
            "Train on these classes only, with labels in this order; `num_classes` is then how many they"
            " are, or how many the data has.",
            azure=(),
            unset="all",
        ),
    ]
    other_classes: Annotated[
        Literal["drop", "ignore"],
        Row(
            "Data",
            "What the objects of classes that `classes` leaves out are: `drop`, background; `ignore`, neither"
            " object nor background.",
            azure="drop",
        ),
    ]
    max_images: Annotated[
        Count | None,
        Row(
            "Data",
            "Use at most this many images of each channel, drawn with `seed`; input mode File only.",
            azure=None,
            unset="all",
        ),
    ]
    class_balance: Annotated[
        Literal["repeat_factor"] | None,
        Row(
            "Data",
            "`repeat_factor` shows images of rare classes more often in an epoch, as LVIS does: by"
            " √(threshold / the share of the images that have the class); input mode File only.",
            azure=None,
        ),
    ]
    class_balance_threshold: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Row(
            "Data",
            "Classes in a smaller share of the images than this are rare; `class_balance` only.",
            azure=None,
            unset="the median share of the classes, at least LVIS' 0.001",
        ),
    ]
    label_attribute: Annotated[
        str | None,
        Row(
            "Data",
            "The label attribute of an augmented manifest to train on, where it has several.",
            azure=None,
            unset="the only one, or the one that corrects another",
        ),
    ]
    bands: Annotated[
        Bands,
        Row(
            "Data",
            "Which bands of an image are red, green and blue, counted from 1, such as `4,3,2`; or one that is"
            " shown as grey.",
            azure=None,
            unset="the first three",
        ),
    ]
    pixel_range: Annotated[
        PixelRange,
        Row(
            "Data",
            "Values that become black and white, such as `0,4095`, of integers above 8 bits and of floats."
            " The model keeps them for its endpoint.",
            azure=None,
            unset="by [bits or percentiles](data_formats.md#bit-depth-and-bands)",
        ),
    ]
    num_training_samples: Annotated[
        Count | None,
        Row(
            "Data",
            "Number of training images; the data is counted all the same, but input mode Pipe needs it.",
            azure=None,
            unset="from the data",
            alias="num_training_samples",
            required=True,
        ),
    ]
    label_width: Annotated[
        Count | None,
        Row(
            "Data",
            "Accepted; an image may have any number of objects.",
            azure=None,
            unset="any",
            alias="label_width",
        ),
    ]
    validation_data_size: Annotated[
        Share,
        Row(
            "Data",
            "The share of the training images that validates where there is no channel `validation`.",
            azure=0.2,
        ),
    ]
    target_column_name: Annotated[
        Literal["label"] | None,
        Row(
            "Data",
            "Azure's name of the column with the labels.",
            azure=None,
            unset="label",
        ),
    ]
    num_workers: Annotated[
        Workers,
        Row(
            "Data",
            "Processes that load images, for each GPU; `auto` follows the machine.",
            azure=None,
            unset="auto",
        ),
    ]
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32),
        Row("Data", "Seed of shuffling, augmentation and initial weights.", azure=0),
    ]

    orientation: Annotated[
        Literal["upright", "any"],
        Row(
            "Augmentation",
            "`any`: objects may stand in any way, as in aerial and microscope pictures; `vertical_flip` and"
            " `quarter_turns` are on.",
            azure="upright",
        ),
    ]
    vertical_flip: Annotated[
        Flag, Row("Augmentation", "Mirror half of the training views top to bottom.", azure=False)
    ]
    quarter_turns: Annotated[
        Flag, Row("Augmentation", "Turn training views by 0, 90, 180 or 270°.", azure=False)
    ]
    rotation: Annotated[
        Annotated[float, Field(ge=0, le=45)],
        Row(
            "Augmentation",
            "Turn views by up to so many degrees to either side.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 30),
        ),
    ]
    shear: Annotated[
        Annotated[float, Field(ge=0, le=30)],
        Row(
            "Augmentation",
            "Shear views by up to so many degrees.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 10),
        ),
    ]
    degradation: Annotated[
        Fraction,
        Row(
            "Augmentation",
            "The probability that a view is blurred, that it is noisy, and that it is compressed as JPEG.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 0.5),
        ),
    ]
    mosaic: Annotated[
        Fraction,
        Row(
            "Augmentation",
            "The probability that a view is made of parts of four, each at its own scale; no `fasterrcnn_*`.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 1),
        ),
    ]
    mixup: Annotated[
        Fraction,
        Row(
            "Augmentation",
            "The probability that a view shows another one in it; no `fasterrcnn_*`.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 1),
        ),
    ]
    plain_epochs: Annotated[
        Natural | None,
        Row(
            "Augmentation",
            "So many of the last epochs have no `mosaic` and no `mixup`.",
            azure=None,
            unset="15 % of the epochs",
        ),
    ]
    number_of_epochs: Annotated[
        Count,
        Row("Training", "Passes over the training data.", azure=15, builtin=30, alias="epochs"),
    ]
    minutes: Annotated[
        Positive | None,
        Row(
            "Training",
            "In place of `number_of_epochs`: about how long to train. Plans the epochs by the speed that is"
            " measured at the start, and anew where the steps show another; where whole epochs would leave"
            " more than a sixth of the time, each is cut to its first batches. Sets `evaluation_frequency`"
            " (for five validations) and the warm-up (a twelfth), too.",
            azure=None,
        ),
    ]
    training_batch_size: Annotated[
        BatchSize,
        Row(
            "Training",
            "Images in a step: for each GPU as `training_batch_size`; for each machine as `mini_batch_size`,"
            " and in a built-in job that gives neither. `auto` is the largest power of two that fits, up to"
            " 64 (on a CPU 16) and an eighth of the images.",
            azure=2,
            builtin=32,
            alias="mini_batch_size",
            tuning=Tuning("Linear", 8, 64),
        ),
    ]
    validation_batch_size: Annotated[
        Count,
        Row(
            "Training",
            "Images at a time in validation, for each GPU or machine as in training.",
            azure=1,
            builtin=None,
            unset="as in training",
        ),
    ]
    gradient_accumulation_step: Annotated[
        Count, Row("Training", "Batches whose gradients are added up for one update.", azure=1)
    ]
    deterministic: Annotated[
        Flag,
        Row(
            "Training",
            "Give the same weights in each run on the same machine, by slower operations (GPU).",
            azure=False,
        ),
    ]
    kv_store: Annotated[
        Literal["dist_sync", "dist_async"] | None,
        Row(
            "Training",
            "Accepted; training is always synchronous.",
            azure=None,
            builtin="dist_sync",
            alias="kv_store",
        ),
    ]

    distributed: Annotated[
        Flag | None,
        Row("Training", "Accepted; all GPUs of all hosts train.", azure=None),
    ]
    advanced_settings: Annotated[
        AdvancedSettings,
        Row(
            "Training",
            "`apply_automl_train_augmentations=false` is `random_windows=0`, `apply_mosaic_for_yolo=true`"
            " is `mosaic=1` for YOLO models. `stream_image_files` is accepted: input mode FastFile streams.",
            azure=None,
        ),
    ]

    ema_decay: Annotated[
        Decay,
        Row(
            "Training",
            "Validate and keep a moving average of the weights, of which each step keeps this share, but"
            " in n steps at most n / (n + 20): the last twentieth of them. 0: the weights themselves.",
            azure=0.0,
        ),
    ]
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Row(
            "Training",
            "Numbers of the convolutions in training. `auto`: what the device is fast with"
            " ([instances](instances.md#precision)). Validation and serving are always in fp32.",
            azure="auto",
        ),
    ]
    compile: Annotated[
        Flag,
        Row(
            "Training",
            "Compile the convolutions (`torch.compile`): models with `image_size`, without `multi_scale`."
            " Needs a C++ compiler, and on a GPU also Triton: the image contains neither.",
            azure=False,
        ),
    ]

    optimizer: Annotated[
        Literal["sgd", "adam", "adamw", "rmsprop", "adadelta"],
        Row(
            "Optimizer",
            "The algorithm that updates the weights.",
            azure="sgd",
            alias="optimizer",
            tuning=Tuning("Categorical", categories=("sgd", "adam", "rmsprop", "adadelta")),
        ),
    ]
    momentum: Annotated[
        Fraction,
        Row(
            "Optimizer",
            "Momentum; `sgd` and `rmsprop` only.",
            azure=0.9,
            alias="momentum",
            tuning=Tuning("Linear", 0, 0.999),
        ),
    ]
    nesterov: Annotated[
        Flag, Row("Optimizer", "Nesterov's form of momentum; `sgd` only.", azure=True, builtin=False)
    ]
    weight_decay: Annotated[
        Fraction,
        Row(
            "Optimizer",
            "Decay of the weights towards zero.",
            azure=1e-4,
            builtin=5e-4,
            alias="weight_decay",
            tuning=Tuning("Linear", 0, 0.999),
        ),
    ]
    beta1: Annotated[
        Fraction, Row("Optimizer", "Decay of the mean of the gradients; `adam` and `adamw` only.", azure=0.9)
    ]
    beta2: Annotated[
        Fraction,
        Row("Optimizer", "Decay of the mean of their squares; `adam` and `adamw` only.", azure=0.999),
    ]
    ams_gradient: Annotated[
        Flag, Row("Optimizer", "The AMSGrad variant; `adam` and `adamw` only.", azure=False)
    ]

    max_gradient_norm: Annotated[
        Positive,
        Row("Optimizer", "Gradients with a larger norm are scaled down to it.", azure=10.0),
    ]
    learning_rate: Annotated[
        Fraction,
        Row(
            "Learning rate",
            "The highest learning rate.",
            azure=0.005,
            builtin=0.001,
            alias="learning_rate",
            tuning=Tuning("Logarithmic", 1e-6, 0.5),
        ),
    ]
    backbone_learning_rate_factor: Annotated[
        Fraction,
        Row(
            "Learning rate",
            "The learning rate of the backbone, as a share of that of the rest.",
            azure=1.0,
            tuning=Tuning("Logarithmic", 0.01, 1),
        ),
    ]
    warmup_steps: Annotated[
        Natural | None,
        Row(
            "Learning rate",
            "Steps of a linear warm-up, instead of `warmup_cosine_lr_warmup_epochs`; with `step`, too.",
            azure=None,
            unset="by epochs",
        ),
    ]
    learning_rate_scheduler: Annotated[
        Literal["warmup_cosine", "step"],
        Row(
            "Learning rate",
            "How it falls: along a cosine after a warm-up, or in steps, which `lr_scheduler_step` implies.",
            azure="warmup_cosine",
            builtin="step",
        ),
    ]
    warmup_cosine_lr_warmup_epochs: Annotated[
        Natural, Row("Learning rate", "Epochs of warm-up, 0 for none; `warmup_cosine` only.", azure=2)
    ]
    warmup_cosine_lr_cycles: Annotated[
        Fraction,
        Row("Learning rate", "Periods of the cosine; 0.5 ends at zero. `warmup_cosine` only.", azure=0.45),
    ]
    step_lr_gamma: Annotated[
        Fraction,
        Row(
            "Learning rate",
            "Factor at each step; `step` only.",
            azure=0.5,
            builtin=0.1,
            alias="lr_scheduler_factor",
        ),
    ]
    step_lr_step_size: Annotated[
        Natural | None,
        Row("Learning rate", "Epochs between steps, 0 for none; `step` only.", azure=5, builtin=None),
    ]
    lr_scheduler_step: Annotated[
        Steps,
        Row(
            "Learning rate",
            "Epochs after which the rate falls, instead of `step_lr_step_size`."
            " A built-in job that gives neither keeps it constant.",
            azure=(),
            unset="none",
            alias="lr_scheduler_step",
        ),
    ]

    early_stopping: Annotated[
        Flag,
        Row(
            "Early stopping",
            "Stop when validation no longer improves.",
            azure=True,
            builtin=False,
            alias="early_stopping",
        ),
    ]
    early_stopping_patience: Annotated[
        Count,
        Row(
            "Early stopping",
            "Validations without improvement before it stops.",
            azure=5,
            alias="early_stopping_patience",
        ),
    ]
    early_stopping_delay: Annotated[
        Count,
        Row(
            "Early stopping",
            "Epochs before improvement is tracked: it stops after this and `early_stopping_patience` at the"
            " earliest. As `early_stopping_min_epochs`: epochs before it may stop.",
            azure=5,
            builtin=10,
            alias="early_stopping_min_epochs",
        ),
    ]
    early_stopping_tolerance: Annotated[
        Fraction,
        Row(
            "Early stopping",
            "Smallest improvement that counts, as a share of the best figure so far.",
            azure=0.0,
            alias="early_stopping_tolerance",
        ),
    ]
    checkpoint_frequency: Annotated[
        Natural | None,
        Row(
            "Checkpoints",
            "Epochs between checkpoints, where the job has a `CheckpointConfig`; 0: only at the end, and when"
            " the job is stopped.",
            azure=None,
            unset="1",
        ),
    ]
    checkpoint_run_id: Annotated[
        str | None,
        Row(
            "Checkpoints",
            "Azure's name of the run to start from; its model must be in the channel `model`.",
            azure=None,
        ),
    ]

    checkpoint_dataset_id: Annotated[
        str | None, Row("Checkpoints", "As `checkpoint_run_id`, in Azure's first SDK.", azure=None)
    ]
    checkpoint_filename: Annotated[
        str | None, Row("Checkpoints", "As `checkpoint_run_id`, in Azure's first SDK.", azure=None)
    ]

    evaluation_frequency: Annotated[Count, Row("Evaluation", "Epochs between validations.", azure=1)]
    validation_metric_type: Annotated[
        Literal["none", "coco", "voc", "coco_voc"],
        Row(
            "Evaluation",
            "Whose mAP is `validation:mAP`; `none` does not validate. VOC's is the area under the curve, in a"
            " built-in job the mean at 11 recalls.",
            azure="voc",
        ),
    ]
    primary_metric: Annotated[
        PrimaryMetric,
        Row(
            "Evaluation",
            "The figure that chooses the best epoch; `mean_average_precision` is `validation:mAP`.",
            azure="mean_average_precision",
        ),
    ]
    validation_iou_threshold: Annotated[
        float,
        Field(ge=0.1, le=1),
        Row(
            "Evaluation",
            "IoU at which a box is found, in the VOC figures.",
            azure=0.5,
            alias="overlap_threshold",
        ),
    ]
    log_training_metrics: Annotated[
        Literal["enable", "disable"] | None, Row("Evaluation", "Accepted; losses are logged.", azure=None)
    ]
    log_validation_loss: Annotated[
        Literal["enable", "disable"] | None, Row("Evaluation", "Accepted; it is not computed.", azure=None)
    ]

    box_score_threshold: Annotated[
        Fraction,
        Row("Detections", "Boxes below this score are left out.", azure=0.3, builtin=0.01),
    ]
    nms_iou_threshold: Annotated[
        Fraction,
        Row(
            "Detections",
            "IoU above which the lower of two boxes of a class is left out.",
            azure=0.5,
            builtin=0.45,
            alias="nms_threshold",
        ),
    ]
    box_detections_per_image: Annotated[
        Count,
        Row(
            "Detections",
            "Most boxes of an image, the best first, counted after its views are merged. Without effect on"
            " `model_name=yolov5`, as in Azure.",
            azure=100,
            builtin=400,
            alias="nms_topk",
        ),
    ]

    enable_onnx_normalization: Annotated[
        Flag | None, Row("Detections", "Accepted; models normalise their input themselves.", azure=None)
    ]

    mask_pixel_score_threshold: Annotated[
        Fraction,
        Row(
            "Masks",
            "A pixel is an object's where the model is surer of it than this.",
            azure=0.5,
            task="instance_segmentation",
        ),
    ]
    max_number_of_polygon_points: Annotated[
        Annotated[int, Field(ge=3)],
        Row(
            "Masks",
            "Most points of an object's outline in an answer; an outline that needs more is simplified.",
            azure=100,
            task="instance_segmentation",
        ),
    ]
    export_as_image: Annotated[
        Flag,
        Row(
            "Masks",
            "Answers hold each mask as a picture, too.",
            azure=False,
            task="instance_segmentation",
        ),
    ]
    image_type: Annotated[
        Literal["jpg", "png", "bmp"],
        Row("Masks", "Of these pictures.", azure="jpg", task="instance_segmentation"),
    ]

    training_crop_size: Annotated[
        Count | None,
        Row(
            "Classification",
            "Side in pixels of the square that training sees of an image.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    validation_resize_size: Annotated[
        Count | None,
        Row(
            "Classification",
            "Pixels that an image's shorter side is scaled to, before validation and serving look at its"
            " middle.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    validation_crop_size: Annotated[
        Count | None,
        Row(
            "Classification",
            "Side in pixels of that square in the middle.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    weighted_loss: Annotated[
        Annotated[int, Field(ge=0, le=2)],
        Row(
            "Classification",
            "How rare classes count in the loss: 0, as all others; 1, by the root of their weights; 2, by"
            " their weights, images / (classes · images of the class).",
            azure=0,
            task="classification",
        ),
    ]
    objects_as: Annotated[
        Literal["labels", "crops"] | None,
        Row(
            "Classification",
            "What becomes of a channel whose images have objects: `labels`, the classes of an image's"
            " objects are its own; `crops`, each object is cut out, an image with one class.",
            azure=None,
            task="classification",
        ),
    ]
    top_k: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Row(
            "Classification",
            "Also log how often the true class is among so many likeliest ones; one label an image only.",
            azure=None,
            task="classification",
        ),
    ]

    training_views: Annotated[
        Literal["whole", "grid", "fixed", "snip", "sniper"] | None,
        Row(
            "Small objects",
            "What training looks at: whole images; these and the tiles of a `grid`, or tiles of a `fixed`"
            " size; all windows of an image pyramid (`snip`); or chips that cover the objects (`sniper`).",
            azure=None,
            unset="`grid` with `tile_grid_size`, `fixed` with `tile_size`, else `whole`",
        ),
    ]
    tile_grid_size: Annotated[
        Grid,
        Row(
            "Small objects",
            "Look at images in a grid of overlapping tiles, and as a whole. `auto` chooses it from the data."
            " With `training_views=whole` only validation and serving do.",
            azure=None,
        ),
    ]
    tile_size: Annotated[
        Count | None,
        Row(
            "Small objects",
            "Look at images as a whole and in square tiles with sides of this many pixels of the image.",
            azure=None,
            unset="none; with `training_views=fixed` from the data",
        ),
    ]
    tile_overlap_ratio: Annotated[
        Overlap,
        Row(
            "Small objects",
            "Overlap of neighbouring tiles, as a share of a tile; `tile_grid_size=auto` chooses it where it"
            " is not given.",
            azure=0.25,
        ),
    ]
    tile_merge: Annotated[
        MergeName,
        Row(
            "Small objects",
            "How boxes of several views become one: `nms` as Azure AutoML; `fragment` also absorbs what a"
            " tile's border cuts off; `wbf` also averages the boxes.",
            azure="fragment",
        ),
    ]
    tile_predictions_nms_threshold: Annotated[
        Fraction,
        Row("Small objects", "IoU above which boxes of two views are one object.", azure=0.25),
    ]
    tta: Annotated[
        TTAName,
        Row(
            "Small objects",
            "`mirror`: validation and endpoint look at each view mirrored, too, and merge what both show"
            " ([in twice the time](small_objects.md#mirrored-views)).",
            azure="none",
        ),
    ]
    chip_size: Annotated[
        Count | None,
        Row(
            "Small objects",
            "Side of a chip in pixels of what the model sees; `sniper` only ($square_models: `image_size`).",
            azure=512,
            builtin=None,
            unset="-",
            scaling="sides",
        ),
    ]
    pyramid_scales: Annotated[
        Scales,
        Row(
            "Small objects",
            "Zooms of the image pyramid: 1 is the whole image, below 1 it lies in a frame; `snip` and"
            " `sniper` only.",
            azure=(),
            unset="from the data",
        ),
    ]
    pyramid_ranges: Annotated[
        Ranges,
        Row(
            "Small objects",
            "For each of `pyramid_scales` the sizes of the objects that it trains on: √area in pixels of the"
            " image.",
            azure=(),
            unset="from the data",
        ),
    ]
    negative_views_ratio: Annotated[
        float,
        Field(ge=0, le=100),
        Row(
            "Small objects",
            "Tiles or chips without objects for each view with some; each epoch draws others.",
            azure=0.33,
        ),
    ]
    negative_views: Annotated[
        Literal["background", "false_alarms"],
        Row(
            "Small objects",
            "Where chips without objects come from: drawn from the background or, after a third of the"
            " epochs, where the model detects objects that are not there; `sniper` only.",
            azure="background",
        ),
    ]
    min_box_visibility: Annotated[
        Fraction,
        Row(
            "Small objects",
            "Boxes of which a view shows a smaller share of the area are ignored: neither object nor"
            " background.",
            azure=0.4,
        ),
    ]

    small_object_loss_factor: Annotated[
        Annotated[float, Field(gt=0, le=10)],
        Row(
            "Small objects",
            "How often the overlap of a small object's box counts in its loss ([size-weighted"
            " loss](small_objects.md#size-weighted-box-loss)); 1: as that of others.",
            azure=1.0,
            tuning=Tuning("Linear", 0.5, 3),
        ),
    ]
    size_loss_exponent: Annotated[
        Annotated[float, Field(ge=-2, le=2)],
        Row(
            "Small objects",
            "Weigh the loss of a box by (mean area / its area) to this power, within a third and three; 0: "
            "not.",
            azure=0.0,
            tuning=Tuning("Linear", -0.5, 0.5),
        ),
    ]
    assignment: Annotated[
        Literal["default", "nwd", "rfla"],
        Row(
            "Small objects",
            "Which priors learn which object: as the model's paper has it; by the Wasserstein distance of "
            "box and anchor ($nwd_models); or by receptive fields ($rfla_models).",
            azure="default",
        ),
    ]
    distillation_maps: Annotated[
        Literal["neck", "logits"],
        Row(
            "Small objects",
            "What a student learns of the models in channel `teacher`: the feature maps that the heads "
            "look at, or the logits of the classes on them ([distillation](small_objects.md#distillation)).",
            azure="neck",
        ),
    ]
    distillation_temperature: Annotated[
        Positive,
        Row(
            "Small objects",
            "Maps are divided by it before they become distributions; channel `teacher` only.",
            azure=1.0,
            tuning=Tuning("Logarithmic", 0.5, 8),
        ),
    ]
    distillation_weight: Annotated[
        Positive,
        Row(
            "Small objects",
            "Weight of the loss; channel `teacher` only.",
            azure=5.0,
            tuning=Tuning("Logarithmic", 0.5, 50),
        ),
    ]
    copy_paste: Annotated[
        Flag,
        Row(
            "Small objects",
            "Each image with small objects comes once more in an epoch, and each of these objects is pasted"
            " into it at a free place ([copy-paste](small_objects.md#copy-paste-of-small-objects)).",
            azure=False,
        ),
    ]
    copy_paste_repeats: Annotated[
        Few,
        Row(
            "Small objects",
            "How often such an image comes once more; `copy_paste` only.",
            azure=1,
            tuning=Tuning("Linear", 1, 3),
        ),
    ]
    copy_paste_times: Annotated[
        Few,
        Row(
            "Small objects",
            "How often each of its small objects is pasted; `copy_paste` only.",
            azure=1,
            tuning=Tuning("Linear", 1, 3),
        ),
    ]
    copy_paste_max_size: Annotated[
        ObjectSize,
        Row(
            "Small objects",
            "Objects below this √area, in pixels of the image, are small. `auto`: 32, or the smallest third"
            " where under a tenth are below 32; `copy_paste` only.",
            azure=32.0,
        ),
    ]
    copy_paste_source: Annotated[
        Literal["image", "any"],
        Row(
            "Small objects",
            "Where pasted objects come from: the same `image`, or `any` of the training images;"
            " `copy_paste` only.",
            azure="image",
        ),
    ]
    copy_paste_balance: Annotated[
        Flag,
        Row(
            "Small objects",
            "Paste objects of all classes alike, so that rare ones come more often; `copy_paste` only.",
            azure=False,
        ),
    ]

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


ROWS: dict[str, Row] = {
    name: entry
    for name, field in Hyperparameters.model_fields.items()
    for entry in field.metadata
    if isinstance(entry, Row)
}
