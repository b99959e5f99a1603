"""Make the graph of a model: for its endpoint, or for use without Tilewise."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewise.errors import UserError
from tilewise.inference.description import ModelDescription

if TYPE_CHECKING:
    from tilewise.data.read import Channel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``export``."""
    parser.add_argument("model", type=Path, help="folder of an unpacked model.tar.gz")
    parser.add_argument(
        "--to",
        choices=("onnx", "openvino", "torchscript"),
        help="write a folder of its own: the graph, labels.json, facts.json, and for onnx an example; "
        "without it the graph is put beside the model's weights, where an endpoint without a GPU finds it",
    )
    parser.add_argument("--out", type=Path, help="that folder (default: MODEL-FORMAT)")
    parser.add_argument(
        "--even-if-slower",
        action="store_true",
        help="without --to: keep the graph also where PyTorch is faster, for the image without PyTorch",
    )
    quantised = parser.add_argument_group(
        "8 bits", "convolutions in 8 bits, by ranges that images show; the loss of AP is printed (--to onnx)"
    )
    quantised.add_argument("--int8", action="store_true", help="write them so")
    quantised.add_argument(
        "--images", type=Path, help="a folder of annotated images, such as the validation's"
    )
    quantised.add_argument(
        "--annotations", type=Path, help="their folder, or a COCO file, where not in there"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the graph."""
    # Imported here: to print the help takes no PyTorch.
    from tilewise.inference.artifact import Artifact
    from tilewise.inference.export import GraphModel, add_graph
    from tilewise.inference.package import write_package
    from tilewise.models.detector import Detector

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.int8 and (arguments.to != "onnx" or not arguments.images):
        raise UserError("--int8 goes with --to onnx and --images, which says on what it is calibrated")
    if arguments.to is None:
        if arguments.out:
            raise UserError("--out goes with --to: without it the graph is put beside the model's weights")
        add_graph(arguments.model, even_if_slower=arguments.even_if_slower)
        _say_what_is_left(arguments.model)
        return
    if arguments.even_if_slower:
        raise UserError("--even-if-slower goes without --to, which always writes the graph")
    out = arguments.out or arguments.model.with_name(f"{arguments.model.resolve().name}-{arguments.to}")
    artifact = Artifact.load(arguments.model)
    if not isinstance(artifact.model, GraphModel):
        raise UserError(f"{arguments.model} is a model for task={artifact.task}, of which no graph is made")
    if arguments.int8 and not isinstance(artifact.model, Detector):
        raise UserError(f"--int8: {arguments.model} is a model for task={artifact.task}, not a detector")
    channel = None
    if arguments.int8:
        from tilewise.data.read import read_channel  # what is exported in floats needs none

        channel = read_channel(arguments.images, arguments.annotations, classes=artifact.classes)
    write_package(artifact, arguments.to, out)
    if channel:
        _quantise(artifact, out / "model.onnx", channel)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    _say_what_is_left(arguments.model)


def _say_what_is_left(folder: Path) -> None:
    """A detector's graph finds objects, and says nothing of the classes of a second stage."""
    classifier = ModelDescription.read(folder).classifier
    if classifier is not None:
        print(
            "this is the detector alone: what classifies its objects is a model of its own, so export "
            f"{folder / str(classifier.get('model', ''))}, too"
        )


def _quantise(artifact: Any, path: Path, channel: Channel) -> None:
    from tilewise.data.decoding.decode import decode_reduced
    from tilewise.evaluation.evaluate import evaluate
    from tilewise.inference.int8 import quantise
    from tilewise.inference.onnx_backend import OnnxBackend
    from tilewise.inference.predictor import Predictor
    from tilewise.inference.view_plan import ViewPlan
    from tilewise.registry import find_task

    spec = artifact.spec
    plan, limits = ViewPlan(spec.scaling, spec.tiling, spec.rendering), spec.limits()
    merge = find_task(artifact.task)().merger(spec)

    def score() -> float:
        predictor = Predictor(OnnxBackend(path, limits), plan, artifact.classes, merge=merge)
        figures = evaluate(predictor, channel.records, channel.issues)
        return float(figures["AP"] or 0.0) if figures else 0.0

    before = score()
    decoded = (
        decode_reduced(record.source, plan.reduction, rendering=plan.rendering) for record in channel.records
    )
    quantise(path, plan, decoded)
    after = score()
    print(f"AP of {len(channel.records)} images: {before:.4f}, in 8 bits {after:.4f}: {after - before:+.4f}")
