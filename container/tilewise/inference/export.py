"""A detector as a graph of fixed operations: one view in, candidates out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from tilewise.inference.graph import INPUT, OUTPUTS
from tilewise.models.detector import BatchImages, Detector
from tilewise.views.view import Scaling

OPSET = 17


class ViewNetwork(nn.Module):
    """What a graph holds: normalisation, padding, network, decoding of boxes and the choice of the best.

    Suppression is left to :func:`tilewise.suppression.suppress`.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector
        self.eval()

    def forward(self, view_HW3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB -> (K, 4) boxes in the view's pixels, (K,) scores and (K,) labels."""
        transform = self.detector.transform
        assert isinstance(transform, BatchImages)
        batch = (view_HW3.permute(2, 0, 1) - transform.mean).div(transform.std)[None]
        height, width = batch.shape[2:]
        if transform.divisor > 1:
            batch = F.pad(batch, (0, -width % transform.divisor, 0, -height % transform.divisor))
        # as in training; a graph's runtime chooses its own
        batch = batch.contiguous(memory_format=torch.channels_last)
        outputs = self.detector.outputs(ImageList(batch, [(height, width)]))
        boxes, scores, labels = self.detector.postprocess(outputs, [(height, width)])
        return boxes[0], scores[0], labels[0]


def trace(detector: Detector, scaling: Scaling) -> torch.jit.ScriptModule:
    """The detector's graph in PyTorch's own form, with its weights folded in; on the CPU."""
    with torch.no_grad(), _without_warnings():
        traced = torch.jit.trace(ViewNetwork(detector), (_example(scaling),), check_trace=False)
        return torch.jit.freeze(traced)


def write_onnx(detector: Detector, scaling: Scaling, path: Path) -> None:
    """Write the detector's graph as ONNX; for views of any size, unless all of its views are squares."""
    axes = {name: {0: "candidates"} for name in OUTPUTS}
    if scaling.square is None:
        axes[INPUT] = {0: "height", 1: "width"}
    with torch.no_grad(), _without_warnings():
        torch.onnx.export(
            ViewNetwork(detector),
            (_example(scaling),),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _example(scaling: Scaling) -> Tensor:
    """A view to trace with; where sizes differ, one that needs padding on both sides."""
    width, height = scaling.size_of(4, 3)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The tracer warns of every size that Python looks at, and of its own age; parity is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
