"""A model for use without Tilewise: a graph, the classes, and what is to be done before and after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from tilewise.errors import UserError
from tilewise.inference.artifact import Artifact
from tilewise.inference.export import trace, write_onnx
from tilewise.inference.graph import INPUT, OUTPUTS, SCORES
from tilewise.models.classifier import Classifier
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.spec import DetectorSpec, SegmenterSpec
from tilewise.prototypes import MASK_SIDE, PLANES, PROTOTYPES, STRIDE
from tilewise.views.view import FILL

GraphFormat = Literal["onnx", "openvino", "torchscript"]
FORMATS: tuple[GraphFormat, ...] = get_args(GraphFormat)


def write_package(artifact: Artifact, graph_format: GraphFormat, folder: Path) -> None:
    """Write a model's graph, ``labels.json`` and ``facts.json``, and for ONNX an example that uses them.

    The example is ``detect.py``, of a classifier ``classify.py``, which takes what it needs from the other.

    Args:
        artifact: the model.
        graph_format: ``onnx``: ``model.onnx``. ``openvino``: ``model.xml`` and ``model.bin``.
            ``torchscript``: ``model.pt``.
        folder: where to; it may be there already.

    Raises:
        UserError: a package is not installed.

    """
    model, scaling = artifact.model, artifact.spec.scaling
    folder.mkdir(parents=True, exist_ok=True)
    if graph_format == "torchscript":
        trace(model, scaling).save(str(folder / "model.pt"))
    else:
        write_onnx(model, scaling, folder / "model.onnx")
    if graph_format == "openvino":
        _to_openvino(folder)
    if graph_format == "onnx":
        shutil.copyfile(Path(__file__).with_name("portable_example.py"), folder / "detect.py")
    if graph_format == "onnx" and isinstance(model, Classifier):
        shutil.copyfile(Path(__file__).with_name("portable_classifier.py"), folder / "classify.py")
    for name, content in (
        ("labels", list(artifact.classes)),
        ("facts", facts(artifact.spec, getattr(model, "graph_fields", ()))),
    ):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


_FIELDS = {
    "coefficients": f"(K, {PROTOTYPES + PLANES}) float32: how much each of the prototypes and then of the "
    "planes 1, u, v, 0.5 - u², 0.5 - v² (u and v from -1 to 1 over the box) counts in the mask, before a "
    "sigmoid",
    "prototypes": f"({PROTOTYPES}, h, w) float32: a pixel is {STRIDE} x {STRIDE} pixels of the view",
    "masks": f"(K, {MASK_SIDE}, {MASK_SIDE}) float32: from 0 to 1 in each cell of the box; of what "
    "suppression in the graph leaves, of which the last row, with the score 0, is nothing",
}


def facts(spec: DetectorSpec | ClassifierSpec, fields: Iterable[str] = ()) -> dict[str, Any]:
    """What is to be done before and after a graph, as plain JSON types; ``fields``: its own of masks."""
    side = spec.scaling.square
    shared = {
        "model": spec.name,
        "input": {"name": INPUT, "shape": [side, side, 3], "dtype": "uint8", "colours": "RGB"},
        "normalised": "in the graph",
        "scaled": "bilinear, antialiased, as Pillow does it: x, then y, each rounded to 8 bits; "
        "but an axis that shrinks before one that grows",
        "scaling": asdict(spec.scaling),
        "tiling": spec.tiling.to_json(),
        "fill": list(FILL),
        "bands": spec.rendering.bands,
    }
    if isinstance(spec, ClassifierSpec):
        return {
            **shared,
            "outputs": {SCORES: "(C,) float32: by index into labels.json"},
            "pooled": "the highest of the views' scores" if spec.several else "the mean of the views' scores",
        }
    return {
        **shared,
        "outputs": {
            OUTPUTS[0]: "(K, 4) float32: xmin, ymin, xmax, ymax in pixels of the view",
            OUTPUTS[1]: "(K,) float32",
            OUTPUTS[2]: "(K,) int64: index into labels.json",
            **{name: _FIELDS[name] for name in fields},
        },
        "score_threshold": spec.score_threshold,
        "nms_iou_threshold": spec.nms_iou_threshold,
        "detections_per_view": spec.detections_per_view,
        "detections_per_image": spec.detections_per_image,
        **({"mask_threshold": spec.mask_pixel_score_threshold} if isinstance(spec, SegmenterSpec) else {}),
        **({"prototype_stride": STRIDE} if "prototypes" in fields else {}),
    }


def _to_openvino(folder: Path) -> None:
    try:
        import openvino
    except ImportError:
        raise UserError("--to openvino needs the package openvino: pip install openvino") from None
    path = folder / "model.onnx"
    openvino.save_model(openvino.convert_model(path), folder / "model.xml", compress_to_fp16=False)
    path.unlink()
