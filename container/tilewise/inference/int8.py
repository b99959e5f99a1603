"""Post-training quantisation: convolutions in 8 bits, with ranges that a model's own images have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tilewise.data.decoding.decode import DecodedImage
from tilewise.inference.graph import INPUT
from tilewise.inference.view_plan import ViewPlan

CALIBRATION_VIEWS = 200


def quantise(path: Path, plan: ViewPlan, images: Iterable[DecodedImage]) -> None:
    """Replace an ONNX graph by one whose convolutions compute in 8 bits.

    Args:
        path: the graph.
        plan: the views of an image.
        images: such as the model is to see: the first :data:`CALIBRATION_VIEWS` of their views tell how large
            the numbers in the graph become.

    """
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _Views(plan, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"ActivationSymmetric": False},
    )
    prepared.unlink()


class _Views:
    """The views of images one by one, as ONNX Runtime's CalibrationDataReader gives them."""

    def __init__(self, plan: ViewPlan, images: Iterable[DecodedImage]):
        self._views = self._all(plan, images)
        self._left = CALIBRATION_VIEWS

    def get_next(self) -> dict[str, Any] | None:
        """The next view; None after the last."""
        self._left -= 1
        view = next(self._views, None) if self._left >= 0 else None
        return None if view is None else {INPUT: np.ascontiguousarray(np.moveaxis(view, 0, 2))}

    @staticmethod
    def _all(plan: ViewPlan, images: Iterable[DecodedImage]) -> Any:
        for image in images:
            for view in plan.views(image.width, image.height):
                yield view.snapped(image.factor).pixels_from_image(image.pixels, image.factor)
