from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row, Tuning
from tilewise.hyperparameters.values import AdvancedSettings, BatchSize, Count, Decay, Flag, Positive


class TrainingHyperparameters(BaseModel, defer_build=True):
    """How long, in which batches and with which numbers a model is trained."""

    number_of_epochs: Annotated[
        Count,
        Row("Passes over the training data.", azure=15, builtin=30, alias="epochs"),
    ]
    minutes: Annotated[
        Positive | None,
        Row(
            "In place of `number_of_epochs`: about how long to train. Plans the epochs by the speed that is"
            " measured at the start, and anew where the steps show another; where whole epochs would leave"
            " more than a twentieth of the time, each is cut to its first batches. Sets"
            " `evaluation_frequency` (for five validations) and the warm-up (a twelfth), too.",
            azure=None,
        ),
    ]
    training_batch_size: Annotated[
        BatchSize,
        Row(
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
            "Images at a time in validation, for each GPU or machine as in training.",
            azure=1,
            builtin=None,
            unset="as in training",
        ),
    ]
    gradient_accumulation_step: Annotated[
        Count, Row("Batches whose gradients are added up for one update.", azure=1)
    ]
    deterministic: Annotated[
        Flag,
        Row(
            "Give the same weights in each run on the same machine, by slower operations (GPU).",
            azure=False,
        ),
    ]
    kv_store: Annotated[
        Literal["dist_sync", "dist_async"] | None,
        Row(
            "Accepted; training is always synchronous.",
            azure=None,
            builtin="dist_sync",
            alias="kv_store",
        ),
    ]
    distributed: Annotated[
        Flag | None,
        Row("Accepted; all GPUs of all hosts train.", azure=None),
    ]
    advanced_settings: Annotated[
        AdvancedSettings,
        Row(
            "`apply_automl_train_augmentations=false` is `random_windows=0`, `apply_mosaic_for_yolo=true`"
            " is `mosaic=1` for YOLO models. `stream_image_files` is accepted: input mode FastFile streams.",
            azure=None,
        ),
    ]
    ema_decay: Annotated[
        Decay,
        Row(
            "Validate and keep a moving average of the weights, of which each step keeps this share, but"
            " in n steps at most n / (n + 20): the last twentieth of them. 0: the weights themselves.",
            azure=0.0,
        ),
    ]
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Row(
            "Numbers of the convolutions in training. `auto`: what the device is fast with"
            " ([instances](instances.md#precision)). Validation and serving are always in fp32.",
            azure="auto",
        ),
    ]
    compile: Annotated[
        Flag,
        Row(
            "Compile the convolutions (`torch.compile`): models with `image_size`, without `multi_scale`."
            " Needs a C++ compiler and Python's headers, and on a GPU Triton: the image has no compiler.",
            azure=False,
        ),
    ]
