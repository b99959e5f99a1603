from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import GuidedBackprop, GuidedGradCam, IntegratedGradients
from torch import Tensor, nn

from tilewise.arrays import Array, Float32
from tilewise.inference.artifact import Artifact
from tilewise.inference.device import best_device
from tilewise.tasks.classification.xai_parameters import Parameters
from tilewise.views.view import whole_image

_AT_ONCE = 8
"""Steps of a path that go through the network together."""


class _FromPixels(nn.Module):
    """(B, 3, H, W) float pixels from 0 to 255 -> (B, C) logits; tells of each batch."""

    def __init__(self, model: Any):
        super().__init__()
        self.network, self.transform = model.network, model.transform
        self.pulse: Callable[[], None] = lambda: None

    def forward(self, pixels: Tensor) -> Tensor:
        self.pulse()
        normalised = (pixels - self.transform.mean) / self.transform.std
        logits: Tensor = self.network(normalised).logits
        return logits


class Gradients:
    """A classifier in PyTorch, and what its gradients say of an image.

    Args:
        folder: of the model.

    Attributes:
        several: whether an image has any number of classes.

    """

    def __init__(self, folder: Path):
        artifact = Artifact.load(folder)
        self.several: bool = artifact.spec.several
        self._scaling = artifact.spec.scaling
        self._model = artifact.model.to(best_device())
        self._network = _FromPixels(self._model).eval()
        for module in self._network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # hooks look at what comes in and what goes out

    def look(self, pixels: Array, threshold: float) -> tuple[Array, list[int]]:
        """The part of an image that is seen, (3, side, side) uint8, and the labels to explain."""
        (view,) = whole_image(pixels.shape[2], pixels.shape[1], self._scaling)
        crop: Array = view.pixels_from_image(pixels)
        with torch.inference_mode():
            (scores,) = self._model.detect([torch.from_numpy(crop).to(best_device())])
        if self.several:
            return crop, np.flatnonzero(scores >= threshold).tolist()
        return crop, [int(scores.argmax())]

    def attribute(
        self, crop: Array, label: int, parameters: Parameters, pulse: Callable[[], None]
    ) -> Float32:
        """How much each pixel counts for a class: (3, side, side), of XRAI (side, side)."""
        self._network.pulse = pulse
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum tells of every hook that it sets
            if parameters.xai_algorithm == "xrai":
                return self._xrai(crop, label, parameters)
            inputs = torch.from_numpy(crop)[None].to(best_device(), torch.float32).requires_grad_()
            match parameters.xai_algorithm:
                case "integrated_gradients":
                    values = IntegratedGradients(self._network).attribute(
                        inputs,
                        target=label,
                        n_steps=parameters.n_steps,
                        method=parameters.approximation_method,
                        internal_batch_size=_AT_ONCE,
                    )
                case "guided_gradcam":
                    method = GuidedGradCam(self._network, self._network.network.body.layer4)
                    values = method.attribute(inputs, target=label, interpolate_mode="bilinear")
                case _:
                    values = GuidedBackprop(self._network).attribute(inputs, target=label)
        found: Float32 = values[0].detach().cpu().numpy().astype(np.float32)
        return found

    def _xrai(self, crop: Array, label: int, parameters: Parameters) -> Float32:
        from saliency.core import INPUT_OUTPUT_GRADIENTS, XRAI, XRAIParameters

        def call(values: Any, call_model_args: Any = None, expected_keys: Any = None) -> dict[str, Array]:
            batch = np.moveaxis(np.asarray(values, np.float32), 3, 1)
            inputs = torch.from_numpy(np.ascontiguousarray(batch)).to(best_device()).requires_grad_()
            (gradients,) = torch.autograd.grad(self._network(inputs)[:, label].sum(), inputs)
            return {INPUT_OUTPUT_GRADIENTS: np.moveaxis(gradients.cpu().numpy(), 1, 3)}

        image = np.moveaxis(crop, 0, 2).astype(np.float32)
        if image.min() == image.max():  # one colour has no segments
            return np.zeros(image.shape[:2], np.float32)
        found = XRAI().GetMask(
            image,
            call,
            batch_size=_AT_ONCE,
            extra_parameters=XRAIParameters(
                steps=parameters.n_steps, algorithm="fast" if parameters.xrai_fast else "full"
            ),
        )
        return np.asarray(found, np.float32).reshape(image.shape[:2])
