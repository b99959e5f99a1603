"""Which pixels of an image speak for its class, with Azure AutoML's parameters.

Source: Azure Machine Learning, "Set up AutoML to train computer vision models", on explainability. The
methods are captum's (Sundararajan et al. 2017; Springenberg et al. 2014; Selvaraju et al. 2017) and, XRAI
(Kapishnikov et al. 2019), saliency's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewise.arrays import Array, Float32
from tilewise.errors import UserError
from tilewise.inference.description import ModelDescription
from tilewise.tasks.classification.xai_parameters import Parameters, read_parameters

if TYPE_CHECKING:  # it is loaded when the first image is to be explained
    from tilewise.tasks.classification.gradients import Gradients

_SHOWN = 0.3
"""The share of the pixels that the last picture of a sheet shows."""


def explain(
    description: ModelDescription, parameters: Parameters, pixels: Array, pulse: Callable[[], None]
) -> dict[str, Any]:
    """What speaks for the classes of an image: ``visualizations`` and ``attributions``, as they are wanted.

    Args:
        description: of the model.
        parameters: what is wanted.
        pixels: of the image, (3, H, W) uint8; the square in its middle is explained.
        pulse: called as it gets on.

    Returns:
        For the likeliest class; of several a list each, for those with the score that is asked for, in the
        order of the labels.

    """
    gradients = _loaded(description.folder, description.weights)
    crop, labels = gradients.look(pixels, parameters.confidence_score_threshold_multilabel)
    maps = [gradients.attribute(crop, label, parameters, pulse) for label in labels]
    found: dict[str, list[Any]] = {}
    if parameters.visualizations:
        found["visualizations"] = [_sheet(crop, values) for values in maps]
    if parameters.attributions:
        found["attributions"] = [values.tolist() for values in maps]
    return found if gradients.several else {name: values[0] for name, values in found.items()}


@lru_cache(maxsize=1)
def _loaded(folder: Path, weights: str) -> Gradients:
    """The model of that folder for as long as it has these weights: another one has another file's name."""
    from tilewise.tasks.classification.gradients import Gradients

    return Gradients(folder)


def explanation(
    folder: Path, asked: Mapping[str, Any]
) -> Callable[[Array, Callable[[], None]], dict[str, Any]]:
    """What explains the images of a request; see :class:`tilewise.tasks.answers.Explains`.

    Raises:
        UserError: the request is wrong, or PyTorch is not installed.

    """
    if find_spec("torch") is None:
        raise UserError("model_explainability needs PyTorch, which is not installed here")
    description = ModelDescription.read(folder)
    parameters = read_parameters(asked, description.spec.name)
    return lambda pixels, pulse: explain(description, parameters, pixels, pulse)


def _sheet(crop: Array, values: Float32) -> str:
    """Two rows of two pictures, a PNG as base64: the image, a heat map, both, and what counts most."""
    # Imported here: few requests ask for it.
    from matplotlib import colormaps
    from PIL import Image

    strength = np.abs(values).sum(axis=0) if values.ndim == 3 else values
    low, high = np.percentile(strength, [0, 99])
    share = ((strength - low) / max(high - low, 1e-12)).clip(0, 1)
    heat = (colormaps["inferno"](share)[..., :3] * 255).astype(np.uint8)
    image = np.moveaxis(crop, 0, 2)
    blend = (0.5 * image + 0.5 * heat).astype(np.uint8)
    best = np.where((strength >= np.quantile(strength, 1 - _SHOWN))[..., None], image, 0).astype(np.uint8)
    sheet = np.vstack([np.hstack([image, heat]), np.hstack([blend, best])])
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
