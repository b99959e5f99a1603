"""What cannot change where a run is resumed."""

from __future__ import annotations

FIXED = (
    "task",
    "model_name",
    "image_size",
    "min_size",
    "max_size",
    "stride_4_level",
    "layers_to_freeze",
    "freeze_layer_pattern",
    "optimizer",
    "momentum",
    "backbone_learning_rate_factor",
    "ams_gradient",
    "box_score_threshold",
    "nms_iou_threshold",
    "box_detections_per_image",
    "training_views",
    "tile_grid_size",
    "tile_size",
    "smallest_object",
    "tile_overlap_ratio",
    "tile_merge",
    "tile_predictions_nms_threshold",
    "pyramid_scales",
    "pyramid_ranges",
    "distillation_maps",
)
"""These make the model what it is, its views, and what the optimizer remembers: they cannot change."""
