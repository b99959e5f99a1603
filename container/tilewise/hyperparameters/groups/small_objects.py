from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row, Tuning
from tilewise.hyperparameters.values import (
    Count,
    Few,
    Flag,
    Fraction,
    Grid,
    MergeName,
    ObjectSize,
    Overlap,
    Positive,
    Ranges,
    Scales,
    TTAName,
)


class SmallObjectsHyperparameters(BaseModel, defer_build=True):
    """Tiles, pyramids and chips; losses, distillation and copy-paste for small objects."""

    training_views: Annotated[
        Literal["whole", "grid", "fixed", "snip", "sniper"] | None,
        Row(
            "What training looks at: whole images; these and the tiles of a `grid`, or tiles of a `fixed`"
            " size; all windows of an image pyramid (`snip`); or chips that cover the objects (`sniper`).",
            azure=None,
            unset="`grid` with `tile_grid_size`, `fixed` with `tile_size`, else `whole`",
        ),
    ]
    tile_grid_size: Annotated[
        Grid,
        Row(
            "Look at images in a grid of overlapping tiles, and as a whole. `auto` chooses it from the data;"
            " `none` has no tiles, also of a model whose default is `auto`. With `training_views=whole` only"
            " validation and serving have them.",
            azure=None,
        ),
    ]
    tile_size: Annotated[
        Count | None,
        Row(
            "Look at images as a whole and in square tiles with sides of this many pixels of the image.",
            azure=None,
            unset="none; with `training_views=fixed` from the data",
        ),
    ]
    smallest_object: Annotated[
        Positive | None,
        Row(
            "From how many pixels of a view on (√area) the model resolves an object: tiles that are chosen"
            " from the data show three quarters of the objects so large.",
            azure=None,
            unset="24 for Faster and Mask R-CNN with a ResNet and with `stride_4_level`, else 32; with"
            " `minutes`, as little as half of what tiles can show where too few epochs would fit",
        ),
    ]
    tile_overlap_ratio: Annotated[
        Overlap,
        Row(
            "Overlap of neighbouring tiles, as a share of a tile; `tile_grid_size=auto` chooses it where it"
            " is not given.",
            azure=0.25,
        ),
    ]
    tile_merge: Annotated[
        MergeName,
        Row(
            "How boxes of several views become one: `nms` as Azure AutoML; `fragment` also absorbs what a"
            " tile's border cuts off; `wbf` also averages the boxes.",
            azure="fragment",
        ),
    ]
    tile_predictions_nms_threshold: Annotated[
        Fraction,
        Row("IoU above which boxes of two views are one object.", azure=0.25),
    ]
    tta: Annotated[
        TTAName,
        Row(
            "`mirror`: validation and endpoint look at each view mirrored, too, and merge what both show"
            " ([in twice the time](small_objects.md#mirrored-views)).",
            azure="none",
        ),
    ]
    chip_size: Annotated[
        Count | None,
        Row(
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
            "Zooms of the image pyramid: 1 is the whole image, below 1 it lies in a frame; `snip` and"
            " `sniper` only.",
            azure=(),
            unset="from the data",
        ),
    ]
    pyramid_ranges: Annotated[
        Ranges,
        Row(
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
            "Tiles or chips without objects for each view with some; each epoch draws others.",
            azure=0.33,
        ),
    ]
    negative_views: Annotated[
        Literal["background", "false_alarms"],
        Row(
            "Where chips without objects come from: drawn from the background or, after a third of the"
            " epochs, where the model detects objects that are not there; `sniper` only.",
            azure="background",
        ),
    ]
    min_box_visibility: Annotated[
        Fraction,
        Row(
            "Boxes of which a view shows a smaller share of the area are ignored: neither object nor"
            " background.",
            azure=0.4,
        ),
    ]
    small_object_loss_factor: Annotated[
        Annotated[float, Field(gt=0, le=10)],
        Row(
            "How often the overlap of a small object's box counts in its loss ([size-weighted"
            " loss](small_objects.md#size-weighted-box-loss)); 1: as that of others.",
            azure=1.0,
            tuning=Tuning("Linear", 0.5, 3),
        ),
    ]
    size_loss_exponent: Annotated[
        Annotated[float, Field(ge=-2, le=2)],
        Row(
            "Weigh the loss of a box by (mean area / its area) to this power, within a third and three; 0: "
            "not.",
            azure=0.0,
            tuning=Tuning("Linear", -0.5, 0.5),
        ),
    ]
    assignment: Annotated[
        Literal["default", "nwd", "rfla"],
        Row(
            "Which priors learn which object: as the model's paper has it; by the Wasserstein distance of "
            "box and anchor ($nwd_models); or by receptive fields ($rfla_models).",
            azure="default",
        ),
    ]
    distillation_maps: Annotated[
        Literal["neck", "logits"],
        Row(
            "What a student learns of the models in channel `teacher`: the feature maps that the heads "
            "look at, or the logits of the classes on them ([distillation](small_objects.md#distillation)).",
            azure="neck",
        ),
    ]
    distillation_temperature: Annotated[
        Positive,
        Row(
            "Maps are divided by it before they become distributions; channel `teacher` only.",
            azure=1.0,
            tuning=Tuning("Logarithmic", 0.5, 8),
        ),
    ]
    distillation_weight: Annotated[
        Positive,
        Row(
            "Weight of the loss; channel `teacher` only.",
            azure=5.0,
            tuning=Tuning("Logarithmic", 0.5, 50),
        ),
    ]
    copy_paste: Annotated[
        Flag,
        Row(
            "Each image with small objects comes once more in an epoch, and each of these objects is pasted"
            " into it at a free place ([copy-paste](small_objects.md#copy-paste-of-small-objects)).",
            azure=False,
        ),
    ]
    copy_paste_repeats: Annotated[
        Few,
        Row(
            "How often such an image comes once more; `copy_paste` only.",
            azure=1,
            tuning=Tuning("Linear", 1, 3),
        ),
    ]
    copy_paste_times: Annotated[
        Few,
        Row(
            "How often each of its small objects is pasted; `copy_paste` only.",
            azure=1,
            tuning=Tuning("Linear", 1, 3),
        ),
    ]
    copy_paste_max_size: Annotated[
        ObjectSize,
        Row(
            "Objects below this √area, in pixels of the image, are small. `auto`: 32, or the smallest third"
            " where under a tenth are below 32; `copy_paste` only.",
            azure=32.0,
        ),
    ]
    copy_paste_source: Annotated[
        Literal["image", "any"],
        Row(
            "Where pasted objects come from: the same `image`, or `any` of the training images;"
            " `copy_paste` only.",
            azure="image",
        ),
    ]
    copy_paste_balance: Annotated[
        Flag,
        Row(
            "Paste objects of all classes alike, so that rare ones come more often; `copy_paste` only.",
            azure=False,
        ),
    ]
