"""A model as a graph of fixed operations: one view in; candidates out, or the scores of classes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from tilewise.inference.artifact import Artifact, write_file
from tilewise.inference.description import ModelDescription
from tilewise.inference.graph import INPUT, OUTPUTS, SCORES
from tilewise.inference.timing import milliseconds
from tilewise.models.classifier import Classifier, of_squares
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.detector import BatchImages, Detector
from tilewise.models.spec import DetectorSpec
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)

OPSET = 17
TOLERANCE = 1e-3
"""By so much scores may differ from PyTorch's."""
GraphModel = Detector | Classifier
"""The models that there are graphs of."""


class ViewNetwork(nn.Module):
    """What a graph holds: normalisation, padding, network, decoding of boxes and the choice of the best.

    Suppression is left to :func:`tilewise.suppression.suppress`. A classifier's holds what makes its scores.
    """

    def __init__(self, model: GraphModel):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, view_HW3: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB -> (K, 4) boxes in the view's pixels, (K,) scores, (K,) labels; and what masks take.

        Of a classifier (C,) scores.
        """
        transform = self.model.transform
        assert isinstance(transform, BatchImages)
        batch = (view_HW3.permute(2, 0, 1) - transform.mean).div(transform.std)[None]
        height, width = batch.shape[2:]
        if transform.divisor > 1:
            batch = F.pad(batch, (0, -width % transform.divisor, 0, -height % transform.divisor))
        # as in training; a graph's runtime chooses its own
        batch = batch.contiguous(memory_format=torch.channels_last)
        outputs: Any = self.model.outputs(ImageList(batch, [(height, width)]))
        return tuple(each[0] for each in self.model.graph_values(outputs, [(height, width)]))


def trace(model: GraphModel, scaling: Scaling) -> torch.jit.ScriptModule:
    """The model's graph in PyTorch's own form, with its weights folded in; on the CPU."""
    with torch.no_grad(), _without_warnings():
        traced = torch.jit.trace(ViewNetwork(model), (_example(scaling),), check_trace=False)
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
        return frozen


def write_onnx(model: GraphModel, scaling: Scaling, path: Path) -> None:
    """Write the model's graph as ONNX; for views of any size, unless all of its views are squares."""
    names = (*OUTPUTS, *model.graph_fields) if isinstance(model, Detector) else (SCORES,)
    axes = {name: {0: "candidates"} for name in names if len(names) > 1 and name != "prototypes"}
    if scaling.square is None:
        axes[INPUT] = {0: "height", 1: "width"}
    of_one_size = of_squares(model, scaling.square or 0) if isinstance(model, Classifier) else nullcontext()
    with torch.no_grad(), _without_warnings(), of_one_size:
        torch.onnx.export(
            ViewNetwork(model),
            (_example(scaling),),
            str(path),
            input_names=[INPUT],
            output_names=list(names),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def frozen_if_faster(model: GraphModel, scaling: Scaling) -> tuple[torch.jit.ScriptModule | None, str]:
    """The model traced and frozen, if it then says the same in less time; and how to call what runs."""
    view = _example(scaling)
    with torch.inference_mode():
        try:
            graph = trace(model, scaling)
            difference = _difference(graph(view), ViewNetwork(model)(view))
        except RuntimeError as error:  # whatever the tracer cannot do
            return None, f"eager PyTorch, as it cannot be traced ({str(error).splitlines()[0]})"
        if difference > TOLERANCE:
            return None, f"eager PyTorch, as scores of the frozen one differ by {difference:.1g}"
        image = view.permute(2, 0, 1)
        frozen, eager = milliseconds(lambda: graph(view)), milliseconds(lambda: _eager(model, image))
    times = f"{frozen:.0f} ms a view; eager {eager:.0f} ms"
    return (
        (graph, f"frozen PyTorch ({times})") if frozen < eager else (None, f"eager PyTorch (frozen {times})")
    )


def add_graph(folder: Path, *, even_if_slower: bool = False) -> None:
    """Put the graph of the model in a folder beside its weights, if it says the same and is the faster.

    Args:
        folder: of the model.
        even_if_slower: keep it also where PyTorch is faster, for an endpoint that has no PyTorch. Models that
            are ``slow_as_graph`` are not even tried without it: that took a minute and some GiB.

    Raises:
        UserError: the folder holds no model that can be used.

    """
    artifact = Artifact.load(folder)
    model, scaling = artifact.model, artifact.spec.scaling
    if not isinstance(model, GraphModel):
        log.info("the model has no graph for ONNX Runtime: none is made of models for task=%s", artifact.task)
        return
    if model.slow_as_graph and not even_if_slower:
        log.info(
            "the model has no graph: ONNX Runtime takes several times as long with two stages (for an "
            "endpoint without PyTorch tilewise export --even-if-slower makes one)"
        )
        return
    description = ModelDescription.read(folder)
    path = description.folder / description.graph
    write_file(path, lambda temporary: write_onnx(model, scaling, temporary))
    refusal = _why_not_kept(path, model, artifact.spec, even_if_slower=even_if_slower)
    if refusal:
        path.unlink()
        log.info("the model has no graph for ONNX Runtime: %s", refusal)


def _why_not_kept(
    path: Path, model: GraphModel, spec: DetectorSpec | ClassifierSpec, *, even_if_slower: bool
) -> str:
    """Why a graph is not to be used; empty where it is."""
    from tilewise.inference.onnx_backend import OnnxBackend

    backend = OnnxBackend(path, spec.limits(), torch.get_num_threads())
    view = _example(spec.scaling)
    image = view.permute(2, 0, 1)
    with torch.inference_mode():
        expected = ViewNetwork(model)(view)
        found = tuple(map(torch.from_numpy, backend.values(image.numpy())))
        difference = _difference(found, expected)
        if difference > TOLERANCE:
            return f"its scores differ by {difference:.1g}"
        graph = milliseconds(lambda: backend.values(image.numpy()))
        eager = milliseconds(lambda: _eager(model, image))
    times = f"{graph:.0f} ms a view on {torch.get_num_threads()} threads, PyTorch {eager:.0f} ms"
    if graph > eager and not even_if_slower:
        return f"it would take {times}"
    log.info("%s holds the model as a graph for ONNX Runtime: %s", path.name, times)
    return ""


def _eager(model: GraphModel, image: Tensor) -> Any:
    """What a graph says of a view, in PyTorch as in training."""
    return model.candidates([image]) if isinstance(model, Detector) else model.results([image])


def _difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """By how much the best scores differ; boxes of equal scores may come in any order."""
    if len(found) == 1:
        return float((found[0] - expected[0]).abs().max())
    best, other = (each[1].sort(descending=True).values[:100] for each in (found, expected))
    return float((best - other).abs().max()) if len(best) == len(other) else float("inf")


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
